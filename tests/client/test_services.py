"""The client against the real services: what it batches is decided as single calls are, and trouble has a clear end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import grpc
import pytest

from libs.common.ids import new_id
from tests.client.conftest import House, addresses_of
from tests.client.fake_service import debit, fake_ledger
from tests.client.test_meter import COST, MODEL
from tests.client.test_recorder import usage
from tests.common.test_mutual_tls import Authority
from tests.metering.support import settlement
from tollhouse.billing.v1 import ledger_pb2_grpc
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, model_pb2_grpc, usage_pb2
from tollhouse_client import ApiKey, Client, Retries, SigningKey, Tls, Token
from tollhouse_client.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OperationIdReused,
    PermissionDenied,
    TollhouseError,
    Unauthenticated,
    Unavailable,
)

ONCE = Retries(attempts_max=1)


async def test_all_kinds_of_calls_travel_together_and_are_decided_one_by_one(house: House) -> None:
    def authorize(number: int) -> admission_pb2.AuthorizeRequest:
        secret = house.secret if number % 5 else "nobody's"
        return admission_pb2.AuthorizeRequest(
            operation_id=f"batch-{number}", api_key=secret, model=MODEL, input_tokens=1000, max_output_tokens=100
        )

    decisions = await asyncio.gather(*(house.gateway.authorize(authorize(number)) for number in range(30)))
    allowed = [number for number, one in enumerate(decisions) if one.decision == admission_pb2.DECISION_ALLOWED]
    assert allowed == [number for number in range(30) if number % 5]
    tokens = model_pb2.TokenCounts(input=1000, output=100)
    settlements = [settlement(house.organization_id, f"batch-{number}", tokens=tokens) for number in allowed]
    settlements.append(settlement(new_id(), "nobody's"))
    outcomes = await asyncio.gather(*map(house.gateway.settle, settlements), return_exceptions=True)
    assert isinstance(outcomes.pop(), NotFound)
    assert {type(one) for one in outcomes} == {admission_pb2.SettleResponse}
    charges = await house.charges()
    assert [charges[f"batch-{number}"] for number in allowed] == [COST] * len(allowed)


async def test_keys_are_verified_together(house: House) -> None:
    requests = [
        api_key_pb2.VerifyApiKeyRequest(key=house.secret if number % 2 else f"nobody's-{number}")
        for number in range(20)
    ]
    answers = await asyncio.gather(*map(house.gateway.verify_api_key, requests))
    valid = api_key_pb2.VERIFY_API_KEY_CODE_VALID
    assert [answer.code == valid for answer in answers] == [bool(number % 2) for number in range(20)]


async def test_settlement_made_beside_its_authorization_comes_after_it(house: House) -> None:
    async def both(number: int) -> None:
        authorize = admission_pb2.AuthorizeRequest(
            operation_id=f"beside-{number}", api_key=house.secret, model=MODEL, input_tokens=1000
        )
        tokens = model_pb2.TokenCounts(input=1000, output=100)
        settle = settlement(house.organization_id, f"beside-{number}", tokens=tokens)
        decided, settled = await asyncio.gather(house.gateway.authorize(authorize), house.gateway.settle(settle))
        assert decided.decision == admission_pb2.DECISION_ALLOWED
        # What was released says that it was settled as an authorized call.
        assert settled.HasField("released_amount")

    await asyncio.gather(*(both(number) for number in range(10)))


async def test_debits_say_whose_money_is_short_and_repeat_safely(house: House) -> None:
    def request(operation_id: str, value: str) -> object:
        one = debit(operation_id, value)
        one.organization_id = house.organization_id
        return one

    first, again, reused = await asyncio.gather(
        *(house.operator.debit(request("debit-1", value)) for value in ("1", "1", "2")),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    assert not isinstance(first, BaseException)
    assert not isinstance(again, BaseException)
    assert (first.replayed, again.replayed) == (False, True)
    assert isinstance(reused, OperationIdReused)


async def test_wrong_fields_are_named_in_batches_and_alone(house: House) -> None:
    wrong = usage(house, "wrong")
    wrong.model = "no\x01model"
    for requests in ([wrong], [wrong, usage(house, "beside-a-wrong-one")]):
        outcomes = await asyncio.gather(*map(house.gateway.record_usage, requests), return_exceptions=True)
        assert isinstance(outcomes[0], InvalidArgument)
        assert "model" in outcomes[0].fields
        assert {type(one) for one in outcomes[1:]} <= {usage_pb2.RecordUsageResponse}


async def test_other_rpcs_have_credentials_deadlines_and_errors_of_the_client(house: House) -> None:
    models = house.gateway.stub(model_pb2_grpc.ModelServiceStub)
    assert (await models.GetModel(model_pb2.GetModelRequest(model_id=MODEL))).model.model_id == MODEL
    with pytest.raises(NotFound):
        await models.GetModel(model_pb2.GetModelRequest(model_id="unknown"))
    async with fake_ledger() as silent, Client(billing=silent.address) as client:
        silent.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await client.stub(ledger_pb2_grpc.LedgerServiceStub).Debit(debit("too late"), timeout=0.05)
        silent.gate.set()
    audit = house.operator.stub(audit_pb2_grpc.AuditServiceStub, context="identity")
    listed = await audit.ListAuditEvents(audit_pb2.ListAuditEventsRequest(organization_id=house.organization_id))
    assert {event.action for event in listed.events} >= {"CreateApiKey"}


async def test_caller_without_rights_is_told_so_at_once(house: House) -> None:
    refused = await asyncio.gather(
        *(house.gateway.debit(debit(f"gateway-{number}")) for number in range(3)), return_exceptions=True
    )
    assert {type(one) for one in refused} == {PermissionDenied}


@pytest.mark.parametrize("credentials", [None, Token("no.such.token"), ApiKey("th_live_nobody")])
async def test_credentials_that_prove_nothing_are_refused(house: House, credentials: Token | ApiKey | None) -> None:
    async with Client(metering=addresses_of(house.platform)["metering"], credentials=credentials) as client:
        with pytest.raises(Unauthenticated) as error:
            await client.record_usage(usage(house, "unauthenticated"))
    assert "th_live_nobody" not in f"{error.value!r}{credentials!r}"


@pytest.mark.parametrize("secret", ["line\nbreak", "ünicode", "tab\t"])
async def test_credentials_that_no_header_holds_are_refused_without_being_shown(house: House, secret: str) -> None:
    async with house.client(credentials=ApiKey(secret)) as client:
        with pytest.raises(Unauthenticated) as error:
            await client.record_usage(usage(house, "odd-credentials"))
    assert secret not in str(error.value)


async def test_service_that_is_away_is_unavailable_and_one_that_comes_back_is_used(house: House) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    async with house.client(billing=address, credentials=Token("any"), retries=ONCE) as client:
        with pytest.raises(Unavailable):
            await client.debit(debit("away"))
    async with house.client(billing=address, credentials=Token("any"), retries=Retries(100, 0.05, 0.1)) as client:
        waiting = asyncio.create_task(client.debit(debit("back"), timeout_s=60))
        await asyncio.sleep(0.2)
        async with fake_ledger(address=address):
            assert (await waiting).transaction.operation_id == "back"


@asynccontextmanager
async def _talker(said: bytes, *, hang: bool) -> AsyncIterator[str]:
    """A server that says something to everybody and then hangs up, or never says anything more."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        while hang and await reader.read(1000):
            continue
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("said", "hang"),
    [(b"", False), (b"", True), (b"HTTP/1.1 200 OK\r\n\r\nhello", False), (b"\x00" * 100, True)],
    ids=["half-closed", "silent", "another protocol", "garbage"],
)
async def test_server_that_is_none_ends_in_a_clear_exception(said: bytes, hang: bool) -> None:
    async with _talker(said, hang=hang) as address, Client(billing=address, retries=Retries(3, 0.01, 0.02)) as client:
        outcomes = await asyncio.gather(
            *(client.debit(debit(f"{number}"), timeout_s=0.5) for number in range(3)), return_exceptions=True
        )
    assert {type(one) for one in outcomes} <= {Unavailable, DeadlineExceeded}


async def test_wrong_certificate_is_refused_and_the_right_one_is_not(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    certificate, key = ours.issue("billing")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    async with fake_ledger(credentials) as fake:
        for authority, good in ((ours, True), (other, False)):
            async with Client(billing=fake.address, tls=Tls(ca_file=authority.file), retries=ONCE) as client:
                outcome = await asyncio.gather(client.debit(debit("tls"), timeout_s=5), return_exceptions=True)
                assert isinstance(outcome[0], TollhouseError) is not good
        async with Client(billing=fake.address, retries=ONCE) as client:
            with pytest.raises(TollhouseError):
                await client.debit(debit("plain text"), timeout_s=2)
    assert len(fake.received) == 1


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "no address"),
        ({"billing": "https://billing"}, "host:port"),
        ({"billing": "https://billing:443"}, "host:port"),
        ({"billing": "localhost"}, "host:port"),
        ({"billing": "with space:1"}, "host:port"),
        ({"billing": "a:1", "timeout_s": 0}, "time limit"),
    ],
)
def test_impossible_arguments_are_refused(given: dict[str, str], fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY", "BILLING", "METERING"):
        monkeypatch.delenv(f"TOLLHOUSE_{name}_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=fault):
        Client(**given)  # type: ignore[arg-type]  # one of them is a number


async def test_client_finds_services_and_credentials_in_the_environment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, address in addresses_of(house.platform).items():
        monkeypatch.setenv(f"TOLLHOUSE_{name.upper()}_ADDRESS", address)
    monkeypatch.setenv("TOLLHOUSE_SIGNING_KEY_FILE", str(house.signing_key_file))
    async with Client() as client:
        recorded = await client.record_usage(usage(house, "from-the-environment"))
    assert Decimal(recorded.usage.cost.value) == COST
    monkeypatch.setenv("TOLLHOUSE_TOKEN", "another")
    with pytest.raises(ValueError, match="TOLLHOUSE_TOKEN and TOLLHOUSE_SIGNING_KEY_FILE"):
        Client()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": {"d": "secret!"}}', '{"issuer": 1, "key": []}'])
def test_file_that_is_no_key_is_refused_without_its_contents(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="not a signing key file") as error:
        SigningKey.read(file)
    assert "secret!" not in str(error.value)
