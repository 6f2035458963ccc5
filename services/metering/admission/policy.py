"""Admission policies of organizations: what is held where no maximum is given, and what happens to what lapses."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.audit.chain import Changed, differences
from libs.common.errors import FieldViolation

LAPSE_AFTER_DEFAULT: Final = timedelta(hours=1)
UPDATABLE: Final = ("output_hold", "output_tokens_cap", "fixed_amount", "lapse_charge", "lapse_after")
_MILLISECOND: Final = timedelta(milliseconds=1)


class OutputHold(StrEnum):
    """What is held for a call that gives neither a maximum of output tokens nor an estimate."""

    MODEL_MAX = "MODEL_MAX"
    CAP = "CAP"
    FIXED = "FIXED"


class LapseCharge(StrEnum):
    """What is charged for an authorization whose settlement never comes."""

    RELEASE = "RELEASE"
    INPUT = "INPUT"


class FixedAmount(NamedTuple):
    """An amount to be held whatever the call may cost."""

    value: Decimal
    currency_code: str


@dataclass(frozen=True, slots=True)
class Policy:
    """How calls of an organization are admitted; the default where nothing is said."""

    output_hold: OutputHold = OutputHold.MODEL_MAX
    output_tokens_cap: int = 0
    """Greater than zero for CAP, zero for the others."""
    fixed_amount: FixedAmount | None = None
    """For FIXED, and None for the others."""
    lapse_charge: LapseCharge = LapseCharge.RELEASE
    lapse_after: timedelta = LAPSE_AFTER_DEFAULT
    """How long after the end of its hold an authorization is taken as one whose settlement does not come."""

    def output_tokens(self, model_max: int) -> int:
        """Return how many output tokens are authorized for a model that can produce so many."""
        return min(self.output_tokens_cap, model_max) if self.output_hold is OutputHold.CAP else model_max

    def amount(self, cost_max: Decimal, currency_code: str) -> Decimal:
        """Return what is held for a call that costs so much at most."""
        fixed = self.fixed_amount
        if fixed is None or fixed.currency_code != currency_code:
            return cost_max
        return min(fixed.value, cost_max)


DEFAULT: Final = Policy()


@dataclass(frozen=True, slots=True)
class Entry:
    """The policy that an organization was given."""

    policy: Policy
    revision: int
    update_time: datetime
    lapse_charge_time: datetime
    """Since when its lapse charge is what it is."""

    @property
    def etag(self) -> str:
        return str(self.revision)


def merged(before: Policy, new: Policy, fields: Collection[str]) -> Policy:
    """Return a policy with some fields taken from another one."""
    return replace(before, **{name: getattr(new, name) for name in fields})


def flaws(policy: Policy) -> list[FieldViolation]:
    """Return the fields that do not go with what the policy holds."""
    found: list[FieldViolation] = []
    if (policy.output_hold is OutputHold.CAP) != (policy.output_tokens_cap > 0):
        rule = "must be greater than zero with CAP" if not policy.output_tokens_cap else "must be zero except with CAP"
        found.append(FieldViolation("output_tokens_cap", rule))
    if (policy.output_hold is OutputHold.FIXED) != (policy.fixed_amount is not None):
        rule = "must be given with FIXED" if policy.fixed_amount is None else "must be unset except with FIXED"
        found.append(FieldViolation("fixed_amount", rule))
    return found


def changes(before: Policy, after: Policy) -> tuple[Changed, ...]:
    """Return the changed fields for the audit trail."""
    return differences(_plain_fields(before), _plain_fields(after))


def _plain_fields(policy: Policy) -> dict[str, str | None]:
    fixed = policy.fixed_amount
    return {
        "output_hold": policy.output_hold.value,
        "output_tokens_cap": str(policy.output_tokens_cap),
        "fixed_amount": None if fixed is None else f"{format_amount(fixed.value)} {fixed.currency_code}",
        "lapse_charge": policy.lapse_charge.value,
        "lapse_after": f"{policy.lapse_after // _MILLISECOND} ms",
    }
