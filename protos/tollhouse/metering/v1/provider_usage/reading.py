"""Reads a usage object field by field, keeps every fault that it finds, and notices what nobody has read."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

QUANTITY_MAX: Final = 1_000_000_000
FRACTION_DIGITS: Final = 3

_STEP: Final = Decimal(1).scaleb(-FRACTION_DIGITS)
_WIDE: Final = Context(prec=40, traps=[])
# How many values of an unknown field are looked at. No provider's usage object has as many.
_VALUES_MAX: Final = 1000
_NAME_CHARS: Final = 100
_FAULTS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """What one usage object comes to.

    `quantities` has one entry for each unit of which something was used: whole numbers for tokens and counts, Decimals
    of at most three fraction digits for seconds. Every token is in exactly one unit, and `total_tokens` is their sum.
    """

    quantities: Mapping[str, int | Decimal]
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a usage object: the field, as in `usage.details[0].tokens`, and what is wrong with it."""

    field: str
    reason: str


class UsageRefused(ValueError):
    """A usage object cannot be turned into quantities without guessing.

    `provider` says whose object it is, `faults` names each field at fault; where figures contradict each other, the
    reason has both.
    """

    def __init__(self, provider: str, faults: Sequence[Fault]) -> None:
        super().__init__(provider, tuple(faults))
        self.provider = provider
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return f"{self.provider}: " + "; ".join(f"{fault.field} {fault.reason}" for fault in self.faults)


class Reading:
    """The reading of one usage object: its faults, and its parts that have been opened."""

    def __init__(self, provider: str, ignored_fields: Collection[str]) -> None:
        self._provider = provider
        self._ignored = frozenset(ignored_fields)
        self._faults: list[Fault] = []
        self._opened: list[Fields] = []

    def fields_of(self, value: object, path: str = "usage", spellings: Mapping[str, str] | None = None) -> "Fields":
        """Opens an object. Its fields may have other spellings, which are read as the names they map to."""
        fields = Fields(self, path, value, spellings or {})
        self._opened.append(fields)
        return fields

    def fault(self, field: str, reason: str) -> None:
        """Notes that a field is at fault."""
        self._faults.append(Fault(field, reason))

    def expect_equal(self, field: str, stated: int, parts: str, found: int) -> None:
        """Notes a fault unless what a field states is what its parts add up to."""
        if stated != found:
            self.fault(field, f"is {stated}, but {parts} is {found}")

    def expect_at_most(self, field: str, part: int, whole: str, limit: int) -> None:
        """Notes a fault if a part is more than its whole."""
        if part > limit:
            self.fault(field, f"is {part}, which is more than {whole}: {limit}")

    def refuse_faults(self) -> None:
        """Raises `UsageRefused` if there are faults, which unknown fields with a number are as well."""
        for fields in self._opened:
            for name, number in fields.unread():
                if name not in self._ignored:
                    self.fault(name, f"is not a known field and holds {number}")
        self._opened.clear()
        left_out = len(self._faults) - _FAULTS_MAX
        if left_out > 0:
            self._faults[_FAULTS_MAX:] = [Fault("usage", f"has {left_out} more faults")]
        if self._faults:
            raise UsageRefused(self._provider, self._faults)

    def conclude(self, *pools: Mapping[str, int | Decimal]) -> ProviderUsage:
        """Adds up pools to the result. Raises `UsageRefused` if there are faults or a quantity is too large."""
        self.refuse_faults()
        quantities: dict[str, int | Decimal] = {}
        for unit, quantity in (item for pool in pools for item in pool.items()):
            if quantity:
                quantities[unit] = quantities.get(unit, 0) + quantity
        for unit, quantity in quantities.items():
            if not 0 < quantity <= QUANTITY_MAX:
                self.fault(unit, f"comes to {quantity}, and must be between 0 and {QUANTITY_MAX}")
        self.refuse_faults()
        return ProviderUsage(quantities, sum(int(number) for unit, number in quantities.items() if is_tokens(unit)))


class Fields:
    """The fields of one object within a usage object. A field that is null counts as missing."""

    def __init__(self, reading: Reading, path: str, value: object, spellings: Mapping[str, str]) -> None:
        self._reading = reading
        self._spellings = spellings
        self._unread: dict[str, object] = {}
        self.path = path
        if value is None:
            return
        if not isinstance(value, Mapping):
            reading.fault(path, f"must be an object, not {_kind(value)}")
            return
        for key, item in value.items():
            self._add(key, item)

    def _add(self, key: object, value: object) -> None:
        if not isinstance(key, str):
            self._reading.fault(self.path, f"has a name that is {_kind(key)}, not a string")
            return
        plain = str.__str__(key)
        name = self._spellings.get(plain, plain)
        if value is None:
            return
        if name in self._unread and not _same_count(self._unread[name], value):
            self._reading.fault(self.name(name), f"is there twice: {_figure(self._unread[name])} and {_figure(value)}")
        self._unread[name] = value

    def name(self, field: str) -> str:
        """The full name of one of the fields."""
        return f"{self.path}.{shown(field)}"

    def has(self, field: str) -> bool:
        """Whether a field that has not been read yet is there."""
        return field in self._unread

    def count(self, field: str) -> int:
        """A count of tokens or the like; 0 if it is missing."""
        return self.optional_count(field) or 0

    def required_count(self, field: str) -> int:
        """A count that every object of this kind has."""
        if not self.has(field):
            self._reading.fault(self.name(field), "is missing")
        return self.count(field)

    def optional_count(self, field: str) -> int | None:
        """A count, or None if it is missing."""
        value = self._unread.pop(field, None)
        if value is None:
            return None
        if type(value) is not int:
            self._reading.fault(self.name(field), f"must be a whole number, not {_kind(value)}")
            return None
        if not 0 <= value <= QUANTITY_MAX:
            self._reading.fault(self.name(field), f"must be between 0 and {QUANTITY_MAX}, not {_figure(value)}")
            return None
        return value

    def seconds(self, field: str) -> Decimal:
        """A duration of at most three fraction digits."""
        value = self._unread.pop(field, None)
        fault = ""
        if type(value) is float:
            exact = Decimal(repr(value))
        elif type(value) is int or type(value) is Decimal:
            exact = Decimal(value)
        else:
            exact = Decimal(0)
            fault = "is missing" if value is None else f"must be a number of seconds, not {_kind(value)}"
        if not exact.is_finite() or not 0 <= exact <= QUANTITY_MAX:
            fault = f"must be between 0 and {QUANTITY_MAX}, not {_figure(value)}"
            exact = Decimal(0)
        rounded = exact.quantize(_STEP, context=_WIDE)
        if rounded != exact:
            fault = f"is {_figure(value)}, which is finer than thousandths"
        if fault:
            self._reading.fault(self.name(field), fault)
        return rounded

    def text(self, field: str) -> str:
        """A text; empty if it is missing."""
        value = self._unread.pop(field, None)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._reading.fault(self.name(field), f"must be a string, not {_kind(value)}")
            return ""
        return str.__str__(value)

    def part(self, field: str) -> "Fields":
        """An object within this one; empty if it is missing."""
        return self._reading.fields_of(self._unread.pop(field, None), self.name(field), self._spellings)

    def parts(self, field: str) -> list["Fields"]:
        """A list of objects within this one; empty if it is missing."""
        value = self._unread.pop(field, None)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self._reading.fault(self.name(field), f"must be a list, not {_kind(value)}")
            return []
        names = (f"{self.name(field)}[{index}]" for index in range(len(value)))
        return [self._reading.fields_of(item, name, self._spellings) for item, name in zip(value, names, strict=True)]

    def unread(self) -> Iterator[tuple[str, str]]:
        """The fields that nobody has read and that hold a number other than zero: the full name, and the number."""
        for field, value in self._unread.items():
            number = _number_in(field, value)
            if number is not None:
                yield self.name(field), number


def is_tokens(unit: str) -> bool:
    """Whether a unit counts tokens, by its id."""
    return unit.endswith("_tokens")


def shown(name: str) -> str:
    """A name from the object, for a message: of readable length, in visible characters."""
    return name if name.isidentifier() and len(name) <= _NAME_CHARS else ascii(name[:_NAME_CHARS])


def _number_in(field: str, value: object) -> str | None:
    """Describes the first number other than zero in a value of any depth; None if there is none."""
    waiting = [(field, value)]
    for _ in range(_VALUES_MAX):
        if not waiting:
            return None
        name, item = waiting.pop()
        if isinstance(item, Mapping):
            waiting.extend((key if isinstance(key, str) else "", part) for key, part in item.items())
        elif isinstance(item, list | tuple):
            waiting.extend((name, part) for part in item)
        elif _is_number(name, item):
            return _figure(item)
    return f"more than {_VALUES_MAX} values"


def _is_number(name: str, value: object) -> bool:
    """Whether a value is a number other than zero. Digits in a string are one where the name says tokens or a count."""
    if isinstance(value, Decimal):
        return not value.is_zero()
    if isinstance(value, str):
        plain, lowered = str.__str__(value), str.__str__(name).lower()
        return plain.isdecimal() and plain.strip("0") != "" and ("token" in lowered or "count" in lowered)
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


def _same_count(one: object, other: object) -> bool:
    return type(one) is int and type(other) is int and one == other


def _kind(value: object) -> str:
    """What a value is, for a message. The value itself may be long, or a secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    for kind, words in ((str, "a string"), (Mapping, "an object"), (list | tuple, "a list"), (float, "a fraction")):
        if isinstance(value, kind):
            return words
    return "null" if value is None else f"a value of the type {type(value).__name__}"


def _figure(value: object) -> str:
    """A number for a message, if it is one that a person can read."""
    if type(value) is int and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    if type(value) in (int, float, Decimal):
        return str(value)[:_NAME_CHARS]
    return _kind(value)
