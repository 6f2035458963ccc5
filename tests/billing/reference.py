"""A plain model of the ledger, with dictionaries and without database and batches. The real one is compared with it.

Money is in whole cents. Every command answers a tuple: ("ok", facts…) or ("refused", reason).
"""

from dataclasses import dataclass, field

Answer = tuple[object, ...]
OWN = "own"


@dataclass
class Hold:
    owner: str
    cents: int
    expires: int
    state: str = "OPEN"
    captured: int = 0

    @property
    def rest(self) -> int:
        return max(self.cents - self.captured, 0) if self.state == "OPEN" else 0


@dataclass
class Moved:
    """A movement: what it changed, owner by owner, and how much of it has been undone."""

    kind: str
    changes: dict[str, int]
    undone: int = 0


@dataclass
class Reference:
    """One organization with projects, on a clock of whole seconds."""

    now: int = 0
    posted: dict[str, int] = field(default_factory=dict)
    sequence: dict[str, int] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    movements: dict[str, Moved] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[tuple[object, ...], Answer]] = field(default_factory=dict)
    """By slot and operation id: the request, and the answer that is final."""

    def held(self, owner: str) -> int:
        self.expire()
        return sum(hold.rest for hold in self.holds.values() if hold.owner == owner)

    def available(self, owner: str) -> int:
        return self.posted.get(owner, 0) - self.held(owner)

    def debit(self, operation: str, owner: str, cents: int, mode: str) -> Answer:
        def decide() -> Answer:
            payer = self._payer(owner)
            left = self.available(payer)
            if mode == "GUARDED" and cents > left:
                self._open(payer)
                return ("refused", "INSUFFICIENT_BALANCE")
            posted = min(cents, max(left, 0)) if mode == "BEST_EFFORT" else cents
            return self._move(operation, "DEBIT", {payer: -posted}, posted, posted > max(left, 0))

        return self._once("movement", operation, ("DEBIT", owner, cents, mode), decide)

    def credit(self, operation: str, owner: str, cents: int) -> Answer:
        return self._once(
            "movement",
            operation,
            ("CREDIT", owner, cents),
            lambda: self._move(operation, "CREDIT", {owner: cents}, cents, False),
        )

    def transfer(self, operation: str, source: str, destination: str, cents: int) -> Answer:
        def decide() -> Answer:
            if source not in self.posted:
                return ("refused", "ACCOUNT_NOT_FOUND")
            if cents > self.available(source):
                return ("refused", "INSUFFICIENT_BALANCE")
            return self._move(operation, "TRANSFER", {source: -cents, destination: cents}, cents, False)

        return self._once("movement", operation, ("TRANSFER", source, destination, cents), decide)

    def hold(self, operation: str, owner: str, cents: int, ttl: int) -> Answer:
        def decide() -> Answer:
            payer = self._payer(owner)
            if cents > self.available(payer):
                self._open(payer)
                return ("refused", "INSUFFICIENT_BALANCE")
            self._open(payer)
            self.holds[operation] = Hold(payer, cents, self.now + ttl)
            return ("ok", cents)

        answer = self._once("hold", operation, ("HOLD", owner, cents, ttl), decide)
        # The hold is shown as it is now.
        return ("ok", self.holds[operation].cents) if answer[0] == "ok" else answer

    def extend(self, operation: str, ttl: int, cents: int | None) -> Answer:
        self.expire()
        hold = self.holds.get(operation)
        if hold is None:
            return ("refused", "HOLD_NOT_FOUND")
        if hold.state != "OPEN":
            return ("refused", "HOLD_ENDED")
        if cents is not None and cents > hold.cents:
            more = max(cents - hold.captured, 0) - hold.rest
            if more > 0 and more > self.available(hold.owner):
                return ("refused", "INSUFFICIENT_BALANCE")
            hold.cents = cents
        hold.expires = max(hold.expires, self.now + ttl)
        return ("ok", hold.cents)

    def capture(self, operation: str, cents: int) -> Answer:
        def decide() -> Answer:
            self.expire()
            hold = self.holds.get(operation)
            if hold is None:
                return ("refused", "HOLD_NOT_FOUND")
            covered = hold.rest
            if hold.state == "OPEN":
                hold.state = "CAPTURED"
            left = self.available(hold.owner)
            moved = self._move(operation, "CAPTURE", {hold.owner: -cents}, cents, cents > max(left, 0))
            return (*moved, max(covered - cents, 0), max(cents - covered, 0))

        return self._once("movement", operation, ("CAPTURE", cents), decide)

    def part(self, part: str, operation: str, cents: int) -> Answer:
        def decide() -> Answer:
            self.expire()
            hold = self.holds.get(operation)
            if hold is None:
                return ("refused", "HOLD_NOT_FOUND")
            covered = hold.rest
            hold.captured += cents
            left = self.available(hold.owner)
            moved = self._move(part, "CAPTURE", {hold.owner: -cents}, cents, cents > max(left, 0))
            return (*moved, 0, max(cents - covered, 0))

        if part == operation:
            return ("refused", "INVALID_ARGUMENT")
        return self._once("movement", part, ("PART", operation, cents), decide)

    def release(self, operation: str) -> Answer:
        self.expire()
        hold = self.holds.get(operation)
        if hold is None:
            return ("refused", "HOLD_NOT_FOUND")
        if hold.state == "CAPTURED":
            return ("refused", "HOLD_ENDED")
        if hold.state == "OPEN":
            hold.state = "RELEASED"
        return ("ok", hold.state)

    def reverse(self, operation: str, original: str, cents: int | None) -> Answer:
        def decide() -> Answer:
            moved = self.movements[original]
            if moved.kind == "REVERSAL":
                return ("refused", "REVERSAL_OF_REVERSAL")
            whole = max(abs(change) for change in moved.changes.values())
            amount = whole - moved.undone if cents is None else cents
            if amount > whole - moved.undone or amount == 0:
                return ("refused", "REVERSAL_EXCEEDS_TRANSACTION")
            changes = {owner: -amount if change > 0 else amount for owner, change in moved.changes.items()}
            overdrawn = any(change < 0 and self.available(owner) + change < 0 for owner, change in changes.items())
            moved.undone += amount
            return self._move(operation, "REVERSAL", changes, amount, overdrawn)

        return self._once("movement", operation, ("REVERSAL", original, cents), decide)

    def _once(self, slot: str, operation: str, request: tuple[object, ...], decide: object) -> Answer:
        known = self.known.get((slot, operation))
        if known is not None:
            return known[1] if known[0] == request else ("refused", "OPERATION_ID_REUSED")
        assert callable(decide)
        answer: Answer = decide()
        if answer[0] == "ok" or answer[1] == "INSUFFICIENT_BALANCE":
            self.known[slot, operation] = (request, answer)
        return answer

    def _move(self, operation: str, kind: str, changes: dict[str, int], cents: int, overdrawn: bool) -> Answer:
        for owner, change in changes.items():
            self._open(owner)
            self.posted[owner] += change
            self.sequence[owner] += 1
        self.movements[operation] = Moved(kind, changes)
        first = next(iter(changes))
        return ("ok", cents, self.posted[first], self.sequence[first], overdrawn)

    def _open(self, owner: str) -> None:
        self.posted.setdefault(owner, 0)
        self.sequence.setdefault(owner, 0)

    def _payer(self, owner: str) -> str:
        return owner if owner in self.posted else OWN

    def expire(self) -> None:
        for hold in self.holds.values():
            if hold.state == "OPEN" and hold.expires <= self.now:
                hold.state = "EXPIRED"
