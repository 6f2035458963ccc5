"""A plain model of one account with grants for certain users and models, in whole units, moved one by one."""

from collections import Counter
from dataclasses import dataclass, field

from tests.billing.grant_reference import KINDS

OTHER = "other"
"""Where a unit comes from that no grant covers."""


@dataclass
class Lot:
    """A grant."""

    name: str
    user: str
    model: str
    kind: str
    priority: int
    amount: int
    begins: int
    ends: int
    number: int
    first_end: int
    limit: int | None = None
    """For a refill: what it and those before it may be at most."""
    rest: int = 0
    expired: int = 0
    begun: bool = False
    voided: bool = False

    @property
    def place(self) -> tuple[object, ...]:
        return (self.priority, self.first_end, KINDS.index(self.kind), not self.user, not self.model, self.number)

    def serves(self, user: str, model: str) -> bool:
        return self.user in ("", user) and self.model in ("", model)


@dataclass
class Held:
    """An open hold: how much it keeps back, and of which grants."""

    user: str
    model: str
    units: int
    reserved: list[str] = field(default_factory=list)


@dataclass
class ScopedReference:
    """What is posted, held, and left of each grant, at any hour."""

    now: int = 0
    other: int = 0
    """Units of no grant; negative for a debt."""
    lots: dict[str, Lot] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    counter: int = 0

    def next_number(self) -> int:
        self.counter += 1
        return self.counter

    @property
    def posted(self) -> int:
        return self.other + sum(lot.rest for lot in self.lots.values() if lot.begun)

    @property
    def held(self) -> int:
        return sum(hold.units for hold in self.holds.values())

    def free(self, lot: Lot) -> int:
        return lot.rest - sum(hold.reserved.count(lot.name) for hold in self.holds.values()) if lot.begun else 0

    def closed_to(self, user: str, model: str) -> int:
        return sum(self.free(lot) for lot in self.lots.values() if not lot.serves(user, model))

    def scoped(self) -> int:
        return sum(self.free(lot) for lot in self.lots.values() if lot.user or lot.model)

    def available(self, user: str, model: str) -> int:
        return self.posted - self.held - self.closed_to(user, model)

    def source(self, user: str, model: str) -> Lot | None:
        """The grant of which the next unit is taken."""
        usable = (lot for lot in self.lots.values() if lot.serves(user, model) and self.free(lot) > 0)
        return min(usable, key=lambda lot: lot.place, default=None)

    def use(self, user: str, model: str, units: int) -> list[str]:
        """Take units, and return where each came from."""
        sources = []
        for _ in range(units):
            lot = self.source(user, model)
            sources.append(OTHER if lot is None else lot.name)
            if lot is None:
                self.other -= 1
            else:
                lot.rest -= 1
        return sources

    def reserve(self, hold: Held, units: int) -> None:
        hold.units += units
        for _ in range(units):
            lot = self.source(hold.user, hold.model)
            if lot is not None:
                hold.reserved.append(lot.name)

    def capture(self, hold: Held, units: int, *, last: bool) -> list[str]:
        before, hold.reserved = hold.reserved, []
        hold.units = 0 if last else max(hold.units - units, 0)
        sources = self.use(hold.user, hold.model, units)
        used = Counter(sources)
        kept: list[str] = []
        for name in sorted(before, key=lambda one: self.lots[one].place):
            if used[name]:
                used[name] -= 1
            elif len(kept) < hold.units:
                kept.append(name)
        hold.reserved = kept
        return sources

    def give_back(self, sources: list[str], units: int) -> list[str]:
        """Undo the last units of a charge, and return where they went."""
        went = []
        for _ in range(units):
            name = sources.pop()
            if name != OTHER and self.lots[name].ends > self.now:
                self.lots[name].rest += 1
                went.append(name)
            else:
                self.other += 1
                went.append(OTHER)
        return went

    def settle(self) -> None:
        """Let grants begin and end, each at its hour; an end comes before a beginning."""
        while True:
            starting = [
                lot for lot in self.lots.values() if not lot.begun and not lot.voided and lot.begins <= self.now
            ]
            ending = [lot for lot in self.lots.values() if lot.ends <= self.now and self.free(lot) > 0]
            first = min(ending, key=lambda lot: (lot.ends, lot.number), default=None)
            starter = min(starting, key=lambda lot: (lot.begins, lot.number), default=None)
            if first is not None and (starter is None or first.ends <= starter.begins):
                self.lose(first, self.free(first))
            elif starter is not None:
                self.begin(starter)
            else:
                return

    def begin(self, lot: Lot) -> None:
        if lot.limit is not None:
            older = [
                one
                for one in self.lots.values()
                if one.limit is not None and one.begun and (one.user, one.model) == (lot.user, lot.model)
            ]
            excess = sum(one.rest for one in older) + lot.amount - lot.limit
            for one in sorted(older, key=lambda one: (one.begins, one.number)):
                lost = min(max(excess, 0), self.free(one))
                self.lose(one, lost)
                excess -= lost
        lot.begun, lot.rest = True, lot.amount

    def lose(self, lot: Lot, units: int) -> None:
        lot.rest -= units
        lot.expired += units
