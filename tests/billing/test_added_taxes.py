"""Taxes that a provider adds to a price are no part of a payment, of its refunds or of its disputes."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.payment.domain import Brings, Credits, Payment, PaymentType, due_back
from services.billing.payment.facts import with_taxes_told
from services.billing.payment.provider import PaymentFact
from services.billing.payment.providers.money import gross_of, gross_of_refund, net_of
from services.billing.payment.providers.stripe.money import smallest
from services.billing.payment.said import merge, told_by
from tests.billing.payment_house import fact, paid, reference
from tests.billing.test_provider_facts import OURS, stripe_facts
from tests.support.clock import DEFAULT_NOW


@given(amount=st.integers(1, 10**9), tax=st.integers(0, 10**9), parts=st.lists(st.integers(1, 10**9), max_size=5))
def test_refund_without_taxes_is_never_more_than_the_payment_and_all_of_it_is_all(
    amount: int, tax: int, parts: list[int]
) -> None:
    total = amount + tax
    assert net_of(total, amount, total) == amount
    assert gross_of(amount, amount, total) == total
    before = 0
    for part in parts:
        refunded = net_of(min(part, total), amount, total)
        assert 0 <= refunded <= amount
        before = max(before, refunded)


@given(amount=st.integers(1, 10**9), tax=st.integers(0, 10**9), unit=st.sampled_from([1, 10, 100]), data=st.data())
def test_refunds_of_parts_give_back_the_whole_with_its_taxes_and_count_as_what_was_asked_for(
    amount: int, tax: int, unit: int, data: st.DataObject
) -> None:
    """Also in currencies of which amounts are multiples of 10 or 100, as of KWD and UGX at Stripe."""
    total, before, refunded = amount + tax, 0, 0
    while before < amount:
        net = data.draw(st.integers((amount + 4) // 5, amount)) if before else data.draw(st.integers(1, amount))
        net = min(net, amount - before)
        asked = gross_of_refund(*(one * unit for one in (net, before, refunded, amount, total)), smallest=unit)
        assert asked % unit == 0
        refunded += asked // unit
        before += net
        assert net_of(refunded * unit, amount * unit, total * unit, smallest=unit) == before * unit
    assert refunded == total


@pytest.mark.parametrize(("gross", "net"), [(0, "0"), (100, "0.84"), (357, "3"), (1_189, "9.99"), (1_190, "10")])
def test_charge_of_stripe_is_told_of_its_payment_without_the_taxes(gross: int, net: str) -> None:
    (fact,) = stripe_facts("charge.refunded")
    assert fact.gross_unit == Decimal("0.01")
    told = replace(fact, amount=Decimal("11.90"), refunded_amount=Decimal(gross) / 100)
    assert hear(of(Decimal(10)), [told]).refunded_amount == Decimal(net)
    assert hear(of(Decimal("11.90")), [told]).refunded_amount == Decimal(gross) / 100


@given(data=st.data(), code=st.sampled_from(["USD", "JPY", "KWD"]), amount=st.integers(1, 10**6))
def test_disputes_and_refunds_with_taxes_take_back_their_part_without_them_and_all_of_it_is_all(
    data: st.DataObject, code: str, amount: int
) -> None:
    """In any order of what is told, which is with the taxes."""
    unit = smallest(code)
    total = amount + data.draw(st.integers(0, amount))
    refunded = data.draw(st.integers(0, total))
    over = data.draw(st.lists(st.integers(0, total), max_size=3))
    if data.draw(st.booleans()):
        over.append(max(total - refunded - sum(over), 0))
    payment = of(amount * unit, code)
    base = paid(payment, 2, references=(), amount=total * unit, gross_unit=unit)
    told = [replace(base, refunded_amount=refunded * unit), paid(payment, 1)]
    of_dispute = {"disputed": True, "disputed_currency_code": code}
    for number, units in enumerate(over):
        named = (reference("DISPUTE", f"d-{number}"),)
        told.append(fact(payment, 3, references=named, disputed_amount=units * unit, **of_dispute))
    heard = hear(payment, data.draw(st.permutations(told)))
    lost = refunded + sum(over)
    assert heard.refunded_amount == net_of(refunded, amount, total) * unit
    assert heard.lost_amount == net_of(lost, amount, total) * unit
    assert due_back(heard) <= heard.amount
    assert (due_back(heard) == heard.amount) == (net_of(lost, amount, total) == amount)
    assert lost < total or due_back(heard) == heard.amount


def hear(payment: Payment, told: list[PaymentFact]) -> Payment:
    for one in told:
        payment = replace(payment, said=merge(payment.said, told_by(with_taxes_told(payment, one))))
    return payment


def of(amount: Decimal, code: str = "USD") -> Payment:
    """Return a payment of so much money, which it brings."""
    known: dict[str, Any] = {
        "type": PaymentType.TOP_UP,
        "provider": "stripe",
        "amount": amount,
        "currency_code": code,
        "brings": Brings.MONEY,
        "credits": Credits(code, amount),
        "is_test": False,
        "actor": "operator:test",
        "create_time": DEFAULT_NOW,
        "update_time": DEFAULT_NOW,
        "said": {},
    }
    return Payment(OURS, OURS, **known)
