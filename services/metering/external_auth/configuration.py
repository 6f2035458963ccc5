"""The configuration that says how requests are authorized.

{
  "key_headers": ["authorization", "x-api-key"],
  "remove_key": true,
  "check_balance": true,
  "count_requests": false,
  "trusted_proxies": ["10.0.0.0/8"]
}
"""

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from libs.common.addresses import Network, parse_network
from services.metering.external_auth.domain import AUTHORIZATION, PREFIX
from services.metering.rate_limit.descriptors import problems_in

_HEADER: Final = re.compile("[a-z0-9][a-z0-9-]{0,63}")


class InvalidExternalAuth(Exception):
    """The configuration makes no sense; the text says where."""


class ExternalAuth(BaseModel):
    """The whole configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key_headers: tuple[str, ...] = Field(default=(AUTHORIZATION,), min_length=1, max_length=8)
    """The headers, in lower case, that may hold the API key; in `authorization` it follows the word Bearer."""
    remove_key: bool = True
    """Whether the header with the key is kept from whoever handles the request."""
    check_balance: bool = True
    """Whether a request needs money."""
    count_requests: bool = False
    """Whether a request that passes takes one of the limits on `requests`. Otherwise it is only looked whether they
    leave one."""
    trusted_proxies: tuple[str, ...] = Field(default=(), max_length=256)
    """The addresses and ranges of proxies before Envoy, whose `x-forwarded-for` is believed."""

    @field_validator("key_headers")
    @classmethod
    def _are_headers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if _HEADER.fullmatch(name) is None or name.startswith(PREFIX):
                raise ValueError(f"{name!r} is no header that may hold a key")
        if len(set(names)) < len(names):
            raise ValueError("a header is there twice")
        return names

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            parse_network(text)
        return texts

    @property
    def proxies(self) -> tuple[Network, ...]:
        return tuple(map(parse_network, self.trusted_proxies))


def read_external_auth(text: str) -> ExternalAuth:
    """Read the configuration from JSON.

    Raises:
        InvalidExternalAuth: it makes no sense.
    """
    try:
        return ExternalAuth.model_validate_json(text)
    except ValidationError as error:
        raise InvalidExternalAuth(problems_in(error)) from None
