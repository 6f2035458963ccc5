"""What is left of the grants of an account that has some for certain users or models: entered charge by charge.

Where all grants are for all charges, their rests follow from what the account has used altogether (see `grants`). Where
some are for the charges of a user or a model, that sum does not say who used them. From its first such grant on, what
each charge uses of each grant is entered with the charge, and what each hold reserves of each grant with the hold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from services.billing.ledger.grants import ZERO, Grant, GrantState, in_order

Amounts: TypeAlias = dict[str, Decimal]
"""By grant id, in the order of use."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a charge used of a grant; negative for what a reversal gave back."""

    grant: Grant
    """As it is after it."""
    amount: Decimal


class Itemized:
    """The active grants of one account while a batch is decided, and what open holds reserve of each."""

    __slots__ = ("_of_user", "_position", "grants", "reserved", "scoped")

    def __init__(self, grants: Iterable[Grant], reserved: Mapping[str, Decimal]) -> None:
        self.reserved: Amounts = dict(reserved)
        self.replace(grants)

    def replace(self, grants: Iterable[Grant]) -> None:
        """Take other grants as the active ones."""
        self.grants: dict[str, Grant] = {grant.grant_id: grant for grant in in_order(grants)}
        self._position = {grant_id: place for place, grant_id in enumerate(self.grants)}
        self._of_user: dict[str | None, list[str]] = {}
        self.scoped = ZERO
        """What is left of scoped grants, without what holds reserve: available to some charges only."""
        for grant in self.grants.values():
            self._of_user.setdefault(grant.user_id, []).append(grant.grant_id)
            if grant.is_scoped:
                self.scoped += self.free(grant.grant_id)

    def free(self, grant_id: str) -> Decimal:
        """Return what is left of a grant, without what holds reserve."""
        return self.grants[grant_id].rest - self.reserved.get(grant_id, ZERO)

    def closed_to(self, user_id: str | None, model: str | None) -> Decimal:
        """Return what is left of grants that a charge of this user and for this model may not use."""
        open_to = (self.free(one) for one in self._serving(user_id, model) if self.grants[one].is_scoped)
        return self.scoped - sum(open_to, ZERO)

    def of_charge(self, user_id: str | None, model: str | None, amount: Decimal) -> Amounts:
        """Return what a charge takes of each grant, in the order of use. What no grant covers is not in it."""
        taken: Amounts = {}
        for grant_id in self._serving(user_id, model):
            if not amount:
                break
            part = min(amount, self.free(grant_id))
            if part > ZERO:
                taken[grant_id] = part
                amount -= part
        return taken

    def scoped_part(self, amounts: Amounts) -> Decimal:
        """Return how much of amounts is of scoped grants."""
        return sum((part for grant_id, part in amounts.items() if self.grants[grant_id].is_scoped), ZERO)

    def use(self, amounts: Amounts) -> list[Use]:
        """Take amounts of grants."""
        return [self._change(self.grants[grant_id], part) for grant_id, part in amounts.items()]

    def give_back(self, grant: Grant, amount: Decimal, now: datetime) -> Use | None:
        """Give an amount back to a grant that a charge has used, even if it was used up.

        None if it has ended: the amount stays on the account and does not expire.
        """
        current = self.grants.get(grant.grant_id, grant)
        if current.end_time is not None and current.end_time <= now:
            return None
        if grant.grant_id not in self.grants:
            self.replace([*self.grants.values(), replace(current, state=GrantState.ACTIVE)])
        return self._change(self.grants[grant.grant_id], -amount)

    def reserve(self, amounts: Amounts) -> None:
        """Keep amounts for a hold."""
        for grant_id, part in amounts.items():
            self._reserve(grant_id, part)

    def release(self, amounts: Mapping[str, Decimal]) -> None:
        """Give up what a hold reserves."""
        for grant_id, part in amounts.items():
            self._reserve(grant_id, -part)

    def in_use_order(self, amounts: Mapping[str, Decimal]) -> Amounts:
        """Return amounts of active grants in the order of use."""
        return {grant_id: amounts[grant_id] for grant_id in sorted(amounts, key=self._position.__getitem__)}

    def _serving(self, user_id: str | None, model: str | None) -> list[str]:
        found = list(self._of_user.get(None, ()))
        if user_id is not None and user_id in self._of_user:
            found = sorted((*found, *self._of_user[user_id]), key=self._position.__getitem__)
        return [grant_id for grant_id in found if self.grants[grant_id].model in (None, model)]

    def _change(self, grant: Grant, used: Decimal) -> Use:
        after = replace(grant, rest=grant.rest - used)
        self.grants[grant.grant_id] = after
        if grant.is_scoped:
            self.scoped -= used
        return Use(after, used)

    def _reserve(self, grant_id: str, part: Decimal) -> None:
        self.reserved[grant_id] = self.reserved.get(grant_id, ZERO) + part
        if self.grants[grant_id].is_scoped:
            self.scoped -= part
