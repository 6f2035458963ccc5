"""Grants for a user or a model: who may use them, what others see, and what is entered of it."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from tests.billing.support import BillingServer, Ledger, balance_of, hold_of, organization, refusal, usd
from tests.billing.test_credits import DAY, at, rests, statement
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import credit_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

ANNA, BERT = new_id(), new_id()
MODEL = "gpt-x"


async def available_to(ledger: Ledger, org: str, user_id: str = "", model: str = "") -> str:
    summary = await ledger.credit_summary(org, user_id=user_id, model=model)
    return summary.balance.available.value


async def uses(ledger: Ledger, org: str, operation_id: str) -> dict[str, str]:
    """What a charge used of each grant, by the grants' operations, and of the rest of the account."""
    names = {grant.grant_id: grant.operation_id for grant in await ledger.grants(org)}
    explained = await ledger.explain(org, operation_id)
    found = {names[use.grant_id]: use.amount.value for use in explained.uses}
    return found | ({"other": explained.other_amount.value} if explained.other_amount.value != "0" else {})


async def test_a_users_grant_pays_for_charges_of_that_user_alone(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    for name, user in (("no", {}), ("other", {"user_id": BERT}), ("model", {"model": MODEL})):
        code, reason, facts = await refusal(timed.debit(org, name, "1", **user))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
        assert (facts["posted"], facts["available"], facts["scoped_to_others"]) == ("10", "0", "10")
        again = await refusal(timed.debit(org, name, "1", **user))
        assert again == (code, reason, facts)
        assert (await refusal(timed.hold(org, name, "1", **user)))[2]["scoped_to_others"] == "10"
    charged = await timed.debit(org, "annas-work", "4", user_id=ANNA, model=MODEL)
    assert (charged.balance.posted, charged.balance.scoped, charged.balance.available) == (usd("6"), usd("6"), usd("0"))
    assert await uses(timed, org, "annas-work") == {"annas": "4"}
    assert (await refusal(timed.debit(org, "too-much", "7", user_id=ANNA)))[2]["available"] == "6"
    assert await timed.findings() == []


async def test_a_grant_for_a_user_and_a_model_needs_both(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "both", "10", user_id=ANNA.upper(), model=MODEL)
    for scope in (
        {"user_id": ANNA},
        {"model": MODEL},
        {"user_id": ANNA, "model": "gpt-y"},
        {"user_id": BERT, "model": MODEL},
    ):
        assert (await refusal(timed.debit(org, new_id(), "1", **scope)))[1] == "INSUFFICIENT_BALANCE"
    await timed.debit(org, "work", "1", user_id=ANNA, model=MODEL)
    assert await uses(timed, org, "work") == {"both": "1"}
    assert await available_to(timed, org, ANNA, MODEL) == "9"
    assert await available_to(timed, org, ANNA) == "0"


async def test_the_order_of_use_comes_first_and_narrower_grants_before_wider_of_the_same_place(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "first", "1", priority=0)
    await timed.grant(org, "all", "1", priority=1)
    await timed.grant(org, "model", "1", priority=1, model=MODEL)
    await timed.grant(org, "user", "1", priority=1, user_id=ANNA)
    await timed.grant(org, "both", "1", priority=1, user_id=ANNA, model=MODEL)
    await timed.grant(org, "last", "1", priority=2, user_id=ANNA)
    await timed.credit(org, "top-up", "5")
    await timed.debit(org, "work", "7", user_id=ANNA, model=MODEL)
    explained = await timed.explain(org, "work")
    names = {grant.grant_id: grant.operation_id for grant in await timed.grants(org)}
    assert [names[use.grant_id] for use in explained.uses] == ["first", "both", "user", "model", "all", "last"]
    assert explained.other_amount == usd("1")


async def test_a_charge_beyond_the_users_grant_takes_the_common_credits(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.grant(org, "berts", "10", user_id=BERT)
    await timed.grant(org, "common", "5", priority=1)
    await timed.debit(org, "guarded", "12", user_id=ANNA)
    assert await uses(timed, org, "guarded") == {"annas": "10", "common": "2"}
    assert (await refusal(timed.debit(org, "more", "4", user_id=ANNA)))[2]["available"] == "3"
    best = await timed.debit(org, "best", "4", user_id=ANNA, mode=pb.DEBIT_MODE_BEST_EFFORT)
    assert best.posted_amount == usd("3")
    forced = await timed.debit(org, "forced", "2", user_id=ANNA, mode=pb.DEBIT_MODE_MUST_POST)
    assert forced.transaction.overdrawn
    assert await uses(timed, org, "forced") == {"other": "2"}
    assert await rests(timed, org) == {"annas": "0", "berts": "10", "common": "0"}
    # The account owes 2, which is missing to everybody: a guarded debit never overdraws the account.
    assert await available_to(timed, org, BERT) == "8"
    assert await available_to(timed, org) == "-2"
    assert await timed.findings() == []


async def test_a_repeat_with_another_user_or_model_gets_the_first_answer(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.debit(org, "work", "1", user_id=ANNA)
    assert (await timed.debit(org, "work", "1")).replayed
    assert (await timed.debit(org, "work", "1", user_id=BERT, model=MODEL)).replayed
    await timed.hold(org, "held", "1", user_id=ANNA)
    assert (await timed.hold(org, "held", "1")).replayed
    await timed.capture(org, "held", "1")
    assert (await timed.capture(org, "held", "1", user_id=BERT)).replayed
    assert await rests(timed, org) == {"annas": "8"}
    changed = await refusal(timed.grant(org, "annas", "10", user_id=BERT))
    assert changed[1:] == ("OPERATION_ID_REUSED", {"operation_id": "annas", "field": "user_id"})
    changed = await refusal(timed.grant(org, "annas", "10", user_id=ANNA, model=MODEL))
    assert changed[2]["field"] == "model"


async def test_a_hold_reserves_its_users_grant_and_its_capture_uses_it(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.grant(org, "common", "5", priority=1)
    held = await timed.hold(org, "call", "8", user_id=ANNA, model=MODEL)
    assert (held.balance.held, held.balance.scoped, held.balance.available) == (usd("8"), usd("2"), usd("5"))
    assert (held.hold.user_id, held.hold.model) == (ANNA, MODEL)
    assert await available_to(timed, org, ANNA) == "7"
    assert (await refusal(timed.hold(org, "second", "8", user_id=ANNA)))[2]["available"] == "7"
    await timed.debit(org, "berts", "5", user_id=BERT)
    assert (await balance_of(timed, org)).available == usd("0")
    captured = await timed.capture(org, "call", "9")
    assert not captured.transaction.overdrawn
    assert await uses(timed, org, "call") == {"annas": "9"}
    assert (await balance_of(timed, org)).scoped == usd("1")
    assert await timed.findings() == []


async def test_a_hold_without_a_user_takes_that_of_its_capture(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.credit(org, "top-up", "5")
    await timed.hold(org, "call", "5")
    await timed.capture(org, "call", "5", user_id=ANNA)
    assert await uses(timed, org, "call") == {"annas": "5"}
    await timed.hold(org, "berts", "5", user_id=BERT)
    await timed.capture(org, "berts", "5", user_id=ANNA)
    assert await uses(timed, org, "berts") == {"other": "5"}


async def test_parts_of_a_call_and_a_larger_hold_stay_within_the_users_grant(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.hold(org, "call", "6", user_id=ANNA)
    await timed.capture(org, "call", "2", part_id="call/1")
    assert await uses(timed, org, "call/1") == {"annas": "2"}
    assert await available_to(timed, org, ANNA) == "4"
    assert (await refusal(timed.extend(org, "call", "11", seconds=60)))[2]["available"] == "4"
    await timed.extend(org, "call", "10", seconds=60)
    assert await available_to(timed, org, ANNA) == "0"
    await timed.capture(org, "call", "9", part_id="call/2")
    assert await uses(timed, org, "call/2") == {"annas": "8", "other": "1"}
    await timed.capture(org, "call", "0")
    assert await rests(timed, org) == {"annas": "0"}
    assert await timed.findings() == []


async def test_what_a_hold_reserves_of_a_users_grant_expires_when_it_is_released(
    timed: Ledger, clock: FixedClock
) -> None:
    org = organization()
    await timed.grant(org, "annas", "10", user_id=ANNA, expire_time=at(clock.now() + DAY))
    clock.advance(timedelta(hours=23))
    for name in ("released", "captured", "expiring"):
        await timed.hold(org, name, "2", user_id=ANNA, ttl=Duration(seconds=86_400 if name != "expiring" else 7_200))
    clock.advance(timedelta(hours=1))
    assert (await balance_of(timed, org)).posted == usd("6")
    assert await available_to(timed, org, ANNA) == "0"
    assert (await refusal(timed.debit(org, "late", "1", user_id=ANNA)))[1] == "INSUFFICIENT_BALANCE"
    await timed.release(org, "released")
    await timed.capture(org, "captured", "1")
    assert await uses(timed, org, "captured") == {"annas": "1"}
    assert (await balance_of(timed, org)).posted == usd("2")
    clock.advance(timedelta(hours=2))
    assert (await balance_of(timed, org)).posted == usd("0")
    (grant,) = await timed.grants(org)
    assert (grant.state, grant.used_amount, grant.expired_amount) == (credit_pb2.GRANT_STATE_ENDED, usd("1"), usd("9"))
    assert await timed.findings() == []


async def test_holds_from_before_the_first_scoped_grant_reserve_as_others_do(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.grant(org, "ends", "5", expire_time=at(clock.now() + timedelta(hours=1)))
    await timed.grant(org, "stays", "5", priority=1)
    day = Duration(seconds=86_400)
    await timed.hold(org, "one", "3", ttl=day, user_id=ANNA)
    await timed.hold(org, "two", "4", ttl=day)
    await timed.debit(org, "before", "1")
    await timed.grant(org, "annas", "10", user_id=ANNA)
    clock.advance(timedelta(hours=1))
    assert (await balance_of(timed, org)).posted == usd("19")
    await timed.release(org, "one")
    assert (await balance_of(timed, org)).posted == usd("16")
    await timed.capture(org, "two", "4")
    assert await uses(timed, org, "two") == {"ends": "1", "stays": "3"}
    assert await rests(timed, org) == {"ends": "0", "stays": "2", "annas": "10"}
    assert await uses(timed, org, "before") == {"ends": "1"}
    assert await timed.findings() == []


async def test_a_reversal_gives_back_to_the_grants_that_the_charge_used(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.grant(org, "annas", "5", user_id=ANNA)
    await timed.grant(org, "ends", "3", priority=1, user_id=ANNA, expire_time=at(clock.now() + DAY))
    await timed.grant(org, "common", "4", priority=2)
    await timed.credit(org, "top-up", "10")
    charged = (await timed.debit(org, "work", "14", user_id=ANNA)).transaction.transaction_id
    assert await uses(timed, org, "work") == {"annas": "5", "ends": "3", "common": "4", "other": "2"}
    # Grants that are used up end when another begins; what is given back to one revives it.
    await timed.grant(org, "later", "1", priority=9, user_id=BERT)
    await timed.reverse(org, "undo-1", charged, "3")
    assert await rests(timed, org) == {"annas": "0", "ends": "0", "common": "1", "later": "1"}
    clock.advance(DAY)
    await timed.reverse(org, "undo-2", charged, "5")
    assert await uses(timed, org, "undo-2") == {"common": "3", "other": "2"}
    undone = await timed.reverse(org, "undo-3", charged)
    assert undone.remaining_amount == usd("0")
    assert await rests(timed, org) == {"annas": "5", "ends": "0", "common": "4", "later": "1"}
    # What came from the grant that has ended stays on the account: 10 + 3.
    assert (await balance_of(timed, org)).posted == usd("23")
    assert await timed.findings() == []


async def test_a_charge_from_before_uses_were_entered_is_reversed_to_grants_for_everybody(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "a", "5", priority=1)
    await timed.grant(org, "b", "5", priority=2)
    charged = (await timed.debit(org, "work", "7", user_id=ANNA)).transaction.transaction_id
    await timed.grant(org, "annas", "5", user_id=ANNA)
    await timed.reverse(org, "undo", charged, "4")
    # The first grant was used up and over when the other began, as on accounts without scoped grants.
    assert await rests(timed, org) == {"a": "0", "b": "5", "annas": "5"}
    assert await uses(timed, org, "undo") == {"b": "2", "other": "2"}
    assert await timed.findings() == []


async def test_void_takes_a_scoped_grant_back_and_the_hold_keeps_its_part(timed: Ledger) -> None:
    org = organization()
    granted = await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.hold(org, "held", "4", user_id=ANNA)
    voided = await timed.void(org, granted.grant.grant_id)
    assert (voided.voided_amount, voided.balance.posted, voided.balance.available) == (usd("6"), usd("4"), usd("0"))
    assert (await refusal(timed.debit(org, "late", "1", user_id=ANNA)))[1] == "INSUFFICIENT_BALANCE"
    await timed.capture(org, "held", "3")
    assert [kind for kind, _, _ in await statement(timed, org)] == ["GRANT", "VOID", "CAPTURE", "VOID"]
    assert (await balance_of(timed, org)).posted == usd("0")
    assert await timed.findings() == []


async def test_scoped_credits_cannot_be_passed_on(timed: Ledger) -> None:
    org, project = organization(), organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.credit(org, "top-up", "3")
    code, reason, facts = await refusal(timed.transfer(org, "t", "4", "", project))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
    assert (facts["available"], facts["scoped_to_others"]) == ("3", "10")
    await timed.transfer(org, "u", "3", "", project)
    assert await rests(timed, org) == {"annas": "10"}


async def test_the_summary_of_a_user_says_limit_used_remaining_and_expired(timed: Ledger, clock: FixedClock) -> None:
    org, month = organization(), 30 * DAY
    included = credit_pb2.GRANT_KIND_INCLUDED
    await timed.grant(org, "common", "7", priority=9)
    await timed.grant(org, "m1", "100", user_id=ANNA, kind=included, expire_time=at(clock.now() + month))
    await timed.grant(
        org,
        "m2",
        "100",
        user_id=ANNA,
        kind=included,
        effective_time=at(clock.now() + month),
        expire_time=at(clock.now() + 2 * month),
    )
    await timed.debit(org, "one", "30", user_id=ANNA)
    first = await timed.credit_summary(org, user_id=ANNA)
    assert (first.used_amount, first.used_since_refill_amount) == (usd("30"), usd("30"))
    assert (first.next_effective_time, first.last_refill_time) == (at(clock.now() + month), at(clock.now()))
    clock.advance(month)
    await timed.debit(org, "two", "20", user_id=ANNA)
    await timed.debit(org, "berts", "1", user_id=BERT)
    mine = await timed.credit_summary(org, user_id=ANNA)
    assert [(one.kind, one.amount.value, one.remaining_amount.value) for one in mine.granted] == [
        (included, "200", "80")
    ]
    assert (mine.used_amount, mine.expired_amount, mine.used_since_refill_amount) == (usd("50"), usd("70"), usd("20"))
    assert (mine.balance.available, mine.next_expire_amount) == (usd("86"), usd("80"))
    assert not mine.HasField("other_amount")
    everybody = await timed.credit_summary(org)
    assert (everybody.used_amount, everybody.used_since_refill_amount) == (usd("51"), usd("21"))
    assert (everybody.balance.available, everybody.balance.scoped) == (usd("6"), usd("80"))
    assert (await timed.credit_summary(org, user_id=BERT)).granted == []
    listed = await timed.grants(org, user_id=ANNA)
    assert [(grant.operation_id, grant.user_id) for grant in listed] == [("m1", ANNA), ("m2", ANNA)]
    assert await timed.grants(org, model=MODEL) == []


@pytest.mark.own_database
async def test_users_of_one_account_never_use_each_others_grants_at_once(server: BillingServer) -> None:
    """Two processes, three users with 20 each, and 40 debits of 1 by each user at once: 20 of each are made."""
    users = [new_id() for _ in range(3)]
    org = organization()
    async with server.start() as one, server.start() as two:
        for user in users:
            await one.grant(org, f"of-{user}", "20", user_id=user)

        async def charge(ledger: Ledger, user: str, number: int) -> bool:
            for _ in range(20):
                try:
                    if number % 2:
                        await ledger.debit(org, f"{user}-{number}", "1", user_id=user)
                    else:
                        await ledger.hold(org, f"{user}-{number}", "1", user_id=user)
                        await ledger.capture(org, f"{user}-{number}", "1")
                    return True
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                        return False
            raise AssertionError("no definite answer")

        made = await asyncio.gather(
            *(charge((one, two)[number % 4 // 2], user, number) for number in range(40) for user in users)
        )
        assert sum(made) == 60
        assert set((await rests(one, org)).values()) == {"0"}
        assert (await balance_of(two, org)).posted == usd("0")
        assert await one.findings() == []


@pytest.mark.own_database
async def test_a_process_that_knows_the_account_learns_of_its_first_scoped_grant(server: BillingServer) -> None:
    """The other process has the account and a hold cached, and would post by the quick way."""
    org = organization()
    async with server.start() as one, server.start() as two:
        await one.credit(org, "top-up", "10")
        await one.debit(org, "warm", "1", user_id=ANNA)
        await one.hold(org, "call", "2", user_id=ANNA)
        await two.grant(org, "annas", "5", user_id=ANNA)
        await one.debit(org, "work", "4", user_id=ANNA)
        await one.capture(org, "call", "2")
        assert await uses(one, org, "work") == {"annas": "4"}
        assert await uses(one, org, "call") == {"annas": "1", "other": "1"}
        assert await rests(two, org) == {"annas": "0"}
        assert (await hold_of(two, org)).state == pb.HOLD_STATE_CAPTURED
        assert await one.findings() == []


async def test_charges_of_other_accounts_in_the_batch_are_decided_apart(timed: Ledger) -> None:
    """In one batch: debits of an account with scoped grants, of one without, and one id for work on both."""
    org, plain = organization(), organization()
    await timed.grant(org, "annas", "10", user_id=ANNA)
    await timed.credit(plain, "top-up", "10")

    async def batch() -> list[pb.DebitOutcome]:
        requests = [
            pb.DebitRequest(organization_id=one, operation_id=f"call-{n}", amount=usd("2"), user_id=ANNA)
            for n in range(4)
            for one in (org, plain)
        ]
        requests.append(pb.DebitRequest(organization_id=org, operation_id="call-9", amount=usd("3"), user_id=ANNA))
        requests.append(pb.DebitRequest(organization_id=plain, operation_id="call-9", amount=usd("3")))
        answer = await timed.ledger.BatchDebit(pb.BatchDebitRequest(requests=requests), metadata=timed.metadata)
        return list(answer.outcomes)

    await timed.debit(plain, "warm", "1")
    first = await batch()
    assert [outcome.response.balance.posted.value for outcome in first[:8]] == ["8", "7", "6", "5", "4", "3", "2", "1"]
    assert [outcome.HasField("error") for outcome in first] == [False] * 8 + [True] * 2
    again = await batch()
    assert all(outcome.response.replayed for outcome in again[:8])
    assert [outcome.error for outcome in again[8:]] == [outcome.error for outcome in first[8:]]
    assert await rests(timed, org) == {"annas": "2"}
