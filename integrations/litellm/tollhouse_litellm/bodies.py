"""Refuses what a request may not ask for, whatever its model is."""

from collections.abc import Iterator
from typing import Final

from tollhouse_litellm.denials import HttpError
from tollhouse_litellm.usage import Fields, fields_of

CHOICES_MAX: Final = 128
"""The most answers of one request: the maximum of `n` in CreateChatCompletionRequest of OpenAI's OpenAPI document."""
COUNTS: Final = ("n", "best_of")
"""The fields that say how many answers a request asks for."""
# With these a request names models that nobody has authorized, and fields that replace its own: `n`, or the mark of the
# call in its metadata, without which another model is charged than the one that answers.
_FALLBACKS: Final = (
    *("fallbacks", "context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks"),
)
# With these LiteLLM asks for another model or provider than the one that is charged, or sends other fields than those
# by which the call was authorized. Azure takes the model of `deployment_id`, Bedrock that of `model_id`, and OpenRouter
# one of `models`.
_REPLACING: Final = (
    *("extra_body", "additional_drop_params", "deployment_id", "model_id", "models", "custom_llm_provider", "azure"),
)


def error_of(request: Fields) -> HttpError | None:
    """Return why a request is refused, or None."""
    for body in _bodies(request):
        for name in COUNTS:
            if (count := body.get(name)) is not None and not _is_count(count):
                message = f"{name} must be a whole number from 1 to {CHOICES_MAX}."
                return HttpError(400, "invalid_request_error", f"{name}_out_of_range", message)
        if body.get("background"):
            message = "background is not open to keys of Tollhouse: an answer that comes later has no usage to charge."
            return HttpError(400, "invalid_request_error", "background_not_metered", message)
        for name in _FALLBACKS:
            if body.get(name):
                message = f"{name} is not open to keys of Tollhouse: the proxy's configuration names them."
                return HttpError(400, "invalid_request_error", "fallbacks_not_metered", message)
    for name in _REPLACING:
        if request.get(name):
            message = f"{name} is not open to keys of Tollhouse: it replaces what the call is authorized for."
            return HttpError(400, "invalid_request_error", f"{name}_not_metered", message)
    return None


def _bodies(request: Fields) -> Iterator[Fields]:
    """Return the request, and what LiteLLM takes for settings beside it."""
    yield request
    yield fields_of(request.get("router_settings_override"))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= CHOICES_MAX
