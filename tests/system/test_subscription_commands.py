"""`tollhouse subscription`: what it prints, and what it changes."""

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1 import amount_pb2


async def _funded(installation: Installation) -> str:
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        request = ledger_pb2.CreditRequest(
            organization_id=organization_id,
            operation_id="top-up",
            amount=amount_pb2.Amount(currency_code="USD", value="100"),
        )
        await ledger_pb2_grpc.LedgerServiceStub(channels.billing).Credit(request)
    return organization_id


async def test_life_of_a_subscription_from_a_shell(installation: Installation) -> None:
    org = await _funded(installation)
    subscription = made(installation, "subscription", "create", org, "basic", "--request-id", "signup")
    assert (subscription["plan_code"], subscription["state"]) == ("basic", "SUBSCRIPTION_STATE_ACTIVE")
    key = org, subscription["subscription_id"]
    again = made(installation, "subscription", "create", org, "basic", "--request-id", "signup")
    assert again["subscription_id"] == key[1]
    assert "SUBSCRIPTION_EXISTS" in refused(installation, 1, "subscription", "create", org, "pro")

    preview = done(installation, "subscription", "change-plan", *key, "pro", "--preview")
    assert "net amount               20 USD" in preview
    assert "basic v1" in preview
    assert "--yes" in refused(installation, 2, "subscription", "change-plan", *key, "pro")
    changed = done(installation, "subscription", "change-plan", *key, "pro", "--yes")
    assert "-9.99 USD" in changed
    assert "29.99 USD" in changed
    done(installation, "subscription", "change-plan", *key, "free", "--at-period-end", "--yes")
    assert "then free v1" in done(installation, "subscription", "list", org, "--plan", "pro", "--state", "active")
    done(installation, "subscription", "withdraw-change", *key)
    for command, state in (("pause", "paused"), ("resume", "active"), ("resume", "active")):
        assert f" {state} " in done(installation, "subscription", command, *key)
    assert " suspended " in done(installation, "subscription", "suspend", *key, "--reason", "abuse")
    assert " active " in done(installation, "subscription", "resume", *key)
    assert "Give --expires" in refused(installation, 2, "subscription", "update", *key)
    done(installation, "subscription", "update", *key, "--expires", "300d", "--customer", "c-1")
    assert "PROVIDER_UNKNOWN" in refused(installation, 1, "subscription", "update", *key, "--collect-by", "nobody")
    done(installation, "subscription", "update", *key, "--collect-by", "balance")
    assert made(installation, "subscription", "show", *key)["customer_reference"] == "c-1"
    assert key[1] in done(installation, "subscription", "due", "--before", "40d", "--limit", "100000")
    assert key[1] not in done(installation, "subscription", "due", "--set-aside")

    assert "cancelled at the period's end" in done(
        installation, "subscription", "cancel", *key, "--at-period-end", "--yes"
    )
    done(installation, "subscription", "withdraw-cancellation", *key)
    assert "--yes" in refused(installation, 2, "subscription", "cancel", *key)
    assert " cancelled " in done(installation, "subscription", "cancel", *key, "--yes")
    events = done(installation, "subscription", "events", *key).splitlines()
    assert [event.split()[1] for event in events[1:4]] == ["created", "period", "plan"]
    assert len(found(installation, "subscription", "events", *key)) == len(events) - 1
    assert "SUBSCRIPTION_ENDED" in refused(installation, 1, "subscription", "retry-payment", *key)
    for command in ("approve", "reject"):
        assert "SUBSCRIPTION_NOT_PENDING" in refused(
            installation, 1, "subscription", command, *key, "--reason", "because"
        )
    assert found(installation, "subscription", "list", new_id(), "--expires-before", "30d") == []
