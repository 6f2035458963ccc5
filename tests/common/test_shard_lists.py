"""Lists over all organizations go through every shard, and what belongs to one organization to its own shard."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol

import asyncpg
import pytest

from libs.common.charge_filter import ChargeFilter
from libs.common.clock import SystemClock
from libs.common.database import Database, open_database
from libs.common.database_url import database_name, plain_url
from libs.common.databases import create_database, drop_database
from libs.common.digests import Digests
from libs.common.errors import InvalidArgument
from libs.common.ids import new_id
from libs.common.pages import encode_page_token
from libs.common.sharding import shard_number, shard_schema
from libs.common.shards import Shards
from services.billing.charge.charges import Charges as BilledCharges
from services.metering.charge.charges import Charges as MeteredCharges
from services.metering.charge.domain import PendingCharge
from tests.support.charges import NOW, Charge, put_billed, put_metered, put_pending
from tests.support.database import TestPostgres, new_database_name

DATABASES: Final = 2


class Keyed(Protocol):
    """A charge of either service."""

    @property
    def organization_id(self) -> str: ...

    @property
    def operation_id(self) -> str: ...


@pytest.fixture
async def admin_urls(postgres: TestPostgres, template_database: str) -> AsyncIterator[list[str]]:
    """A database for each shard, which is the first of it: the tables of a shard are the same wherever they are."""
    names = [new_database_name() for _ in range(DATABASES)]
    yield [await create_database(postgres.admin_url, name, template_database) for name in names]
    for name in names:
        await drop_database(postgres.admin_url, name)


async def open_shards(postgres: TestPostgres, admin_urls: Sequence[str], context: str) -> list[Database]:
    return [
        open_database(postgres.url(database_name(url), context), schema=shard_schema(context, 0)) for url in admin_urls
    ]


@pytest.fixture
async def billing(postgres: TestPostgres, admin_urls: list[str]) -> AsyncIterator[BilledCharges]:
    shards = await open_shards(postgres, admin_urls, "billing")
    yield BilledCharges(Shards(shards), SystemClock())
    for shard in shards:
        await shard.close()


@pytest.fixture
async def metering(postgres: TestPostgres, admin_urls: list[str]) -> AsyncIterator[MeteredCharges]:
    shards = await open_shards(postgres, admin_urls, "metering")
    yield MeteredCharges(Shards(shards), SystemClock())
    for shard in shards:
        await shard.close()


@pytest.fixture
async def charges(admin_urls: list[str]) -> list[Charge]:
    """Five charges of each of ten organizations, each in its shard; all of them wait in the outbox."""
    made = [
        Charge(organization_id, f"call-{number}", time=NOW + timedelta(seconds=7 * place % 10, minutes=number))
        for place, organization_id in enumerate(new_id() for _ in range(10))
        for number in range(5)
    ]
    for number, url in enumerate(admin_urls):
        connection = await asyncpg.connect(plain_url(url))
        try:
            for charge in made:
                if shard_number(charge.organization_id, DATABASES) == number:
                    await put_billed(connection, charge, 0)
                    await put_metered(connection, charge, 0)
                    await put_pending(connection, charge, 0)
        finally:
            await connection.close()
    return made


def by_shard(charges: Sequence[Charge]) -> list[tuple[str, str]]:
    keys = sorted(
        (shard_number(one.organization_id, DATABASES), one.organization_id, one.operation_id) for one in charges
    )
    return [key[1:] for key in keys]


async def test_charges_are_listed_shard_by_shard_and_a_shards_end_is_not_the_lists(
    billing: BilledCharges, metering: MeteredCharges, charges: list[Charge]
) -> None:
    for size in (1, 5, 7, 50):
        billed, metered = await all_pages(billing.page, size), await all_pages(metering.page, size)
        assert billed == metered == by_shard(charges)


async def all_pages(
    ask: Callable[[ChargeFilter, int, str], Awaitable[tuple[Sequence[Keyed], str]]], size: int
) -> list[tuple[str, str]]:
    """Return the keys of all charges, read page by page until there is no further page."""
    found: list[tuple[str, str]] = []
    token, pages = "", 0
    while token or not pages:
        page, token = await ask(ChargeFilter(), size, token)
        found += [(charge.organization_id, charge.operation_id) for charge in page]
        pages += 1
    assert pages >= DATABASES
    return found


async def test_organizations_are_listed_shard_by_shard(
    billing: BilledCharges, metering: MeteredCharges, charges: list[Charge]
) -> None:
    expected = list(dict.fromkeys(key[0] for key in by_shard(charges)))
    for size in (1, 2, 1000):
        money: list[tuple[str, int]] = []
        usage: list[str] = []
        token, more = "", True
        while more:
            page, token, _ = await billing.organizations(size, token)
            money, more = money + page, bool(token)
        more = True
        while more:
            used, token, _ = await metering.organizations(size, token)
            usage, more = usage + used, bool(token)
        assert money == [(organization_id, 5) for organization_id in expected]
        assert usage == expected

    some = [expected[3], new_id(), expected[8], expected[3]]
    assert {one[0] for one in (await billing.these_organizations(some))[0]} == {expected[3], expected[8]}
    assert set((await metering.these_organizations(some))[0]) == {expected[3], expected[8]}


async def test_pending_charges_are_listed_oldest_first_over_all_shards(
    metering: MeteredCharges, charges: list[Charge]
) -> None:
    expected = sorted((one.time, one.organization_id, one.operation_id) for one in charges)
    for size in (1, 4, 60):
        found: list[PendingCharge] = []
        after = (NOW - timedelta(days=1), charges[0].organization_id, "")
        while page := await metering.list_pending(refused_only=False, after=after, limit=size):
            found += page
            after = page[-1].key
        assert [one.key for one in found] == expected


async def test_what_belongs_to_an_organization_is_in_its_shard(
    billing: BilledCharges, metering: MeteredCharges, charges: list[Charge]
) -> None:
    for organization_id in {charge.organization_id for charge in charges}:
        for wanted in (
            ChargeFilter(organization_id),
            ChargeFilter(organization_id, operation_ids=tuple(f"call-{number}" for number in range(5))),
            ChargeFilter(organization_id, buckets=(0, 1), bucket_count=2),
        ):
            found: list[str] = []
            metered, token = await metering.page(wanted, 3, "")
            while True:
                found += [charge.operation_id for charge in metered]
                if not token:
                    break
                metered, token = await metering.page(wanted, 3, token)
            billed, _ = await billing.page(wanted, 10, "")
            assert found == [charge.operation_id for charge in billed] == [f"call-{number}" for number in range(5)]
        assert await metering.retry(organization_id, ["call-1", "call-2", "unknown"]) == 2


async def test_digests_of_all_shards_are_one_answer(
    billing: BilledCharges, metering: MeteredCharges, charges: list[Charge], admin_urls: list[str]
) -> None:
    for url in admin_urls:
        connection = await asyncpg.connect(plain_url(url))
        await connection.execute("DELETE FROM metering_00.outbox")
        await connection.close()
    organization_ids = sorted({charge.organization_id for charge in charges})
    answers = []
    for service in (billing, metering):
        pieces = [piece async for piece in service.digest(organization_ids, 4, None, None)]
        answers.append(
            [one for piece in pieces if isinstance(piece, Digests) for part in piece.messages() for one in part]
        )

    assert answers[0] == answers[1]
    assert {digest.organization_id for digest in answers[0]} == set(organization_ids)
    assert sum(digest.charge_count for digest in answers[0]) == len(charges)


async def test_tokens_of_shards_that_do_not_exist_are_refused(billing: BilledCharges, metering: MeteredCharges) -> None:
    one = new_id()
    for key in (("2", one, ""), ("-1", one, ""), ("²", one, ""), ("9" * 40, one, ""), ("0", "x", ""), ("0",), ()):
        token = encode_page_token(*key, fingerprint=f"charges/{ChargeFilter().fingerprint}")
        for service in (billing, metering):
            with pytest.raises(InvalidArgument):
                await service.page(ChargeFilter(), 10, token)
