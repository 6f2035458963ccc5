"""Malformed keys, and rows that the database cannot handle: they affect only the caller who sends them."""

import asyncio
import hashlib
from collections.abc import Awaitable
from datetime import UTC, datetime

import asyncpg
import grpc
import pytest

from libs.common.database import Database, open_database
from libs.common.errors import Unavailable
from libs.common.status import error_info_in
from services.identity.api_key.secret import Peppers
from services.identity.api_key.verify.last_used import LastUsed
from services.identity.api_key.verify.reader import KeyReader
from services.identity.api_key.watch.feed import ChangeFeed
from services.identity.revisions import Change
from tests.identity.refusals import refused
from tests.identity.support import PEPPERS, Identity
from tollhouse.common.v1 import caller_pb2, caller_pb2_grpc
from tollhouse.identity.v1 import api_key_pb2 as pb

ODD_KEYS = {
    "empty": "",
    "blank": " ",
    "513 characters": "odd" * 171,
    "10,000 characters": "th_live_" + "odd_" * 2_500,
    "10,000 characters, imported": "sk-acme-" + "odd-" * 2_500,
    "NUL": "th_live_\x00",
    "NUL, imported": "sk-acme-\x00",
    "not ASCII": "sk-acme-\N{SNOWMAN}",
    "path": "../../etc/keys",
    "quotes": "'; DROP TABLE identity.api_keys; --",
}
LONE_SURROGATE = b"\xed\xa0\x80"


async def _import(identity: Identity, names: list[str]) -> pb.ImportApiKeysResponse:
    organization_id, owner = await identity.create_organization()
    keys = [
        pb.ImportedApiKey(digest=hashlib.sha256(f"sk-acme-{name}".encode()).hexdigest(), user_id=owner, name=name)
        for name in names
    ]
    request = pb.ImportApiKeysRequest(organization_id=organization_id, secret_prefix="sk-acme-", api_keys=keys)
    return await identity.api_keys.ImportApiKeys(request, metadata=identity.metadata)


async def _run(admin_url: str, *statements: str) -> None:
    """Run statements as the owner of the tables."""
    connection = await asyncpg.connect(admin_url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
async def test_what_cannot_be_a_key_is_not_found(identity: Identity, key: str) -> None:
    await _import(identity, ["first"])
    for _ in range(2):
        answer = await identity.verify(key)
        assert answer.code == pb.VERIFY_API_KEY_CODE_NOT_FOUND
        assert not answer.HasField("principal")


@pytest.mark.parametrize("key", ["", "odd " * 2_500, "a\x00b"], ids=len)
async def test_what_cannot_be_a_key_is_nobody_to_other_services_and_no_leak(identity: Identity, key: str) -> None:
    callers = caller_pb2_grpc.CallerServiceStub(grpc.aio.insecure_channel(f"127.0.0.1:{identity.port}"))
    resolved = await callers.ResolveCaller(caller_pb2.ResolveCallerRequest(api_key=key), metadata=identity.metadata)
    assert resolved.subject == ""
    report = pb.ReportLeakedApiKeyRequest(key=key)
    assert not (await identity.api_keys.ReportLeakedApiKey(report, metadata=identity.metadata)).found


async def _send(identity: Identity, data: bytes) -> pb.VerifyApiKeyResponse:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{identity.port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.VerifyApiKeyResponse] = channel.unary_unary(
            "/tollhouse.identity.v1.ApiKeyService/VerifyApiKey",
            request_serializer=None,
            response_deserializer=pb.VerifyApiKeyResponse.FromString,
        )
        return await call(data, metadata=identity.metadata, timeout=5)


async def test_key_that_is_not_utf8_is_not_found(identity: Identity) -> None:
    for text in (LONE_SURROGATE, b"th_live_\xff\xfe", LONE_SURROGATE * 3_000):
        stand_in = "?" * len(text)
        request = pb.VerifyApiKeyRequest(key=stand_in, model="swift-1", required_scopes=["a"])
        data = request.SerializeToString().replace(stand_in.encode(), text)
        assert (await _send(identity, data)).code == pb.VERIFY_API_KEY_CODE_NOT_FOUND
    for wrong in (b"\xff\xff", pb.VerifyApiKeyRequest(model="abc").SerializeToString().replace(b"abc", LONE_SURROGATE)):
        assert (await refused(_send(identity, wrong)))[0] == "INVALID_ARGUMENT"


async def test_request_beyond_the_bound_of_messages_is_refused(identity: Identity) -> None:
    assert (await refused(identity.verify("odd-" * 65_537)))[0] == "INVALID_ARGUMENT"


async def _outcome(answer: Awaitable[object]) -> object:
    try:
        return await answer
    except Exception as error:  # noqa: BLE001 -- any exception is the outcome.
        return error


async def _make_unreadable(admin_url: str, digest: bytes) -> None:
    """Make Postgres fail whenever it reads one key: a policy divides by zero for its row."""
    condition = f"CASE WHEN digest = '\\x{digest.hex()}'::bytea THEN 1 / (length(name) * 0) = 1 ELSE true END"
    await _run(
        admin_url,
        "ALTER TABLE identity.api_keys ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY odd ON identity.api_keys USING ({condition})",
    )


async def test_key_that_cannot_be_read_fails_nobody_who_shares_the_read(
    identity: Identity, database_urls: dict[str, str], database_admin_url: str
) -> None:
    peppers = Peppers({1: bytes.fromhex(PEPPERS["1"])})
    secrets = [(await identity.create_key()).secret for _ in range(24)]
    digests = [peppers.digest(secret) for secret in secrets]
    odd = int.from_bytes(digests[0]) % len(digests)
    await _make_unreadable(database_admin_url, digests[odd])
    database = open_database(database_urls["identity"], schema="identity", plan_by_key=True)
    reader = KeyReader(database)

    outcomes = await asyncio.gather(*(_outcome(reader.read((digest,))) for digest in digests))

    await database.close()
    failed = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == [odd]
    assert all(getattr(outcome, "record", None) for number, outcome in enumerate(outcomes) if number != odd)
    codes = await asyncio.gather(*(_outcome(identity.code(secret)) for secret in secrets))
    assert [code for number, code in enumerate(codes) if number != odd] == ["VALID"] * 23
    assert isinstance(codes[odd], grpc.aio.AioRpcError)


async def test_read_while_the_database_is_away_is_not_sent_again_for_every_key(identity_database: Database) -> None:
    reads: list[int] = []

    class Away(Database):
        """A database that cannot be reached."""

        def raw_connection(self):  # type: ignore[no-untyped-def]
            reads.append(1)
            raise Unavailable(dependency="database")

    reader = KeyReader(Away(identity_database.connections, schema="identity"))
    outcomes = await asyncio.gather(*(_outcome(reader.read((bytes([number]) * 32,))) for number in range(64)))
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert len(reads) <= 2


async def _refuse_writes(admin_url: str, when: str, event: str) -> None:
    """Make Postgres fail whenever it writes a key for which a condition is true."""
    await _run(
        admin_url,
        "CREATE FUNCTION identity.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'odd row'; END $$",
        f"CREATE TRIGGER odd BEFORE {event} ON identity.api_keys FOR EACH ROW WHEN ({when})"
        " EXECUTE FUNCTION identity.refuse()",
    )


async def test_time_of_last_use_that_cannot_be_written_costs_no_other_key_its_own(
    identity: Identity, identity_database: Database, database_admin_url: str
) -> None:
    ids = [(await identity.create_key()).api_key.api_key_id for _ in range(9)]
    await _refuse_writes(database_admin_url, f"NEW.api_key_id = '{ids[4]}'", "UPDATE")
    last_used = LastUsed(identity_database, 60)
    for id_ in ids:
        last_used.note(id_, datetime.now(UTC))

    await last_used.flush()

    async with identity_database.raw_connection() as connection:
        rows = await connection.fetch("SELECT api_key_id::text FROM identity.api_keys WHERE last_used_time IS NULL")
    assert [row["api_key_id"] for row in rows] == [ids[4]]


async def test_imported_key_that_cannot_be_stored_fails_alone(identity: Identity, database_admin_url: str) -> None:
    await _refuse_writes(database_admin_url, "NEW.name = 'odd'", "INSERT")
    names = ["one", "two", "odd", "three", "four", "five", "six"]

    answer = await _import(identity, names)

    assert (answer.imported_count, answer.refused_count) == (6, 1)
    info = error_info_in(answer.outcomes[2].error)
    assert info is not None
    assert info.reason == "API_KEY_NOT_STORED"
    assert [outcome.api_key.name for outcome in answer.outcomes if outcome.HasField("api_key")] == [
        name for name in names if name != "odd"
    ]
    assert await identity.code("sk-acme-six", min_revision=answer.revision) == "VALID"


class _Audience:
    """Accepts changes, or fails."""

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails
        self.told: list[Change] = []
        self.forgot = 0

    def note(self, changes: list[Change], *, seen_revision: int, confirmed_s: float) -> None:
        if self._fails and changes:
            raise RuntimeError("odd change")
        self.told += changes

    def forget_all(self, *, seen_revision: int, confirmed_s: float) -> None:
        self.forgot += 1


async def test_change_that_one_audience_cannot_take_in_reaches_the_others(
    identity: Identity, identity_database: Database
) -> None:
    failing, sound = _Audience(fails=True), _Audience(fails=False)
    feed = ChangeFeed(identity_database, [failing, sound])
    async with identity_database.raw_connection() as connection:
        await feed.catch_up(connection)
        created = await identity.create_key()
        await feed.catch_up(connection)
    assert [change.subject_id for change in sound.told] == [created.api_key.api_key_id]
    assert (failing.forgot, sound.forgot) == (2, 1)
