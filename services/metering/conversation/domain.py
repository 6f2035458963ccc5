"""Conversations and messages, and the rules that need nothing else."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.audit.chain import Changed, differences
from libs.common.ids import id_of_digest
from services.metering.model.units import TOKEN_CLASS_UNITS, Quantities, thousandths_of
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.domain import Recorded

POLICY_UPDATABLE: Final = ("keep_content", "retention_days")
UPDATABLE: Final = ("title", "model", "archived")
MONTHS_DEFAULT: Final = 12
_FINGERPRINT_BYTES: Final = 16
NO_COSTS: Final[Mapping[str, str]] = MappingProxyType({})


class Role(StrEnum):
    """Who speaks in a message."""

    USER = "USER"
    ASSISTANT = "ASSISTANT"
    SYSTEM = "SYSTEM"
    TOOL = "TOOL"


class TextState(StrEnum):
    """Whether a content or a title is there."""

    KEPT = "KEPT"
    NONE = "NONE"
    NOT_KEPT = "NOT_KEPT"
    EXPIRED = "EXPIRED"
    DELETED = "DELETED"


class Title(NamedTuple):
    """A title as it is stored."""

    text: str
    folded: str
    state: TextState


class Beginning(NamedTuple):
    """What a conversation begins with."""

    organization_id: str
    conversation_id: str
    project_id: str | None
    user_id: str | None
    title: str
    model: str

    @property
    def fingerprint(self) -> bytes:
        return digest(self.title, self.model)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as it is stored."""

    organization_id: str
    conversation_id: str
    project_id: str | None
    user_id: str | None
    title: Title
    model: str
    archived: bool
    message_count: int
    costs: Mapping[str, str]
    """What its messages cost, as decimals by currency."""
    fingerprint: bytes
    revision: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None = None
    contents_due: bool = False

    @property
    def etag(self) -> str:
        return str(self.revision)


class Used(NamedTuple):
    """The usage of a message, as the message keeps it."""

    usage_id: str
    quantities: Quantities
    """Tokens too, in thousandths by unit."""
    cost: str | None
    currency_code: str | None


class Content(NamedTuple):
    """A content as it is stored: in UTF-8, or encrypted with the key of a version."""

    stored: bytes | None
    key_version: int | None
    state: TextState


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is stored."""

    organization_id: str
    conversation_id: str
    position: int
    operation_id: str
    role: Role
    fingerprint: bytes
    content: Content
    model: str
    create_time: datetime
    used: Used | None


@dataclass(frozen=True, slots=True)
class Policy:
    """What an organization's conversations keep; the default where nothing is said."""

    keep_content: bool = True
    retention_days: int = 0
    revision: int = 0
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        return str(self.revision) if self.revision else ""

    def title(self, text: str) -> Title:
        """Return a title as it is kept."""
        if not text:
            return Title("", "", TextState.NONE)
        if not self.keep_content:
            return Title("", "", TextState.NOT_KEPT)
        return Title(text, folded(text), TextState.KEPT)

    def expired_before(self, now: datetime, platform_days: int) -> datetime | None:
        """Return the moment before which contents are too old; None where they are kept until they are deleted."""
        days = self.retention_days or platform_days
        return now - timedelta(days=days) if days else None


DEFAULT: Final = Policy()


def policy_changes(before: Policy, after: Policy) -> tuple[Changed, ...]:
    """Return the changed fields for the audit trail."""
    return differences(
        {name: str(getattr(before, name)) for name in POLICY_UPDATABLE},
        {name: str(getattr(after, name)) for name in POLICY_UPDATABLE},
    )


def digest(*texts: str) -> bytes:
    """Return a digest of texts, which have no U+0000."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=_FINGERPRINT_BYTES).digest()


def chosen_id(organization_id: str, user_id: str, request_id: str) -> str:
    """Return the id of a conversation whose caller chose none: the same for each repeat of the request."""
    return id_of_digest(f"conversation\0{organization_id}\0{user_id}\0{request_id}")


def folded(text: str) -> str:
    """Return text as it is compared in a search: upper and lower case are the same."""
    return text.casefold()


def emptied(title: Title, state: TextState) -> Title:
    """Return a title that has left; one that was not there stays as it is."""
    return Title("", "", state) if title.state is TextState.KEPT else title


def costs_with(costs: Mapping[str, str], used: Used | None) -> Mapping[str, str]:
    """Return the costs of a conversation after one more message."""
    if used is None or used.cost is None or used.currency_code is None:
        return costs
    before = Decimal(costs.get(used.currency_code, "0"))
    return {**costs, used.currency_code: format_amount(before + Decimal(used.cost))}


def used_of(recorded: Recorded) -> Used:
    """Return what a message keeps of its usage."""
    work, cost = recorded.work, recorded.cost
    tokens = {
        TOKEN_CLASS_UNITS[name]: thousandths_of(Decimal(count))
        for name, count in zip(TOKEN_CLASSES, work.tokens, strict=True)
        if count
    }
    return Used(
        recorded.usage_id,
        {**tokens, **work.quantities},
        None if cost is None else cost.amount,
        None if cost is None else cost.currency_code,
    )


def month_of(moment: datetime) -> datetime:
    """Return the beginning of a moment's month, in UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def months_until(now: datetime, count: int) -> list[datetime]:
    """Return the beginnings of so many months, the present one being the last."""
    months = [month_of(now)]
    while len(months) < count:
        months.insert(0, month_of(months[0] - timedelta(days=1)))
    return months
