"""What LiteLLM's proxy calls: `custom_auth`, and the hooks of a callback.

One call of an end user passes these hooks, in LiteLLM 1.108:

    custom_auth                                 verify the key
    async_pre_call_hook                         authorize; a denial ends the call here
    async_pre_call_deployment_hook              before each try, with the deployment that is asked
    async_post_call_success_deployment_hook     a whole answer has come: settle, before the end user has it
    async_post_call_streaming_iterator_hook     a stream passes: settle at its end, before the end user sees the end
    async_post_call_success_hook                an answer from LiteLLM's own cache: no provider worked for it
    async_post_call_failure_hook                every try has failed: cancel

A route may pass several of them, and some twice: the first that says what was used counts.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.litellm_logging import Logging
from starlette.requests import Request

from tollhouse.metering.v1.admission_pb2 import AuthorizeRequest, AuthorizeResponse
from tollhouse_client.errors import Denied, TollhouseError
from tollhouse_litellm import estimate
from tollhouse_litellm.bodies import error_of
from tollhouse_litellm.calls import Call, OpenCalls, authorization, charged_model, in_other_unit, settlement
from tollhouse_litellm.denials import HttpError, http_error_of
from tollhouse_litellm.gateway import Gateway
from tollhouse_litellm.keys import Caller, address_of, caller_of, check_route
from tollhouse_litellm.refusals import Refusal
from tollhouse_litellm.streams import StreamReading
from tollhouse_litellm.usage import Fields, Used, fields_of, used_of_answer

_log: Final = logging.getLogger("tollhouse_litellm")
_CALL_TYPES: Final = frozenset(
    {
        *("acompletion", "completion", "atext_completion", "text_completion", "anthropic_messages"),
        *("aresponses", "responses", "aembedding", "embeddings", "rerank", "arerank"),
        *("image_generation", "aimage_generation", "aspeech", "audio_speech", "transcription", "atranscription"),
    }
)
_TEXT_COMPLETIONS: Final = frozenset({"atext_completion", "text_completion"})
_CLIENT_LEFT: Final = 499
_UPSTREAM_BROKE: Final = 502


class Tollhouse(CustomLogger):  # type: ignore[misc]  # LiteLLM has no types for us.
    """Meters and charges the calls of a proxy."""

    def __init__(self) -> None:
        super().__init__()
        self._open = OpenCalls()
        self._gateway: asyncio.Task[Gateway] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            asyncio.get_running_loop().call_soon(self._begin)
        except RuntimeError:
            pass  # LiteLLM has no loop yet: the first call connects.

    def _begin(self) -> "asyncio.Task[Gateway]":
        """Connect, and send what an earlier process could not. What fails is tried again with the next call."""
        if self._gateway is None or (self._gateway.done() and self._gateway.exception() is not None):
            self._gateway = asyncio.get_running_loop().create_task(Gateway.from_environment())
        return self._gateway

    async def _connected(self) -> Gateway:
        return await asyncio.shield(self._begin())

    async def authenticate(self, request: Request, api_key: str | None) -> Caller:
        """Be LiteLLM's `custom_auth`: let in whoever has a good key of Tollhouse. Without a key, LiteLLM gives None.

        Raises:
            Refusal: 401 or 403; 503 where identity cannot be reached.
        """
        from litellm.proxy.proxy_server import general_settings  # It imports this module's users.

        check_route(str(request.scope.get("method", "")), str(request.scope.get("path", "")))
        if not api_key:
            message = "There is no API key: send it as `Authorization: Bearer` and the key."
            raise Refusal(HttpError(401, "authentication_error", "key_missing", message))
        trusts_proxies = general_settings.get("use_x_forwarded_for") is True
        address = address_of(request, use_x_forwarded_for=trusts_proxies)
        key = api_key.removeprefix("Bearer ")
        try:
            answer = await (await self._connected()).verify(key, address)
        except TollhouseError as error:
            raise _refusal(error) from None
        return caller_of(answer).presented(key, address)

    async def async_pre_call_hook(
        self, user_api_key_dict: object, cache: object, data: dict[str, object], call_type: str
    ) -> dict[str, object]:
        """Authorize the call, or refuse it."""
        if call_type not in _CALL_TYPES:
            message = f"Calls of the kind {call_type} are not metered by Tollhouse, and so not open to its keys."
            raise Refusal(HttpError(403, "permission_error", "call_not_metered", message))
        requested = data.get("model")
        if not isinstance(requested, str) or not requested:
            raise Refusal(HttpError(400, "invalid_request_error", "model_missing", "The request names no model."))
        if (error := error_of(data)) is not None:
            raise Refusal(error)
        if not isinstance(user_api_key_dict, Caller):
            message = "This proxy has another custom_auth than Tollhouse's."
            raise Refusal(HttpError(401, "authentication_error", "key_not_found", message))
        request = authorization(
            user_api_key_dict.secret,
            _authorized_model(requested),
            data,
            call_type,
            endpoint=str(user_api_key_dict.request_route or ""),
            client_address=user_api_key_dict.address,
        )
        try:
            answer = await self._authorize(request, estimate.other_unit(data, call_type))
        except TollhouseError as failure:
            raise _refusal(failure) from None
        call = Call(
            operation_id=request.operation_id,
            organization_id=answer.principal.organization_id,
            requested_model=requested,
            model=request.model,
            request=data,
            litellm_call_id=str(data.get("litellm_call_id") or ""),
        )
        self._open.add(call, data)
        if call_type in _TEXT_COMPLETIONS and data.get("stream"):
            # Of other streams LiteLLM asks for the usage by itself. Its log has read the options already.
            data["stream_options"] = {**fields_of(data.get("stream_options")), "include_usage": True}
            if isinstance(log := data.get("litellm_logging_obj"), Logging):
                log.stream_options = data["stream_options"]
        return data

    async def _authorize(self, request: AuthorizeRequest, other: tuple[str, int] | None) -> AuthorizeResponse:
        """Authorize by another unit than tokens where the model has a price for it, else by tokens."""
        gateway = await self._connected()
        if other is not None:
            try:
                return await gateway.authorize(in_other_unit(request, *other))
            except Denied as denied:
                if denied.reason != "PRICE_UNKNOWN":
                    raise
        return await gateway.authorize(request)

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, object], call_type: object) -> None:
        """Note which deployment is asked: the last one is the one that answers."""
        call = self._open.find(kwargs)
        if call is not None and (info := fields_of(kwargs.get("model_info"))):
            call.tried(_group_of(kwargs), info, kwargs.get("model"))

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, object], response: object, call_type: object
    ) -> None:
        """Settle a whole answer. LiteLLM gives it to the end user after this."""
        call = self._open.find(request_data)
        if call is None:
            return
        used = used_of_answer(response, call.request)
        if not used.quantities:
            reading = StreamReading(call.request)
            reading.read(response)
            used = await asyncio.to_thread(_counted, call.request, reading, used.doubt or "The answer has no usage.")
        await self._settle(call, used)

    async def async_post_call_success_hook(
        self, data: dict[str, object], user_api_key_dict: object, response: object
    ) -> None:
        """Settle an answer that no deployment gave just now: it comes from LiteLLM's cache, and no tokens were used."""
        call = self._open.find(data)
        if call is not None:
            hidden = fields_of(getattr(response, "_hidden_params", None))
            await self._settle(call, Used() if hidden.get("cache_hit") else used_of_answer(response, call.request))

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, object],
        original_exception: Exception,
        user_api_key_dict: object,
        traceback_str: str | None = None,
    ) -> None:
        """Cancel a call that nobody answered. After a timeout a provider may have worked: such a call lapses."""
        call = self._open.find(request_data)
        if call is None or not self._open.end(call) or isinstance(original_exception, litellm.Timeout):
            return
        (await self._connected()).cancel(call.organization_id, call.operation_id)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: object, response: AsyncIterator[object], request_data: dict[str, object]
    ) -> AsyncIterator[object]:
        """Pass a stream on, and settle it at its end, or where it breaks."""
        call = self._open.find(request_data)
        if call is None:
            async for chunk in response:
                yield chunk
            return
        reading = StreamReading(call.request)
        try:
            async for chunk in response:
                reading.read(chunk)
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._settle_broken(call, reading, _CLIENT_LEFT, "The client went away.")
            raise
        except Exception as error:
            # Without a single piece nothing was used: the failure hook cancels.
            if reading.used is not None or reading.began is not None or reading.text:
                self._settle_broken(call, reading, _UPSTREAM_BROKE, f"The stream broke: {type(error).__name__}.")
            raise
        reading.end(response)
        if fields_of(getattr(response, "_hidden_params", None)).get("cache_hit"):
            await self._settle(call, Used())
        elif reading.used is not None:
            await self._settle(call, reading.used)
        else:
            used = await asyncio.to_thread(_counted, call.request, reading, "The stream has no usage.")
            await self._settle(call, used)

    async def _settle(
        self, call: Call, used: Used, *, partial: bool = False, status_code: int = 200, error_message: str = ""
    ) -> None:
        if not self._open.end(call):
            return
        if used.doubt:
            _log.warning("The usage of %s is charged by what is known of it: %s", call.operation_id, used.doubt)
        request = settlement(call, used, partial=partial, status_code=status_code, error_message=error_message)
        await (await self._connected()).settle(request)

    def _settle_broken(self, call: Call, reading: StreamReading, status_code: int, reason: str) -> None:
        """Settle what a broken stream has used. Nothing may be waited for here: the call is being cancelled."""
        task = asyncio.get_running_loop().create_task(self._settle_counted(call, reading, status_code, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle_counted(self, call: Call, reading: StreamReading, status_code: int, reason: str) -> None:
        used = reading.used
        if used is None:
            # Counting long texts takes time that other calls need; a thread has it.
            used = await asyncio.to_thread(_counted, call.request, reading, reason)
        partial = reading.used is None
        await self._settle(call, used, partial=partial, status_code=status_code, error_message=reason)


def _counted(request: Fields, reading: StreamReading, doubt: str) -> Used:
    """Count what a provider has not: with LiteLLM's tokenizers, which are those of the providers where it has them."""
    began = reading.began
    quantities = dict(began.quantities) if began is not None else {"input_tokens": str(_input_tokens(request))}
    beyond = estimate.written_tokens(reading.dropped_bytes)
    quantities["output_tokens"] = str(_tokens(request, text=reading.text) + beyond)
    return Used(quantities, began.service_tier if began is not None else "", doubt)


def _input_tokens(request: Fields) -> int:
    messages = request.get("messages")
    if isinstance(messages, list):
        return _tokens(request, messages=messages)
    given = request.get("input") or request.get("prompt")
    return _tokens(request, text=given) if isinstance(given, str) else estimate.input_tokens(request)


def _tokens(request: Fields, **what: object) -> int:
    if not any(what.values()):
        return 0
    try:
        return int(litellm.token_counter(model=str(request.get("model", "")), **what))
    except Exception:  # noqa: BLE001  # A tokenizer may fail on anything; what was used must be charged all the same.
        return estimate.input_tokens({"input": what.get("text"), "messages": what.get("messages")})


def _group_of(kwargs: Mapping[str, object]) -> object:
    for place in ("litellm_metadata", "metadata"):
        group = fields_of(kwargs.get(place)).get("model_group")
        if group:
            return group
    return None


def _authorized_model(requested: str) -> str:
    """Return Tollhouse's name of the model that a request asks for: of the first deployment under this name."""
    from litellm.proxy.proxy_server import llm_router  # Made after this module is imported.

    deployments = (llm_router.get_model_list(model_name=requested) if llm_router is not None else None) or []
    for deployment in deployments:
        return charged_model(requested, fields_of(deployment.get("model_info")))
    return requested


def _refusal(error: TollhouseError) -> Refusal:
    answer = http_error_of(error)
    if answer.status >= 500:
        _log.error("A call is refused because Tollhouse does not answer: %s", error)
    return Refusal(answer)


# What the proxy's configuration names.
callback: Final = Tollhouse()
custom_auth: Final = callback.authenticate
