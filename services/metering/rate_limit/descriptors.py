"""The configuration that says what Envoy's descriptors stand for, and what a descriptor becomes by it.

    {
      "unknown": "DENY",
      "rules": [
        {
          "domain": "edge",
          "entries": [
            {"key": "organization", "field": "organization_id"},
            {"key": "model", "field": "model"},
            {"key": "team", "field": "labels.team"},
            {"key": "generic_key", "value": "chat"}
          ],
          "metric": "requests"
        }
      ]
    }

The first rule of the domain with exactly the keys of a descriptor, and with the values that it demands, holds. A
descriptor is unknown where there is none, where the value of an id is no UUID, or where a value is too long.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from libs.common.ids import is_id
from services.metering.quota.domain import CONCURRENT_CALLS, REQUESTS, SPEND, Call

_LABELS: Final = "labels."
_ORGANIZATION: Final = "organization_id"
_NAMES: Final = ("model", "provider")
_IDS: Final = ("project_id", "user_id", "service_account_id", "api_key_id", "subscription_id")
_VALUE_MAX_CHARS: Final = 256
_LABEL_MAX_CHARS: Final = 64

Entries = Sequence[tuple[str, str]]
"""The keys of a descriptor with their values."""


class Unknown(StrEnum):
    """What becomes of a request with a descriptor that no rule is for."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class Described(NamedTuple):
    """What a descriptor stands for."""

    organization_id: str
    call: Call
    metric: str
    currency_code: str


class InvalidDescriptors(Exception):
    """The configuration makes no sense; the text says where."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Part):
    """One key of a descriptor."""

    key: str = Field(min_length=1, max_length=_VALUE_MAX_CHARS)
    field: str = ""
    """What the value is: `organization_id`, another field of a call, or `labels.` and the label's key. Empty: it only
    tells descriptors apart."""
    value: str | None = None
    """The value that the entry must have, where only one is meant."""

    @model_validator(mode="after")
    def _field_exists(self) -> Self:
        label = self.field.removeprefix(_LABELS)
        is_label = label != self.field and 1 <= len(label) <= _LABEL_MAX_CHARS
        if self.field and not is_label and self.field not in (_ORGANIZATION, *_IDS, *_NAMES):
            raise ValueError(f"{self.field} is no field of a call")
        return self


class Rule(_Part):
    """What the descriptors of a domain with certain keys stand for."""

    domain: str = Field(min_length=1, max_length=_VALUE_MAX_CHARS)
    entries: tuple[Entry, ...] = Field(min_length=1, max_length=32)
    organization_id: UUID | None = None
    """Whose limits hold, where no entry says so."""
    metric: str = Field(default=REQUESTS, pattern="^[a-z][a-z0-9_]{0,63}$")
    currency_code: str = Field(default="", pattern="^([A-Z][A-Z0-9]{1,11})?$")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if len({entry.key for entry in self.entries}) < len(self.entries):
            raise ValueError("a key is there twice")
        fields = [entry.field for entry in self.entries if entry.field]
        if len(set(fields)) < len(fields):
            raise ValueError("a field is there twice")
        if (self.organization_id is None) != (_ORGANIZATION in fields):
            raise ValueError("the organization must be said by an entry, or else by organization_id")
        if self.metric == CONCURRENT_CALLS:
            raise ValueError(f"{CONCURRENT_CALLS} cannot be taken, since Envoy does not say when a request has ended")
        if (self.metric == SPEND) != bool(self.currency_code):
            raise ValueError(f"{SPEND} needs a currency_code, and nothing else has one")
        return self

    def described(self, entries: Entries) -> Described | None:
        """Return what a descriptor stands for by this rule; None where the rule is not for it."""
        values = dict(entries)
        if len(values) < len(entries) or values.keys() != {entry.key for entry in self.entries}:
            return None
        fields = {_ORGANIZATION: "" if self.organization_id is None else str(self.organization_id)}
        labels: dict[str, str] = {}
        for entry in self.entries:
            value = values[entry.key]
            if len(value) > _VALUE_MAX_CHARS or entry.value not in (None, value):
                return None
            if entry.field in (_ORGANIZATION, *_IDS):
                value = value.lower()
                if not is_id(value):
                    return None
            if entry.field.startswith(_LABELS):
                labels[entry.field.removeprefix(_LABELS)] = value
            elif entry.field:
                fields[entry.field] = value
        organization_id = fields.pop(_ORGANIZATION)
        return Described(organization_id, Call(**fields, labels=labels), self.metric, self.currency_code)


class Descriptors(_Part):
    """The whole configuration."""

    unknown: Unknown
    rules: tuple[Rule, ...] = Field(max_length=10_000)

    def has(self, domain: str) -> bool:
        """Tell whether there is a rule for a domain."""
        return any(rule.domain == domain for rule in self.rules)

    def described(self, domain: str, entries: Entries) -> Described | None:
        """Return what a descriptor stands for; None where it is unknown."""
        found = (rule.described(entries) for rule in self.rules if rule.domain == domain)
        return next((one for one in found if one is not None), None)


def read_descriptors(text: str) -> Descriptors:
    """Read the configuration from JSON.

    Raises:
        InvalidDescriptors: it makes no sense.
    """
    try:
        return Descriptors.model_validate_json(text)
    except ValidationError as error:
        raise InvalidDescriptors(problems_in(error)) from None


def problems_in(error: ValidationError) -> str:
    """Return in one line what is wrong with a configuration, and where."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors())
