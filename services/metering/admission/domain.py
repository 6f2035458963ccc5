"""Authorizations: what is asked for, what is held, and the decision."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from libs.common.errors import OperationIdReused, Refusal
from services.metering.clients.identity import KeyPrincipal
from services.metering.errors import AlreadySettled, AuthorizationNotOpen, OperationIdInUse, TooManyParts
from services.metering.model.domain import (
    PriceVersion,
    Tokens,
    cost_in_dearest_hours,
    cost_max,
    input_tokens_of,
    output_tokens_of,
)
from services.metering.model.rates import STANDARD_TIER, Unpriced
from services.metering.model.units import THOUSANDTHS, Kind, Quantities, Units, input_context
from services.metering.quota.decisions import Place, Refused, Standing
from services.metering.quota.domain import NOTHING_RESERVED, Reservations
from services.metering.usage.dimensions import LIVE
from services.metering.usage.domain import Authorization, Captured
from services.metering.usage.part_domain import PARTS_MAX, Part

OUTPUT_TOKENS_DEFAULT: Final = 4096
"""The output tokens that are authorized if neither the caller nor the catalogue gives a maximum."""
HOLD_TTL_DEFAULT_MS: Final = 600_000
HOLD_TTL_MAX: Final = timedelta(hours=1)
"""The longest that AuthorizeRequest may ask for."""
HOLD_LATE: Final = timedelta(seconds=1)
"""What a hold may end later than its authorization says, because billing counts from its own receipt of it."""
_FINGERPRINT_BYTES: Final = 16
_FIELDS_BEFORE: Final = 11


@dataclass(frozen=True, slots=True)
class Request:
    """An Authorize request, with either a secret key or a principal."""

    operation_id: str
    secret: str | None
    principal: KeyPrincipal | None
    model: str
    input_tokens: int
    max_output_tokens: int | None
    estimate: Tokens | None
    endpoint: str | None
    required_scopes: Sequence[str]
    min_revision: int
    hold_ttl_ms: int
    client_address: str
    fail_if_replayed: bool
    quantities: Quantities
    service_tier: str
    items: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    subscription_id: str | None = None
    """The subscription that it names."""

    @property
    def needs_policy(self) -> bool:
        """Whether the organization's policy says what is held."""
        return self.max_output_tokens is None and self.estimate is None


class Ask(NamedTuple):
    """What is asked for a call, after its key is verified."""

    organization_id: str
    operation_id: str
    project_id: str | None
    user_id: str | None
    service_account_id: str | None
    api_key_id: str | None
    model: str
    endpoint: str | None
    input_tokens: int
    max_output_tokens: int
    hold_ttl_ms: int
    quantities: str | None = None
    """Quantities beside the tokens, as JSON; None where there are none."""
    service_tier: str = STANDARD_TIER
    environment: str = LIVE
    items: int | None = None
    """How many of the platform's own items the work may touch; None where it is none."""
    labels: str | None = None
    """The labels as JSON with sorted keys; None where there are none."""
    subscription_id: str | None = None
    """The subscription that the call falls under, once that is known; before, the one that the request names."""

    def fingerprint(self, estimate: Tokens | None = None) -> bytes:
        """Return a digest of everything that a repeat must say again.

        What is as it always was before there were tiers, other quantities, items, labels and named subscriptions has no
        part in it, so that the digests of earlier versions still match.
        """
        further = [value for value in (self.quantities, self.service_tier) if value not in (None, STANDARD_TIER)]
        if self.items is not None:
            further.append(f"items={self.items}")
        if self.labels is not None:
            further.append(f"labels={self.labels}")
        if self.subscription_id is not None:
            further.append(f"subscription={self.subscription_id}")
        values = (*self[:_FIELDS_BEFORE], *(estimate or ()), *further)
        text = "\x1f".join("" if value is None else str(value) for value in values)
        return hashlib.blake2b(text.encode(), digest_size=_FINGERPRINT_BYTES).digest()


class Pinned(NamedTuple):
    """An ask with the price version it will be settled with and the amount to hold."""

    ask: Ask
    fingerprint: bytes
    price_version_id: str
    currency_code: str
    amount: Decimal
    create_time: datetime
    fail_if_replayed: bool = False
    """Whether the caller wants a repeat refused. It is not stored and no part of the fingerprint."""
    by_policy: bool = False
    """Whether the maximum of output tokens is the policy's and not the caller's. Not stored either."""
    reservations: Reservations = NOTHING_RESERVED
    """What the call reserves of limits. What was stored before is not read into it."""


class Allowance(NamedTuple):
    """What a call may use as a whole, and the amount that is held for it."""

    input_tokens: int
    max_output_tokens: int
    quantities: Quantities
    amount: Decimal


class More(NamedTuple):
    """What a call may use as a whole from now on; None leaves a count, or all quantities, as they are."""

    input_tokens: int | None
    max_output_tokens: int | None
    estimate: Tokens | None
    quantities: Quantities | None


class State(StrEnum):
    """What has become of an authorization."""

    OPEN = "OPEN"
    SETTLED = "SETTLED"
    CANCELLED = "CANCELLED"
    LAPSED = "LAPSED"
    DECLINED = "DECLINED"


class Stored(NamedTuple):
    """An authorization as it is stored."""

    pinned: Pinned
    cancelled: bool
    settled: bool
    """Whether the usage of the operation is recorded."""
    expire_time: datetime
    """When the hold ends by itself, to within a second."""
    declined: bool
    """Whether billing declined the hold."""
    recorded_when_lapsed: bool
    """Whether its usage was recorded because no settlement had come."""
    allowance: Allowance
    """What the call may use and what is held for it, which may be more than was asked for at first."""
    captured: Captured | None = None
    """What is captured in parts; None where there are none."""
    reserves: bool = False
    """Whether it has reserved something of limits that was not given back. A settlement takes that without a note."""
    gave_back: bool = False
    """Whether what it had reserved of limits was given back without a settlement."""

    def state(self, now: datetime) -> "State":
        """Return what has become of it."""
        if self.recorded_when_lapsed:
            return State.LAPSED
        if self.settled:
            return State.SETTLED
        if self.cancelled:
            return State.CANCELLED
        if self.declined:
            return State.DECLINED
        return State.OPEN if now < self.expire_time else State.LAPSED

    @property
    def ended(self) -> bool:
        """Whether the call may not begin any more, whatever billing says."""
        return self.cancelled or self.settled or (self.gave_back and not self.declined)


Status = tuple[Place, Standing]
"""Where a limit stands."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The call may not begin."""

    reason: str
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)
    principal: KeyPrincipal | None = None
    replayed: bool = False
    stale_key: bool = False
    """Whether it rests on an answer about the key that may be out of date."""
    limits: Sequence[Status] = ()
    """Where the limits in force for the call stand after its batch."""
    refused: Refused | None = None
    """Why a limit refused the call, with the facts; None where none did."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The call may begin; the amount is held."""

    pinned: Pinned
    principal: KeyPrincipal
    hold_id: str
    expire_time: datetime | None
    replayed: bool
    stale_key: bool = False
    limits: Sequence[Status] = ()
    """Where the limits in force for the call stand after its batch."""


Decision = Allowed | Denied


def held_nanos(
    version: PriceVersion,
    input_tokens: int,
    output_tokens: int,
    estimate: Tokens | None,
    quantities: Quantities,
    service_tier: str,
    units: Units,
) -> int | Unpriced:
    """Return what is held for a call, so that no settlement within what was authorized costs more.

    Without an estimate by class, every token is counted at the price of the most expensive unit of its side. Where the
    price depends on the hour, it is that of the dearest hours: the work may be done in others than it is asked for. Or
    return the unit that has no rate.
    """
    if estimate is None:
        return cost_max(version, input_tokens, output_tokens, service_tier, units, quantities)
    return cost_in_dearest_hours(version, estimate, quantities, service_tier, units)


def enlarged(
    before: Allowance, more: More, version: PriceVersion, service_tier: str, units: Units
) -> Allowance | Unpriced:
    """Return what a call may use as a whole and the most that it costs then, or the unit that has no rate.

    Tokens among the quantities, which only an estimate can have beside it, are counted at the highest price of their
    side where the counts by class are not given again.
    """
    quantities = before.quantities if more.quantities is None else more.quantities
    if more.estimate is not None:
        input_tokens, output_tokens = input_tokens_of(more.estimate), output_tokens_of(more.estimate)
        held = held_nanos(version, input_tokens, output_tokens, more.estimate, quantities, service_tier, units)
    else:
        input_tokens = before.input_tokens if more.input_tokens is None else more.input_tokens
        output_tokens = before.max_output_tokens if more.max_output_tokens is None else more.max_output_tokens
        tokens = {unit: value for unit, value in quantities.items() if units[unit].kind is Kind.TOKEN}
        read = input_context(tokens, units) // THOUSANDTHS
        made = sum(tokens.values()) // THOUSANDTHS - read
        others = {unit: value for unit, value in quantities.items() if unit not in tokens}
        held = held_nanos(version, input_tokens + read, output_tokens + made, None, others, service_tier, units)
    if isinstance(held, Unpriced):
        return held
    return Allowance(input_tokens, output_tokens, quantities, Decimal(held).scaleb(-9))


def refusal_of_repeat(before: Stored, now: Pinned) -> Refusal | None:
    """Return why an authorization may not be asked for again under an operation id that has one; None if it may."""
    operation_id = now.ask.operation_id
    if before.pinned.fingerprint != now.fingerprint:
        return OperationIdReused(operation_id=operation_id, field=_differing_field(before.pinned.ask, now))
    return OperationIdInUse(operation_id=operation_id) if now.fail_if_replayed else None


def _differing_field(before: Ask, now: Pinned) -> str:
    """Name the first field in which a request differs from the ask it repeats the operation id of.

    A maximum that the policy gave is compared last, since the policy may have changed in between.
    """
    if not now.by_policy:
        return differing_field(before, now.ask)
    field = differing_field(before, now.ask._replace(max_output_tokens=before.max_output_tokens))
    return field if field != "estimate" else "max_output_tokens"


def differing_field(before: Ask, now: Ask) -> str:
    """Name the first field in which two asks of one operation id differ.

    The counts of an estimate are not stored, only their sums: where nothing else differs, the estimates do. The
    subscription comes last, since another one may have been found for a request that names none.
    """
    for name in Ask._fields:
        if name != "subscription_id" and getattr(before, name) != getattr(now, name):
            return "hold_ttl" if name == "hold_ttl_ms" else name
    return "estimate" if before.subscription_id == now.subscription_id else "subscription_id"


def refusal_of_part(stored: Stored, last: Part | None) -> Refusal | None:
    """Return why a call may have no part after its last one; None if it may, also when its hold has ended."""
    operation_id = stored.pinned.ask.operation_id
    if stored.settled:
        return AlreadySettled(operation_id=operation_id)
    if stored.cancelled or stored.declined:
        state = State.CANCELLED if stored.cancelled else State.DECLINED
        return AuthorizationNotOpen(operation_id=operation_id, state=state)
    if last is not None and last.part >= PARTS_MAX:
        return TooManyParts(operation_id=operation_id, parts=PARTS_MAX)
    return None


def authorization_of(pinned: Pinned) -> Authorization:
    """Return what a settlement is charged by."""
    ask = pinned.ask
    return Authorization(
        ask.organization_id,
        ask.operation_id,
        ask.project_id,
        ask.user_id,
        ask.api_key_id,
        ask.model,
        ask.endpoint,
        pinned.price_version_id,
        pinned.currency_code,
        pinned.amount,
        ask.service_account_id,
        ask.service_tier,
        ask.environment,
        ask.subscription_id,
        pinned.reservations,
    )
