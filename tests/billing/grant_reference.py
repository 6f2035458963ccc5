"""A plain model of one account with credit grants, in whole units, moved unit by unit."""

from dataclasses import dataclass, field

KINDS = ("PROMOTIONAL", "INCLUDED", "PURCHASED")
NEVER = 10**9


@dataclass
class Lot:
    """A grant: what is left of it as of the last event, and what it was."""

    name: str
    kind: str
    priority: int
    amount: int
    begins: int
    ends: int
    number: int
    rest: int = 0
    expired: int = 0
    begun: bool = False
    over: bool = False
    voided: bool = False

    @property
    def place(self) -> tuple[int, int, int, int]:
        return (self.priority, self.ends if not self.voided else self.first_end, KINDS.index(self.kind), self.number)

    first_end: int = NEVER


@dataclass
class Held:
    """An open hold."""

    amount: int
    number: int
    """Holds and ends of grants are counted together, so that it is known which came first."""


@dataclass
class GrantReference:
    """What is posted, held, and left of each grant, at any hour."""

    now: int = 0
    posted: int = 0
    lots: dict[str, Lot] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    beside: int = 0
    """Used units that no grant covers, as of the last event."""
    net: int = 0
    """Units used since the last event, less what was given back."""
    counter: int = 0
    ended_at: dict[str, int] = field(default_factory=dict)

    def next_number(self) -> int:
        self.counter += 1
        return self.counter

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values())

    def active(self) -> list[Lot]:
        return sorted((lot for lot in self.lots.values() if lot.begun and not lot.over), key=lambda lot: lot.place)

    def rests(self, more: int = 0) -> tuple[dict[str, int], int]:
        """What is left of the active grants once the net use and `more` are taken, unit by unit."""
        left = {lot.name: lot.rest for lot in self.active()}
        beside = self.beside
        for _ in range(max(self.net + more, 0)):
            source = next((name for name in left if left[name]), None)
            if source is None:
                beside += 1
            else:
                left[source] -= 1
        for _ in range(max(-(self.net + more), 0)):
            used = [lot.name for lot in self.active() if lot.amount - left[lot.name] - lot.expired > 0]
            if beside > 0 or not used:
                beside -= 1
            else:
                left[used[-1]] += 1
        return left, beside

    def settle(self) -> None:
        """Let grants begin and end, each at its hour."""
        happened = self.let_happen()
        left, _ = self.rests()
        over = [
            lot
            for lot in self.active()
            if not left[lot.name] and (lot.ends <= self.now or (happened and lot.ends == NEVER))
        ]
        if over:
            self.freeze()
        for lot in over:
            lot.over = True

    def let_happen(self) -> bool:
        happened = False
        while True:
            starting = [lot for lot in self.lots.values() if not lot.begun and not lot.over and lot.begins <= self.now]
            ending = [lot for lot in self.active() if lot.ends <= self.now and self.expirable(lot)]
            first = min(ending, key=lambda lot: (lot.ends, lot.number), default=None)
            starter = min(starting, key=lambda lot: (lot.begins, lot.number), default=None)
            if first is not None and (starter is None or first.ends <= starter.begins):
                gone = self.expirable(first)
                self.freeze()
                first.rest -= gone
                first.expired += gone
                self.posted -= gone
                first.over = not first.rest
            elif starter is not None:
                self.freeze()
                starter.begun, starter.rest = True, starter.amount
                self.posted += starter.amount
            else:
                return happened
            happened = True

    def freeze(self) -> None:
        """Make the present the last event."""
        left, self.beside = self.rests()
        for lot in self.active():
            lot.rest = left[lot.name]
        self.net = 0

    def expirable(self, lot: Lot) -> int:
        """How much of a grant that has ended no older hold reserves."""
        ended = self.ended_at.setdefault(lot.name, self.next_number())
        older = sum(hold.amount for hold in self.holds.values() if hold.number < ended)
        left, _ = self.rests()
        reserved = left[lot.name] - self.rests(older)[0][lot.name]
        return left[lot.name] - reserved
