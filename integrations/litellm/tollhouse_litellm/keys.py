"""Tollhouse's API keys as keys of the proxy: LiteLLM's `custom_auth`."""

import re
from typing import Final

from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.auth.auth_utils import get_request_ip_address
from pydantic import PrivateAttr
from starlette.requests import Request

from tollhouse_client.key_cache import KeyAnswer
from tollhouse_litellm.denials import HttpError, http_error_of_key
from tollhouse_litellm.refusals import Refusal

# The routes that are metered. LiteLLM has many more, which would do work for nothing.
_METERED: Final = (
    r"(/v1)?/(chat/completions|completions|embeddings|images/generations|audio/transcriptions|audio/speech|responses)"
)
_ROUTES: Final = re.compile(rf"{_METERED}|/v1/messages|(/v[12])?/rerank|/(engines|openai/deployments)/[^/]+{_METERED}")
# Read alone: with POST, LiteLLM takes Google's calls of a model at these paths.
_LISTS: Final = re.compile(r"(/v1)?/models(/.+)?")


class Caller(UserAPIKeyAuth):  # type: ignore[misc]  # LiteLLM has no types for us.
    """Who calls, as LiteLLM knows it. The key itself is kept out of everything that LiteLLM writes down."""

    _secret: str = PrivateAttr(default="")
    _address: str = PrivateAttr(default="")

    def presented(self, secret: str, address: str) -> "Caller":
        """Keep what the end user presented, for the authorization of the call."""
        self._secret, self._address = secret, address
        return self

    @property
    def secret(self) -> str:
        """The API key."""
        return self._secret

    @property
    def address(self) -> str:
        """The IP address that the call comes from; empty when it is not known."""
        return self._address


def check_route(method: str, path: str) -> None:
    """Let through what is metered, and the lists of models.

    Raises:
        Refusal: 403, for everything else.
    """
    if not _ROUTES.fullmatch(path) and not (method == "GET" and _LISTS.fullmatch(path)):
        message = f"{path[:200]} is not metered by Tollhouse, and so not open to its keys."
        raise Refusal(HttpError(403, "permission_error", "route_not_metered", message))


def address_of(request: Request, *, use_x_forwarded_for: bool) -> str:
    """Return the IP address of the end user. Of X-Forwarded-For it is the first, and only where LiteLLM trusts it."""
    found = get_request_ip_address(request, use_x_forwarded_for=use_x_forwarded_for) or ""
    return str(found).split(",")[0].strip()


def caller_of(answer: KeyAnswer) -> Caller:
    """Return who calls, by what identity says of the key.

    Raises:
        Refusal: 401, or 403 where the key is good, and not for this.
    """
    key = answer.key
    if key is None or not answer.is_valid:
        raise Refusal(http_error_of_key(answer.code))
    return Caller(
        # LiteLLM writes this into logs and metrics: the id of the key, not the key.
        api_key=key.api_key_id,
        org_id=key.organization_id,
        team_id=key.project_id or None,
        user_id=key.user_id or key.service_account_id or None,
        user_role="internal_user",
        metadata={
            "tollhouse_environment": "test" if key.is_test else "live",
            "tollhouse_external_id": key.external_id,
            "tollhouse_scopes": list(key.scopes),
        },
    )
