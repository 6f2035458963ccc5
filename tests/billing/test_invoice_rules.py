"""The rules on amounts of invoices and credit notes, and on what an invoice covers."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import new_id
from libs.common.server import SEND_MAX_BYTES
from services.billing.invoice.domain import (
    ZERO,
    Amounts,
    CreditExceedsLine,
    Document,
    DocumentKind,
    Line,
    LineKind,
    Party,
    State,
    Step,
    Tax,
    credit_amounts,
    credit_lines,
    credits_applied,
    tax_on,
)
from services.billing.invoice.gathering import LINES_MAX, Charged, Gathering, Used
from services.billing.invoice.rendering import render_document

NOW = datetime(2026, 9, 1, tzinfo=UTC)
MONEY = st.decimals("-1000", "1000", places=9)


def invoice_of(amounts: list[Decimal], percent: str, currency_code: str = "USD") -> Document:
    """An invoice with a line for each amount."""
    lines = tuple(
        Line(number, LineKind.CHARGE, f"thing {number}", NOW, NOW, amount)
        for number, amount in enumerate(amounts, start=1)
    )
    subtotal = sum(amounts, ZERO)
    return Document(
        organization_id="org",
        invoice_id="invoice",
        kind=DocumentKind.INVOICE,
        state=State.ISSUED,
        number="INV-1",
        account_id="account",
        project_id=None,
        currency_code=currency_code,
        lines=lines,
        amounts=Amounts(subtotal, tax_on(subtotal, percent, currency_code)),
        tax=Tax(percent),
        issuer=Party("A"),
        recipient=Party("B"),
        language="en",
        footer="",
        issue_time=NOW,
        state_time=NOW,
        due_time=NOW,
        actor="operator:alice",
    )


def test_four_credit_notes_add_up_to_the_invoice_and_a_fifth_is_refused() -> None:
    """Acceptance case 6, first part."""
    invoice = invoice_of([Decimal(value) for value in ("68.33", "68.33", "57.50", "85.00")], "20")
    assert invoice.amounts.total == Decimal("334.99")
    credited: dict[int, Decimal] = {}
    net, totals = ZERO, []
    for line in invoice.lines:
        (noted,) = credit_lines(invoice.lines, credited, {line.number: None})
        amounts = credit_amounts(invoice, net, noted.amount)
        credited[line.number], net = noted.amount, net + noted.amount
        totals.append(amounts.total)
    assert sum(totals) == Decimal("334.99")
    with pytest.raises(CreditExceedsLine):
        credit_lines(invoice.lines, credited, {1: None})
    assert credit_lines(invoice.lines, credited, {}) == ()


def test_crediting_all_is_exactly_what_was_charged() -> None:
    """Acceptance case 6, second part."""
    invoice = invoice_of([Decimal("100.50")], "25")
    (line,) = credit_lines(invoice.lines, {}, {})
    assert credit_amounts(invoice, ZERO, line.amount) == invoice.amounts


@given(
    amounts=st.lists(MONEY, min_size=1, max_size=8),
    percent=st.decimals("0", "100", places=2),
    currency_code=st.sampled_from(["USD", "JPY", "KWD", "CREDIT"]),
    order=st.randoms(use_true_random=False),
)
def test_notes_on_all_lines_in_any_order_credit_what_was_charged(
    amounts: list[Decimal], percent: Decimal, currency_code: str, order: object
) -> None:
    invoice = invoice_of(amounts, str(percent), currency_code)
    lines = [line for line in invoice.lines if line.amount]
    order.shuffle(lines)  # type: ignore[attr-defined]  # a Random.
    net = tax = ZERO
    for line in lines:
        noted = credit_amounts(invoice, net, line.amount)
        net, tax = net + noted.subtotal, tax + noted.tax
    assert (net, tax) == (invoice.amounts.subtotal, invoice.amounts.tax)


@pytest.mark.parametrize(
    ("net", "percent", "code", "tax"),
    [
        ("279.16", "20", "USD", "55.83"),
        ("0.125", "100", "USD", "0.12"),
        ("0.135", "100", "USD", "0.14"),
        ("105", "10", "JPY", "10"),
        ("0.0125", "100", "KWD", "0.012"),
        ("-100.50", "25", "USD", "-25.12"),
        ("999999999999999.999999999", "99.9999", "USD", "999999000000000.00"),
        ("5", "", "USD", "0"),
    ],
)
def test_tax_is_rounded_once_half_to_even_to_the_smallest_coin(net: str, percent: str, code: str, tax: str) -> None:
    assert tax_on(Decimal(net), percent, code) == Decimal(tax)


@pytest.mark.parametrize(
    ("subtotal", "balance", "askable", "applied"),
    [
        ("10", "0", "10", "10"),
        ("10", "-6", "10", "4"),
        ("10", "-99", "10", "0"),
        ("10", "-99", "4", "6"),
        ("10", "-99", "-1", "10"),
        ("-2", "-5", "-2", "-2"),
    ],
)
def test_balance_pays_what_it_lacks_nothing_of(subtotal: str, balance: str, askable: str, applied: str) -> None:
    assert credits_applied(Decimal(subtotal), Decimal(balance), Decimal(askable)) == Decimal(applied)


@dataclass
class Asked:
    """An invoice of `Billed`."""

    subtotal: int
    due: int
    is_void: bool = False
    is_paid: bool = False


@dataclass
class Billed:
    """An account whose money is counted in whole numbers, and its invoices."""

    balance: int = 0
    now: int = 0
    later: int = 0
    came_in: int = 0
    invoices: list[Asked] = field(default_factory=list)
    voided: list[Asked] = field(default_factory=list)

    def do(self, what: str, value: int) -> None:
        """Charge for this month or for the next, pay in, issue, or pay or void one of the open invoices."""
        opened = [one for one in self.invoices if not one.is_void and not one.is_paid]
        match what:
            case "charge":
                self.now, self.balance = self.now + value, self.balance - value
            case "charge later":
                self.later, self.balance = self.later + value, self.balance - value
            case "top up":
                self.pay_in(value)
            case "charge and issue":
                self.do("charge", value)
                self.issue()
            case "issue":
                self.issue()
            case "pay" if opened:
                paid = opened[value % len(opened)]
                self.pay_in(paid.due)
                paid.is_paid = True
            case "void" if opened:
                void = opened[value % len(opened)]
                void.is_void = True
                self.voided.append(void)

    def pay_in(self, value: int) -> None:
        self.came_in, self.balance = self.came_in + value, self.balance + value

    def issue(self) -> None:
        subtotal = self.now + sum(one.subtotal for one in self.voided)
        askable = self.now + sum(one.due for one in self.voided)
        applied = credits_applied(Decimal(subtotal), Decimal(self.balance + self.later), Decimal(askable))
        self.invoices.append(Asked(subtotal, max(subtotal - int(applied), 0)))
        self.now, self.later, self.voided = self.later, 0, []

    def pay_all(self) -> int:
        """Invoice everything, pay every open invoice, and return what is on the account then."""
        self.issue()
        self.issue()
        for one in [one for one in self.invoices if not one.is_void and not one.is_paid]:
            self.do("pay", 0)
            assert one.is_paid
        return self.balance


def actions(*names: str) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 9)), max_size=30)


@given(actions("charge", "charge later", "top up", "issue", "pay"))
def test_invoice_asks_for_what_is_left_after_money_has_paid_earlier_invoices(done: list[tuple[str, int]]) -> None:
    billed = Billed()
    for what, value in [*done, ("issue", 0), ("issue", 0)]:
        left = billed.came_in
        for one in billed.invoices:
            left -= min(left, one.subtotal)
        count = len(billed.invoices)
        billed.do(what, value)
        for one in billed.invoices[count:]:
            assert one.due == one.subtotal - min(left, one.subtotal)


@given(prepaid=st.integers(0, 12), done=actions("charge later", "charge and issue", "charge and issue", "pay", "void"))
def test_all_that_invoices_ask_for_is_what_was_not_prepaid(prepaid: int, done: list[tuple[str, int]]) -> None:
    """In any order of charges, issues, payments and voids; so nothing is asked for twice, and nothing never."""
    billed = Billed()
    billed.pay_in(prepaid)
    for what, value in done:
        billed.do(what, value)
    charged = billed.came_in - billed.balance
    assert billed.pay_all() == max(prepaid - charged, 0)
    assert all(0 <= one.due <= one.subtotal for one in billed.invoices)


@given(actions("charge", "charge later", "top up", "issue", "pay", "void", "correct"))
def test_nothing_is_lacking_once_all_invoices_are_paid(done: list[tuple[str, int]]) -> None:
    """Whatever is paid in or corrected meanwhile."""
    billed = Billed()
    for what, value in done:
        if what == "correct":
            billed.do("charge", -value)
        elif what != "void" or all(one.subtotal >= 0 for one in billed.invoices):
            billed.do(what, value)
    assert billed.pay_all() >= 0


@given(
    bounds=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5),
    movements=st.lists(st.integers(0, 14), max_size=14),
)
def test_each_movement_is_in_the_step_of_one_invoice(bounds: list[tuple[int, int]], movements: list[int]) -> None:
    """Bounds never fall. A movement is covered by the first invoice that comes after it and after its time."""
    steps: list[Step] = []
    after, moment = 0, None
    for more, days in bounds:
        to_time = (NOW if moment is None else moment) + timedelta(days=days)
        steps.append(Step(after, moment, min(after + more, len(movements)), to_time, 1))
        after, moment = steps[-1].to_sequence, to_time
    for sequence, day in enumerate(movements, start=1):
        belongs_to = NOW + timedelta(days=day)
        in_steps = [number for number, step in enumerate(steps) if step.covers(sequence, belongs_to)]
        first = [
            number for number, step in enumerate(steps) if sequence <= step.to_sequence and belongs_to < step.to_time
        ]
        assert in_steps == first[:1]


def test_usage_of_the_last_microsecond_of_august_is_of_august_wherever_the_invoice_comes() -> None:
    """Acceptance case 8, with its moments: issued on 1 September without grace, or on the 4th with three days of it."""
    last = datetime(2026, 8, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    september, october = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)
    for covered, later in ((7, True), (8, False)):
        august = Step(0, None, covered, september, 1)
        following = Step(covered, september, 9, october, 1)
        # The eighth movement is charged on 2 September for usage of August, the ninth for usage of midnight.
        assert (august.covers(8, last), following.covers(8, last)) == (not later, later)
        assert (august.covers(9, september), following.covers(9, september)) == (False, True)


def test_what_is_due_is_never_negative() -> None:
    amounts = Amounts(Decimal(-5), Decimal(-1), Decimal(-5))
    assert amounts.due == 0
    assert replace(amounts, subtotal=Decimal(5), tax=Decimal(1), credits_applied=Decimal(2)).due == 4


@pytest.mark.parametrize("units", [0, 2, 64])
def test_invoice_of_however_many_charges_fits_into_an_answer_and_loses_none(units: int) -> None:
    gathering = Gathering()
    quantities = {f"unit-with-a-long-name-{number:042}": Decimal("123456789.123456789") for number in range(units)}
    for number in range(1, 5_001):
        used = Used(NOW, f"model-{number}-{'x' * 200}", "standard", new_id(), quantities)
        charged = Charged(number, f"call-{number}", None, "", Decimal("0.000000001"), NOW, True, False)
        gathering.add(charged, used, None)
    lines = gathering.lines({})
    assert len(lines) <= LINES_MAX + 1
    assert (sum(line.amount for line in lines), sum(line.movement_count for line in lines)) == (
        Decimal("0.000005"),
        5_000,
    )
    for unit in quantities:
        sold = [one.value for line in lines for one in line.quantities if one.unit == unit]
        assert sum(sold) == 5_000 * Decimal("123456789.123456789")
    document = replace(invoice_of([Decimal(1)], ""), lines=lines)
    assert render_document(document).ByteSize() < SEND_MAX_BYTES / 2
