"""BatchVerifyApiKeys: each item as VerifyApiKey would answer it, and none at the expense of another."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import asyncpg
import grpc
import pytest

from libs.common.clock import SystemClock
from libs.common.database import Database
from libs.common.status import error_info_in, status_in
from services.identity.api_key.rendering import largest_beyond
from services.identity.api_key.secret import Peppers, new_secret
from services.identity.api_key.verify import batches, reader, store
from services.identity.api_key.verify.batches import LOOK_UPS_MAX, Asked, Batches
from services.identity.api_key.verify.cache import KeyCache
from services.identity.api_key.verify.guesses import GUESSES_A_MINUTE
from services.identity.api_key.verify.last_used import LastUsed
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.api_key.verify.reader import KeyReader
from services.identity.api_key.verify.verification import Verifier
from tests.identity.refusals import refused
from tests.identity.support import PEPPERS, Identity
from tests.identity.test_odd_keys import LONE_SURROGATE, ODD_KEYS
from tests.support.outage import cut_off
from tollhouse.identity.v1 import api_key_pb2 as pb


def ask(key: str, **fields: object) -> pb.VerifyApiKeyRequest:
    return pb.VerifyApiKeyRequest(key=key, **fields)  # type: ignore[arg-type]


async def verify(
    identity: Identity, requests: Sequence[pb.VerifyApiKeyRequest], timeout_s: float = 20
) -> list[pb.VerifyApiKeyOutcome]:
    request = pb.BatchVerifyApiKeysRequest(requests=requests)
    response = await identity.api_keys.BatchVerifyApiKeys(request, metadata=identity.metadata, timeout=timeout_s)
    return list(response.outcomes)


async def alone(identity: Identity, request: pb.VerifyApiKeyRequest) -> pb.VerifyApiKeyOutcome:
    """Return what VerifyApiKey answers, as an item of a batch, without the revision."""
    try:
        answer = await identity.api_keys.VerifyApiKey(request, metadata=identity.metadata)
    except grpc.aio.AioRpcError as error:
        return pb.VerifyApiKeyOutcome(refused=status_in(error))
    return without_revision(pb.VerifyApiKeyOutcome(decided=answer))


def without_revision(outcome: pb.VerifyApiKeyOutcome) -> pb.VerifyApiKeyOutcome:
    """Return an outcome without the revision of its answer, which may grow from call to call."""
    if outcome.HasField("decided"):
        outcome.decided.revision = 0
    return outcome


def end(outcome: pb.VerifyApiKeyOutcome) -> str:
    """Return the code of an answer, or the reason of a failure."""
    if outcome.HasField("decided"):
        return pb.VerifyApiKeyCode.Name(outcome.decided.code).removeprefix("VERIFY_API_KEY_CODE_")
    info = error_info_in(outcome.refused)
    assert info is not None
    return info.reason


def ends(outcomes: Sequence[pb.VerifyApiKeyOutcome]) -> list[str]:
    return [end(outcome) for outcome in outcomes]


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many secrets each statement of the servers in this process looked up."""
    sizes: list[int] = []

    async def counted(database: Database, digests: Sequence[bytes]) -> object:
        sizes.append(len(digests))
        return await store.read_keys(database, digests)

    monkeypatch.setattr(reader, "read_keys", counted)
    return sizes


async def test_every_item_is_answered_as_alone_and_none_stops_another(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    limited = await identity.create_key(
        pb.CreateApiKeyRequest(
            organization_id=organization_id,
            user_id=owner,
            scopes=["chat"],
            allowed_models=["gpt-4o"],
            allowed_addresses=["192.0.2.0/24"],
            metadata={"tier": "gold"},
        )
    )
    other, gone = await identity.create_key(), await identity.create_key()
    revision = await identity.revoke(gone.api_key)
    requests = [
        ask(limited.secret, model="gpt-4o", required_scopes=["chat"], client_address="192.0.2.1"),
        ask(limited.secret, model="gpt-4", client_address="192.0.2.1"),
        ask(limited.secret, required_scopes=["admin"], client_address="192.0.2.1"),
        ask(limited.secret),
        ask(other.secret, min_revision=revision),
        ask(gone.secret),
        ask(new_secret(live=True)),
        ask("th_live_malformed"),
        ask(""),
        ask(other.secret, model="no such model"),
        ask(other.secret, client_address="nowhere"),
        ask(other.secret, min_revision=-1),
        ask(other.secret, min_revision=revision + 1_000_000),
        ask(other.secret, min_revision=revision + 2_000_000),
        ask(other.secret, required_scopes=["x"] * 33),
        ask(limited.secret, model="gpt-4o", required_scopes=["chat"], client_address="192.0.2.1"),
    ]

    cold, warm = await verify(identity, requests), await verify(identity, requests)

    for outcomes in (cold, warm):
        assert ends(outcomes) == [
            *("VALID", "MODEL_NOT_ALLOWED", "INSUFFICIENT_SCOPE", "ADDRESS_NOT_ALLOWED", "VALID", "REVOKED"),
            *["NOT_FOUND"] * 3,
            *["INVALID_ARGUMENT"] * 3,
            *["REVISION_NOT_REACHED"] * 2,
            *("INVALID_ARGUMENT", "VALID"),
        ]
        for request, outcome in zip(requests, outcomes, strict=True):
            assert await alone(identity, request) == without_revision(outcome)
    assert cold[0].decided.principal.organization_id == organization_id
    assert cold[4].decided.principal.organization_id == other.api_key.organization_id
    assert not any(key.secret in str(cold) for key in (limited, other, gone))


async def test_hostile_keys_are_not_found_beside_a_good_one(identity: Identity) -> None:
    good = (await identity.create_key()).secret
    hostile = [ask(key, client_address="192.0.2.77") for key in ODD_KEYS.values()]

    outcomes = await verify(identity, [ask(good), *hostile, ask(good)])

    assert ends(outcomes) == ["VALID", *["NOT_FOUND"] * len(hostile), "VALID"]
    # The second key is no valid UTF-8.
    surrogate = pb.VerifyApiKeyRequest(key="???").SerializeToString().replace(b"???", LONE_SURROGATE)
    item = b"\x0a" + bytes([len(surrogate)]) + surrogate
    data = pb.BatchVerifyApiKeysRequest(requests=[ask(good)]).SerializeToString() + item
    async with grpc.aio.insecure_channel(f"127.0.0.1:{identity.port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.BatchVerifyApiKeysResponse] = channel.unary_unary(
            "/tollhouse.identity.v1.ApiKeyService/BatchVerifyApiKeys",
            request_serializer=None,
            response_deserializer=pb.BatchVerifyApiKeysResponse.FromString,
        )
        answer = await call(data, metadata=identity.metadata)
    assert ends(list(answer.outcomes)) == ["VALID", "NOT_FOUND"]


async def test_batch_of_none_or_of_too_many_is_refused_by_name(identity: Identity) -> None:
    for count in (0, 201):
        request = pb.BatchVerifyApiKeysRequest(requests=[ask("th_live_x")] * count)
        call = identity.api_keys.BatchVerifyApiKeys(request, metadata=identity.metadata)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "requests" in str(raised.value.details())


async def test_different_keys_are_looked_up_once_and_known_ones_not_at_all(
    identity: Identity, looked_up: list[int]
) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
    keys = [(await identity.create_key(request)).secret for _ in range(20)]
    unknown = [new_secret(live=True) for _ in range(30)]
    # Each four times, in different requests.
    batch = [ask(key, model=model) for model in ("", "a", "b", "a") for key in (*keys, *unknown)]
    looked_up.clear()

    for _ in range(2):
        assert Counter(ends(await verify(identity, batch))) == {"VALID": 80, "NOT_FOUND": 120}
        assert sum(looked_up) == len(keys) + len(unknown)

    looked_up.clear()
    assert set(ends(await verify(identity, [ask(key, model="c") for key in keys * 10]))) == {"VALID"}
    assert looked_up == []


async def test_200_different_cold_keys_are_answered_and_never_more_than_a_part_of_a_statement_is_theirs(
    identity: Identity, looked_up: list[int]
) -> None:
    unknown = [ask(new_secret(live=True)) for _ in range(400)]

    outcomes = await asyncio.gather(verify(identity, unknown[:200]), verify(identity, unknown[200:]))

    assert ends(outcomes[0] + outcomes[1]) == ["NOT_FOUND"] * 400
    assert sum(looked_up) == 400
    assert max(looked_up) <= LOOK_UPS_MAX


async def test_guesses_of_one_address_stay_limited_within_a_batch(identity: Identity, looked_up: list[int]) -> None:
    good = (await identity.create_key()).secret
    assert await identity.code(good) == "VALID"
    looked_up.clear()
    address = {"client_address": "192.0.2.55"}
    guesses = [ask(new_secret(live=True), **address) for _ in range(150)]
    others = [ask(new_secret(live=True), client_address=f"198.51.100.{number}") for number in range(40)]

    outcomes = await verify(identity, [ask(good, **address), *guesses, *others])

    ended = ends(outcomes)
    assert (ended[0], set(ended[151:])) == ("VALID", {"NOT_FOUND"})
    assert set(ended[1:151]) == {"NOT_FOUND", "TOO_MANY_UNKNOWN_KEYS"}
    # A guess is forgiven every three seconds.
    assert GUESSES_A_MINUTE <= ended[1:151].count("NOT_FOUND") <= GUESSES_A_MINUTE + 5
    assert sum(looked_up) == ended.count("NOT_FOUND")
    assert ended[1:151].index("TOO_MANY_UNKNOWN_KEYS") >= GUESSES_A_MINUTE


def open_batches(database: Database, key_reader: KeyReader | None = None) -> Batches[bytes]:
    """Return batches over a verifier whose clock stands still."""
    return Batches(
        Verifier(
            peppers=Peppers({1: bytes.fromhex(PEPPERS["1"])}),
            cache=KeyCache(1_000),
            reader=key_reader or KeyReader(database, lambda: 1_000.0),
            last_used=LastUsed(database, 60),
            clock=SystemClock(),
            prepare=lambda record, revision: b"",
            prefixes=ImportedPrefixes(),
            monotonic_s=lambda: 1_000.0,
        )
    )


async def test_unknown_key_that_occurs_often_is_one_guess(identity_database: Database) -> None:
    unknown = open_batches(identity_database)
    address = "192.0.2.1"
    same = [Asked(new_secret(live=True), (), "", 0, address)] * 200
    different = [Asked(new_secret(live=True), (), "", 0, address) for _ in range(GUESSES_A_MINUTE)]

    assert not any(isinstance(outcome, Exception) for outcome in await unknown.verify(same))

    outcomes = await unknown.verify(different)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False] * (GUESSES_A_MINUTE - 1) + [True]


async def test_key_revoked_while_a_batch_runs_is_refused_by_the_next_with_its_revision(identity: Identity) -> None:
    revoked, kept = await identity.create_key(), await identity.create_key()
    batch = [ask(revoked.secret), ask(kept.secret)] * 100

    running = [asyncio.create_task(verify(identity, batch)) for _ in range(8)]
    revision = await identity.revoke(revoked.api_key)
    after = await verify(identity, [ask(revoked.secret, min_revision=revision), ask(kept.secret)])

    assert ends(after) == ["REVOKED", "VALID"]
    for ended in map(ends, await asyncio.gather(*running)):
        assert set(ended[1::2]) == {"VALID"}
        assert set(ended[::2]) <= {"VALID", "REVOKED"}


@pytest.mark.own_database
async def test_known_keys_are_answered_while_the_database_is_away(identity: Identity, database_admin_url: str) -> None:
    known, cold = await identity.create_key(), await identity.create_key()
    assert await identity.code(known.secret) == "VALID"

    async with cut_off(database_admin_url):
        outcomes = await verify(identity, [ask(cold.secret), ask(known.secret), *[ask(cold.secret, model="a")] * 50])

    assert ends(outcomes) == ["DEPENDENCY_UNAVAILABLE", "VALID", *["DEPENDENCY_UNAVAILABLE"] * 50]
    assert ends(await verify(identity, [ask(cold.secret), ask(known.secret)])) == ["VALID", "VALID"]


@pytest.mark.own_database
async def test_known_keys_are_answered_while_the_database_hangs(
    identity: Identity, database_admin_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LOOK_UPS_WITHIN_S", 0.3)
    known, cold = await identity.create_key(), await identity.create_key()
    assert await identity.code(known.secret) == "VALID"
    locker = await asyncpg.connect(database_admin_url)
    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE identity.api_keys IN ACCESS EXCLUSIVE MODE")
            outcomes = await verify(identity, [ask(cold.secret), ask(known.secret)])
    finally:
        await locker.close()

    assert ends(outcomes) == ["DEPENDENCY_UNAVAILABLE", "VALID"]
    assert ends(await verify(identity, [ask(cold.secret), ask(known.secret)])) == ["VALID", "VALID"]


async def test_largest_answers_are_refused_where_all_are_too_large(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    large = await identity.create_key(
        pb.CreateApiKeyRequest(
            organization_id=organization_id,
            user_id=owner,
            metadata={f"name-{number}": "\N{SNOWMAN}" * 500 for number in range(50)},
            allowed_models=[f"{number:03}".ljust(256, "m") for number in range(200)],
        )
    )
    small = await identity.create_key()
    model = "000".ljust(256, "m")

    outcomes = await verify(identity, [*[ask(large.secret, model=model)] * 30, *[ask(small.secret)] * 170])

    ended = Counter(ends(outcomes[:30]))
    assert set(ends(outcomes[30:])) == {"VALID"}
    assert set(ended) == {"VALID", "BATCH_ANSWER_TOO_LARGE"}
    assert sum(outcome.ByteSize() for outcome in outcomes) < 2_100_000
    assert await identity.code(large.secret, model=model) == "VALID"


def test_only_as_many_of_the_largest_answers_go_as_must() -> None:
    assert largest_beyond({0: 10, 1: 30, 2: 20}, 60) == frozenset()
    assert largest_beyond({0: 10, 1: 30, 2: 20}, 59) == {1}
    assert largest_beyond({0: 10, 1: 30, 2: 20}, 29) == {1, 2}
    assert largest_beyond(dict.fromkeys(range(200), 10_001), 2_000_000) == {0}
    assert largest_beyond({}, 0) == frozenset()


async def test_cancelled_or_hasty_batch_does_no_harm(identity: Identity) -> None:
    created = await identity.create_key()
    batch = [ask(created.secret), *(ask(new_secret(live=True)) for _ in range(199))]

    call = asyncio.create_task(verify(identity, batch))
    await asyncio.sleep(0)
    call.cancel()
    assert (await refused(verify(identity, batch, 0.001)))[0] == "DEADLINE_EXCEEDED"

    assert Counter(ends(await verify(identity, batch))) == {"VALID": 1, "NOT_FOUND": 199}
