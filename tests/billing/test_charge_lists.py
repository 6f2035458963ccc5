"""Charges and holds are listed once, in pages, by the bytes of their operation ids."""

import random
from decimal import Decimal
from typing import Final

import asyncpg
import pytest

from libs.common.charge_filter import ChargeFilter
from libs.common.clock import SystemClock
from libs.common.database_url import plain_url
from libs.common.shards import Shards
from services.billing.charge.charges import Charges
from services.billing.ledger.domain import Capture, Credit, Place, SystemAccount
from services.billing.ledger.engine import Engine
from services.billing.ledger.history import History
from tests.billing.support import Ledger, organization, usd
from tests.billing.test_integrity import live
from tollhouse.billing.v1 import charge_pb2

VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))


@pytest.mark.shards
async def test_charges_are_listed_in_pages_by_operation(ledger: Ledger) -> None:
    org = await live(ledger)
    found = []
    request = charge_pb2.ListChargesRequest(organization_id=org, page_size=2)
    while True:
        page = await ledger.charge.ListCharges(request, metadata=ledger.metadata)
        found += [(charge.operation_id, charge.amount) for charge in page.charges]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert found == [
        ("annas-next-work", usd("0.25")),
        ("annas-work", usd("1")),
        ("captured", usd("2")),
        ("granted-use", usd("0.25")),
        ("in-parts", usd("0.25")),
        ("in-parts/1", usd("0.75")),
        ("in-parts/2", usd("0.5")),
        ("in-parts/late", usd("0.5")),
        ("late", usd("1")),
        ("work", usd("2")),
    ]


@pytest.mark.shards
async def test_charges_and_holds_are_listed_in_byte_order_of_operation_ids(
    billing_shards: Shards,
) -> None:
    org, clock = organization(), SystemClock()
    ids = [f"{first}x{second}" for first in VISIBLE for second in "aB_-+/="] + list(VISIBLE)
    random.shuffle(ids)
    engine = Engine(billing_shards, clock)
    await engine.submit([Credit(org, "0", None, "USD", Decimal(9), SystemAccount.PAYMENTS, "", None, "system")])
    await engine.submit([Place(org, name, None, "USD", Decimal("0.01"), 9_000, "", None, "system") for name in ids])
    await engine.submit(
        [Capture(org, name, None, "USD", Decimal("0.01"), "", None, "system") for name in ids if name != "0"]
    )
    await engine.drain()

    charges, history, token = Charges(billing_shards, clock), History(billing_shards, clock), ""
    charged: list[str] = []
    while token or not charged:
        page, token = await charges.page(ChargeFilter(org), 50, token)
        charged += [charge.operation_id for charge in page]
    held: list[str] = []
    while token or not held:
        holds, token = await history.holds(org, account_id=None, state=None, page_size=50, page_token=token)
        held += [hold.operation_id for hold in holds]

    assert held == sorted(ids, key=str.encode)
    assert charged == [name for name in held if name != "0"]


async def test_operation_ids_are_in_byte_order_whatever_the_locale_of_the_database(database_admin_url: str) -> None:
    connection = await asyncpg.connect(plain_url(database_admin_url))
    try:
        columns = await connection.fetch("""
            SELECT table_schema || '.' || table_name, collation_name FROM information_schema.columns
            WHERE table_schema IN ('billing_00', 'metering_00') AND column_name = 'operation_id'
        """)
    finally:
        await connection.close()
    assert len(columns) > 3
    assert [table for table, collation in columns if collation != "C"] == []
