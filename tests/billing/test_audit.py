"""Billing's audit trail: one event for each change of an account, with its actor, and none for movements of money."""

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.audit.recording import PLATFORM
from libs.common.ids import new_id
from tests.billing.support import Ledger, organization, refusal, usd
from tests.support.callers import Callers
from tollhouse.billing.v1 import account_pb2
from tollhouse.common.v1 import audit_pb2 as pb
from tollhouse.common.v1 import audit_pb2_grpc

pytestmark = pytest.mark.shards


class Audit:
    """Stubs of billing's AuditService, called as an operator."""

    def __init__(self, ledger: Ledger) -> None:
        self.stub = audit_pb2_grpc.AuditServiceStub(ledger.channel)
        self.ledger = ledger

    async def events(self, organization_id: str, **filters: object) -> list[pb.AuditEvent]:
        """An organization's events, the oldest first."""
        request = pb.ListAuditEventsRequest(organization_id=organization_id, page_size=2, **filters)  # type: ignore[arg-type]
        found: list[pb.AuditEvent] = []
        while True:
            page = await self.stub.ListAuditEvents(request, metadata=self.ledger.metadata)
            found += page.events
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found[::-1]

    async def verify(self, organization_id: str, **fields: object) -> pb.VerifyAuditChainResponse:
        request = pb.VerifyAuditChainRequest(organization_id=organization_id, **fields)  # type: ignore[arg-type]
        return await self.stub.VerifyAuditChain(request, metadata=self.ledger.metadata)


@pytest.fixture
def audit(ledger: Ledger) -> Audit:
    return Audit(ledger)


def _changes(event: pb.AuditEvent) -> dict[str, tuple[str | None, str | None]]:
    return {
        change.field: (
            change.before if change.HasField("before") else None,
            change.after if change.HasField("after") else None,
        )
        for change in event.changes
    }


async def _open(ledger: Ledger, org: str, **fields: object) -> account_pb2.Account:
    request = account_pb2.OpenAccountRequest(organization_id=org, currency_code="USD", **fields)  # type: ignore[arg-type]
    return (await ledger.accounts.OpenAccount(request, metadata=ledger.metadata)).account


async def test_every_change_of_an_account_is_recorded(ledger: Ledger, audit: Audit) -> None:
    org, project = organization(), new_id()
    opening = {"project_id": project, "overdraft_limit": usd("5.50"), "metadata": {"note": "private"}}
    account = await _open(ledger, org, request_id="open-1", **opening)
    await ledger.accounts.UpdateAccount(
        account_pb2.UpdateAccountRequest(
            organization_id=org,
            account=account_pb2.Account(account_id=account.account_id, overdraft_limit=usd("7")),
            update_mask=FieldMask(paths=["overdraft_limit", "metadata"]),
        ),
        metadata=ledger.metadata,
    )
    close = account_pb2.CloseAccountRequest(organization_id=org, account_id=account.account_id)
    await ledger.accounts.CloseAccount(close, metadata=ledger.metadata)
    await _open(ledger, org, request_id="open-2", project_id=project)

    opened, updated, closed, reopened = await audit.events(org)
    assert [event.action for event in (opened, updated, closed, reopened)] == [
        *("OpenAccount", "UpdateAccount", "CloseAccount", "OpenAccount")
    ]
    assert _changes(opened) == {
        "state": (None, "OPEN"),
        "project_id": (None, project),
        "currency_code": (None, "USD"),
        "overdraft_limit": (None, "5.5"),
        "metadata": (None, None),
    }
    assert _changes(updated) == {"overdraft_limit": ("5.5", "7"), "metadata": (None, None)}
    assert _changes(closed) == {"state": ("OPEN", "CLOSED")}
    assert _changes(reopened) == {"state": ("CLOSED", "OPEN"), "overdraft_limit": ("7", "0")}
    assert [event.request_id for event in (opened, updated, closed, reopened)] == ["open-1", "", "", "open-2"]
    for event in (opened, updated, closed, reopened):
        assert (event.resource_type, event.resource_id) == ("account", account.account_id)
        assert (event.actor, event.api_key_id) == ("operator:alice", "")
        assert (event.organization_id, event.peer_address) == (org, "127.0.0.1")
        assert event.user_agent.startswith("grpc-python-asyncio/")
        assert "private" not in str(event)


async def test_repeats_and_refusals_record_no_audit_event(ledger: Ledger, audit: Audit) -> None:
    org = organization()
    account = await _open(ledger, org, request_id="open-1")
    await _open(ledger, org, request_id="open-1")
    assert (await refusal(_open(ledger, org, request_id="open-1", overdraft_limit=usd("1"))))[1] == "REQUEST_ID_REUSED"
    assert (await refusal(_open(ledger, org, request_id="open-2")))[1] == "ACCOUNT_EXISTS"
    close = account_pb2.CloseAccountRequest(organization_id=org, account_id=account.account_id)
    stale = account_pb2.UpdateAccountRequest(
        organization_id=org,
        account=account_pb2.Account(account_id=account.account_id, etag="99"),
        update_mask=FieldMask(paths=["metadata"]),
    )
    assert (await refusal(ledger.accounts.UpdateAccount(stale, metadata=ledger.metadata)))[1] == "STALE_ETAG"
    for _ in range(3):
        await ledger.accounts.CloseAccount(close, metadata=ledger.metadata)
    assert [event.action for event in await audit.events(org)] == ["OpenAccount", "CloseAccount"]


async def test_ledger_commands_record_no_audit_event(ledger: Ledger, audit: Audit) -> None:
    org = organization()
    await ledger.credit(org, "fund", "10")
    debited = await ledger.debit(org, "call", "1")
    await ledger.hold(org, "held", "1")
    await ledger.capture(org, "held", "1")
    await ledger.reverse(org, "undo", debited.transaction.transaction_id)
    assert await audit.events(org) == []


async def test_events_are_filtered_and_a_page_token_belongs_to_its_filters(ledger: Ledger, audit: Audit) -> None:
    org = organization()
    accounts = [await _open(ledger, org, project_id=new_id()) for _ in range(4)]
    close = account_pb2.CloseAccountRequest(organization_id=org, account_id=accounts[0].account_id)
    await ledger.accounts.CloseAccount(close, metadata=ledger.metadata)

    everything = await audit.events(org)
    assert [event.sequence for event in everything] == [1, 2, 3, 4, 5]
    assert await audit.events(org, action="OpenAccount") == everything[:4]
    assert await audit.events(org, actor="operator:alice") == everything
    assert await audit.events(org, actor="operator:bob") == []
    of_one = await audit.events(org, resource_type="account", resource_id=accounts[0].account_id)
    assert of_one == [everything[0], everything[4]]
    assert await audit.events(org, start_time=everything[2].event_time) == everything[2:]
    assert await audit.events(org, end_time=everything[2].event_time) == everything[:2]
    assert await audit.events(organization()) == []

    request = pb.ListAuditEventsRequest(organization_id=org, page_size=1)
    page = await audit.stub.ListAuditEvents(request, metadata=ledger.metadata)
    for changed in (
        pb.ListAuditEventsRequest(action="OpenAccount"),
        pb.ListAuditEventsRequest(organization_id=organization()),
        pb.ListAuditEventsRequest(page_token="x"),
    ):
        request = pb.ListAuditEventsRequest(organization_id=org, page_size=1, page_token=page.next_page_token)
        request.MergeFrom(changed)
        code, _, _ = await refusal(audit.stub.ListAuditEvents(request, metadata=ledger.metadata))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields",
    [
        {"resource_id": "one"},
        {"start_time": Timestamp(seconds=2), "end_time": Timestamp(seconds=2)},
        {"start_time": Timestamp(seconds=-1)},
        {"page_size": -1},
        {"actor": "a" * 257},
        {"organization_id": "acme"},
    ],
)
async def test_list_with_contradicting_filters_is_refused(audit: Audit, fields: dict[str, object]) -> None:
    request = pb.ListAuditEventsRequest(**fields)  # type: ignore[arg-type]
    code, _, _ = await refusal(audit.stub.ListAuditEvents(request, metadata=audit.ledger.metadata))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields",
    [
        {"expected_head": pb.ChainHead(sequence=1)},
        {"expected_head": pb.ChainHead(hash="0" * 64)},
        {"expected_head": pb.ChainHead(sequence=1, hash="A" * 64)},
        {"after": pb.ChainHead(sequence=-1)},
        {"events_max": 100_001},
    ],
)
async def test_verification_with_contradicting_fields_is_refused(audit: Audit, fields: dict[str, object]) -> None:
    request = pb.VerifyAuditChainRequest(**fields)  # type: ignore[arg-type]
    code, _, _ = await refusal(audit.stub.VerifyAuditChain(request, metadata=audit.ledger.metadata))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_chain_is_verified_against_a_head_kept_outside(ledger: Ledger, audit: Audit) -> None:
    org = organization()
    for _ in range(3):
        await _open(ledger, org, project_id=new_id())
    first = await audit.verify(org)
    events = await audit.events(org)
    assert (first.intact, first.verified_events, list(first.findings)) == (True, 3, [])
    assert first.head == pb.ChainHead(sequence=3, hash=events[-1].hash)
    assert [event.previous_hash for event in events] == ["0" * 64, events[0].hash, events[1].hash]

    await _open(ledger, org, project_id=new_id())
    grown = await audit.verify(org, expected_head=first.head)
    assert (grown.intact, grown.head.sequence) == (True, 4)
    other = await audit.verify(org, expected_head=pb.ChainHead(sequence=3, hash="0" * 64))
    assert [finding.flaw for finding in other.findings] == [pb.CHAIN_FLAW_EXPECTED_HEAD_MISSING]
    assert not other.intact

    part = await audit.verify(org, events_max=3)
    assert (part.verified_events, part.continue_after) == (3, first.head)
    rest = await audit.verify(org, after=part.continue_after)
    assert (rest.intact, rest.verified_events, rest.HasField("continue_after")) == (True, 1, False)


async def test_empty_organization_id_names_the_events_of_no_organization(audit: Audit) -> None:
    assert await audit.events("") == await audit.events(PLATFORM) == []
    assert (await audit.verify("")).intact


async def test_no_service_reads_the_trail(audit: Audit, callers: Callers) -> None:
    for request in (pb.ListAuditEventsRequest(organization_id=organization()), pb.ListAuditEventsRequest()):
        code, _, _ = await refusal(audit.stub.ListAuditEvents(request, metadata=callers.service("gateway")))
        assert code == grpc.StatusCode.PERMISSION_DENIED
        code, _, _ = await refusal(audit.stub.ListAuditEvents(request))
        assert code == grpc.StatusCode.UNAUTHENTICATED
