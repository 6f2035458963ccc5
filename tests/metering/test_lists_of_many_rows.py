# ruff: noqa: S608 -- the statements are put together from names of tables and columns alone.
"""Every list reads a bounded number of rows, whatever it filters by and however many rows there are.

Each table is filled with many copies of one real row, all of one organization, and Postgres is told that there are a
million. Then each list is asked with each of its filters for what none of the rows is, which is the worst that can be
asked: nothing ends the search early. Postgres itself says how many rows each statement has read.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, TypeAlias

import asyncpg
import pytest
from asyncpg.prepared_stmt import PreparedStatement
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from services.billing.invoice.document_json import party_json
from services.billing.invoice.domain import Party
from tests.metering.conversations.calls import append, message
from tests.metering.corrections.calls import amend, tokens
from tests.metering.support import Platform, stamp, usage, usd
from tests.support.sharded import in_shard_of
from tollhouse.billing.v1 import invoice_pb2, ledger_pb2, payment_pb2, subscription_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, conversation_pb2, conversation_pb2_grpc, model_pb2, usage_pb2

Call: TypeAlias = Callable[..., Awaitable[Any]]

pytestmark = [pytest.mark.own_database, pytest.mark.thorough]

ROWS: Final = 12_500
READ_MAX: Final = 11_000
"""Two walks along an index of 5,000 rows each, and what is read beside them."""
BELIEVED: Final = 1_000_000

# The columns that make each copy a row of its own. `n` numbers the copies.
COPIES: Final[Mapping[str, Mapping[str, str]]] = {
    "identity.api_keys": {"api_key_id": "{id}", "digest": "sha256(n::text::bytea)"},
    "metering.usage_records": {
        "occur_time": "now() - n * interval '1 second'",
        "usage_id": "{id}",
        "operation_id": "'copy-' || n",
    },
    "metering.unpriced_usages": {"usage_id": "{id}"},
    "metering.usage_corrections": {"operation_id": "'copy-' || n", "usage_id": "{id}"},
    "metering.authorizations": {
        "create_time": "now() - n * interval '1 second'",
        "operation_id": "'copy-' || n",
    },
    "metering.conversations": {"conversation_id": "'copy-' || n"},
    "metering.conversation_messages": {"position": "n + 1", "operation_id": "'copy-' || n"},
    "metering.models": {"model_id": "'copy-' || n"},
    "billing.transactions": {"transaction_id": "{id}", "operation_id": "'copy-' || n", "sequence": "n + 10"},
    "billing.holds": {"hold_id": "{id}", "operation_id": "'copy-' || n"},
    "billing.subscriptions": {"subscription_id": "{id}", "user_id": "{id}"},
    "billing.payments": {"payment_id": "{id}", "operation_id": "'copy-' || n"},
    "billing.invoices": {"invoice_id": "{id}", "number": "'copy-' || n", "position": "n + 1"},
}

_INVOICE: Final = """
INSERT INTO billing.invoices SELECT (jsonb_populate_record(NULL::billing.invoices, jsonb_build_object(
    'organization_id', o.organization_id, 'invoice_id', o.organization_id, 'account_id', o.organization_id,
    'kind', 'INVOICE', 'state', 'ISSUED', 'number', 'INV-1', 'currency_code', 'USD', 'position', 1,
    'after_sequence', 0, 'to_sequence', 0, 'to_time', now(), 'first_sequence', 0, 'step_amount', 0, 'rest_amount', 0,
    'subtotal', 0, 'tax', 0, 'credits_applied', 0, 'credited', 0, 'credited_tax', 0, 'replaces', '{}'::uuid[],
    'reason', '', 'document', $2::text::jsonb, 'issue_time', now(), 'state_time', now(), 'actor', 'system',
    'overdue_told', false))).*
FROM (SELECT organization_id FROM billing.accounts WHERE organization_id = $1::text::uuid LIMIT 1) AS o
"""


def _plans(node: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    yield node
    for child in node.get("Plans", []):  # type: ignore[attr-defined]  # JSON of Postgres.
        yield from _plans(child)


def rows_read(plan: Mapping[str, object]) -> int:
    """Return how many rows the scans of a plan have read, those that its filters left out among them.

    A probe that finds one row at most for each row of another scan is not counted: that other scan is.
    """
    read = 0
    for node in _plans(plan):
        if "Scan" in str(node["Node Type"]) and "Relation Name" in node:
            one = [
                node.get(name, 0) for name in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
            ]
            each, loops = sum(map(float, one)), float(str(node["Actual Loops"]))  # type: ignore[arg-type]
            read += 0 if loops > 1 and each <= 1 else int(each * loops)
    return read


class Reads:
    """How many rows the statements of a call have read."""

    def __init__(self) -> None:
        self.total = 0
        self.worst = (0, "")

    def note(self, statement: str, explained: object) -> None:
        plan = json.loads(explained)[0]["Plan"] if isinstance(explained, str) else explained[0]["Plan"]  # type: ignore[index]
        read = rows_read(plan)
        self.total += read
        self.worst = max(self.worst, (read, f"{statement[:300]} {json.dumps(plan)[:2000]}"))


def literal(value: object) -> str:
    """Return a value as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | Decimal):
        return str(value)
    if isinstance(value, list | tuple):
        quoted = ",".join('"' + str(one).replace("\\", "\\\\").replace('"', '\\"') + '"' for one in value)
        return literal("{" + quoted + "}")
    text = f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Explain every statement that only reads, right after it, on its own connection."""
    reads = Reads()
    plain = asyncpg.Connection._execute  # type: ignore[attr-defined]  # Its stubs leave it out.
    prepared = PreparedStatement._PreparedStatement__bind_execute  # type: ignore[attr-defined]

    def reads_only(query: str) -> bool:
        return query.lstrip().upper().startswith(("SELECT", "WITH")) and "FOR UPDATE" not in query

    async def explain(connection: asyncpg.Connection, query: str, args: tuple[object, ...]) -> None:
        # As a prepared statement it has the plan that the pool gives it, which does not know the values.
        await plain(connection, f"PREPARE explained AS {query}", (), 0, None)
        call = f"EXECUTE explained ({', '.join(map(literal, args))})"
        rows = await plain(connection, f"EXPLAIN (ANALYZE, FORMAT JSON) {call}", (), 0, None)
        await plain(connection, "DEALLOCATE explained", (), 0, None)
        reads.note(query, rows[0][0])

    async def execute(connection, query, args, limit, timeout, **options):  # type: ignore[no-untyped-def]
        result = await plain(connection, query, args, limit, timeout, **options)
        if reads_only(query) and args:
            await explain(connection, query, args)
        return result

    async def bind_execute(statement, args, limit, timeout):  # type: ignore[no-untyped-def]
        result = await prepared(statement, args, limit, timeout)
        if reads_only(statement._query) and args:
            await explain(statement._connection, statement._query, args)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "_execute", execute)
        patch.setattr(PreparedStatement, "_PreparedStatement__bind_execute", bind_execute)
        yield reads


# Autovacuum would count the rows, so that Postgres believed in a million no more.
_NO_AUTOVACUUM: Final = """
DO $$ DECLARE name regclass; BEGIN
    FOR name IN
        SELECT oid FROM pg_class
        WHERE relkind = 'r' AND relnamespace::regnamespace::text ~ '^(identity|billing|metering)'
    LOOP EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', name); END LOOP;
END $$
"""


async def fill(admin_url: str, organization_id: str) -> None:
    """Copy the one row of each table many times, and let Postgres believe that there are a million."""
    connection = await asyncpg.connect(plain_url(admin_url))
    await connection.execute("SET session_replication_role = replica")  # Copies need no foreign keys.
    await connection.execute(_NO_AUTOVACUUM)
    for table, columns in COPIES.items():
        changed = ", ".join(f"'{name}', {value.format(id=_ID)}" for name, value in columns.items())
        of = "" if table == "metering.models" else f"WHERE organization_id = '{organization_id}'"
        copy = f"""
            INSERT INTO {table} SELECT copy.*
            FROM (SELECT * FROM {table} {of} LIMIT 1) AS r, generate_series(1, {ROWS}) AS n,
                jsonb_populate_record(NULL::{table}, to_jsonb(r) || jsonb_build_object({changed})) AS copy
        """
        status = await connection.execute(in_shard_of(organization_id, copy) if table in _OF_SHARDS else copy)
        assert status == f"INSERT 0 {ROWS}", table
    await connection.execute("ANALYZE")
    for table in COPIES:
        name = in_shard_of(organization_id, table) if table in _OF_SHARDS else table
        await connection.execute(f"UPDATE pg_class SET reltuples = {BELIEVED} WHERE oid = '{name}'::regclass")
    await connection.close()


async def furnish(platform: Platform, organization_id: str, user_id: str) -> None:
    """Make one real row of everything that is listed."""
    metering, ledger = platform.metering, platform.ledger
    await platform.fund(organization_id)
    await ledger.hold(organization_id, "held", "1", ttl=Duration(seconds=60))
    await metering.record(usage(organization_id, "used", user_id=user_id, occur_time=stamp(hours=-1)))
    await metering.record(usage(organization_id, "unpriced", model="nobody's", occur_time=stamp(hours=-1)))
    await amend(metering, organization_id, "used", tokens=tokens(1, 1))
    await metering.authorize(
        admission_pb2.AuthorizeRequest(
            operation_id="authorized",
            principal=admission_pb2.Principal(organization_id=organization_id, user_id=user_id),
            model="gpt-4o",
            input_tokens=1,
            max_output_tokens=1,
        )
    )
    begin = conversation_pb2.ConversationStart(user_id=user_id, title="Title")
    await append(metering, message(organization_id, begin=begin))
    await platform.settled()
    await ledger.payments.RecordPayment(
        payment_pb2.RecordPaymentRequest(
            organization_id=organization_id,
            operation_id="paid",
            type=payment_pb2.PAYMENT_TYPE_ADJUSTMENT,
            brings=payment_pb2.BRINGS_NOTHING,
            amount=usd("1"),
            reason="test",
            user_id=user_id,
        ),
        metadata=ledger.metadata,
    )
    await ledger.subscriptions.CreateSubscription(
        subscription_pb2.CreateSubscriptionRequest(
            organization_id=organization_id, plan_code="free", user_id=user_id, request_id="one"
        ),
        metadata=ledger.metadata,
    )
    # Billing issues none by itself here, where it cannot ask metering.
    nobody = party_json(Party())
    document = {"tax": ["", "", ""], "issuer": nobody, "recipient": nobody, "language": "en", "footer": ""}
    await platform.execute(
        _INVOICE, organization_id, json.dumps(document | {"credits_used": {}, "corrects_number": ""})
    )


def lists(platform: Platform) -> Sequence[tuple[Call, Message]]:
    """Return each list with a request that has every filter, each for what no row is."""
    metering, ledger, nobody = platform.metering, platform.ledger, new_id()
    conversations = conversation_pb2_grpc.ConversationServiceStub(metering.channel)
    of_usage = {"user_id": nobody, "project_id": nobody, "api_key_id": nobody, "model": "none"}
    return (
        (
            metering.usage.ListUsage,
            usage_pb2.ListUsageRequest(
                **of_usage,  # type: ignore[arg-type]
                subscription_id=nobody,
                service_account_id=nobody,
                provider="none",
                service_tier="none",
                unit="images",
                endpoint="none",
            ),
        ),
        (metering.usage.ListUsageCorrections, usage_pb2.ListUsageCorrectionsRequest()),
        (metering.usage.ListPendingPrices, usage_pb2.ListPendingPricesRequest(model="none")),
        (
            metering.admission.ListAuthorizations,
            admission_pb2.ListAuthorizationsRequest(**of_usage, state=admission_pb2.AUTHORIZATION_STATE_CANCELLED),  # type: ignore[arg-type]
        ),
        (
            conversations.ListConversations,
            conversation_pb2.ListConversationsRequest(user_id=nobody, project_id=nobody, title="none"),
        ),
        (conversations.ListMessages, conversation_pb2.ListMessagesRequest(conversation_id="c1")),
        (metering.models.ListModels, model_pb2.ListModelsRequest(provider="none", capabilities=["none"])),
        (
            ledger.ledger.ListTransactions,
            ledger_pb2.ListTransactionsRequest(kind=ledger_pb2.TRANSACTION_KIND_TRANSFER),
        ),
        (ledger.ledger.ListHolds, ledger_pb2.ListHoldsRequest(state=ledger_pb2.HOLD_STATE_CAPTURED)),
        (
            ledger.subscriptions.ListSubscriptions,
            subscription_pb2.ListSubscriptionsRequest(
                user_id=nobody, model="none", state=subscription_pb2.SUBSCRIPTION_STATE_PAUSED
            ),
        ),
        (
            ledger.payments.ListPayments,
            payment_pb2.ListPaymentsRequest(
                user_id=nobody, subscription_id=nobody, status=payment_pb2.PAYMENT_STATUS_FAILED
            ),
        ),
        (
            ledger.invoices.ListInvoices,
            invoice_pb2.ListInvoicesRequest(kind=invoice_pb2.INVOICE_KIND_CREDIT_NOTE, number="none"),
        ),
        (
            platform.identity.api_keys.ListApiKeys,
            api_key_pb2.ListApiKeysRequest(
                user_id=nobody,
                project_id=nobody,
                service_account_id=nobody,
                subscription_id=nobody,
                external_id="none",
                environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST,
                state=api_key_pb2.API_KEY_STATE_EXPIRED,
            ),
        ),
    )


async def test_each_list_reads_a_bounded_number_of_rows_by_each_of_its_filters(
    platform: Platform, database_admin_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await platform.start_identity()
    key = (await identity.create_key()).api_key
    organization_id, user_id = key.organization_id, key.user_id
    await furnish(platform, organization_id, user_id)
    await fill(database_admin_url, organization_id)
    too_much, asked = [], 0
    for call, full in lists(platform):
        for name in ["", *(field.name for field, _ in full.ListFields() if field.name != "conversation_id")]:
            request = type(full)()
            for field in (name, "conversation_id"):
                if field and field in full.DESCRIPTOR.fields_by_name:
                    _copy(request, full, field)
            variants = [request]
            if name not in ("", "user_id") and "user_id" in full.DESCRIPTOR.fields_by_name:
                of_user = type(full)()
                of_user.CopyFrom(request)
                of_user.user_id = user_id  # type: ignore[attr-defined]  # It has the field.
                variants.append(of_user)
            for one in variants:
                if "organization_id" in one.DESCRIPTOR.fields_by_name:
                    one.organization_id = organization_id  # type: ignore[attr-defined]
                with watched(monkeypatch) as reads:
                    await call(one, metadata=platform.metering.operator, timeout=20)
                asked += 1
                if reads.total > READ_MAX:
                    too_much.append(f"{type(one).__name__} {one}: {reads.total} rows; {reads.worst[1]}")
    assert too_much == []
    assert asked > 50


def _copy(request: Message, full: Message, field: str) -> None:
    value = getattr(full, field)
    if full.DESCRIPTOR.fields_by_name[field].is_repeated:
        getattr(request, field).extend(value)
    else:
        setattr(request, field, value)


_ID: Final = "'01000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0')"
_OF_SHARDS: Final = frozenset(
    table for table in COPIES if not table.startswith("identity.") and table != "metering.models"
)
