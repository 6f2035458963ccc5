"""`tollhouse gateway …`: identities of gateways, which running services trust and refuse without a restart."""

import asyncio
import base64
import json
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import jwt
import pytest

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.installation import gateways as gateways_module
from libs.cli.installation.data_folder import AUDIENCES, RESERVED_NAMES, DataFolder
from libs.cli.installation.gateways import Gateways
from libs.common.authentication import SigningKey, TrustBundle
from libs.common.clock import SystemClock
from libs.common.ids import new_id
from tests.support.callers import Metadata, bearer
from tests.support.secrecy import WATCH
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc

PROMISED_S = 5.0


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    return folder


@pytest.fixture
def gateways(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> Gateways:
    monkeypatch.setattr(gateways_module, "_TAKEN_UP_WITHIN_S", 0)
    return Gateways(folder, SystemClock())


def signed_with_pyjwt(key_file: Path) -> Metadata:
    """Return a token as `docs/gateways.md` shows it, made by PyJWT from the file alone."""
    document = json.loads(key_file.read_bytes())
    WATCH.note(document["key"]["d"])
    now = datetime.now(UTC)
    claims = {
        "iss": document["issuer"],
        "sub": document["subject"],
        "aud": AUDIENCES,
        "iat": now,
        "exp": now + timedelta(minutes=5),
    }
    headers = {"typ": "caller+jwt", "kid": document["key"]["kid"]}
    key = jwt.PyJWK(document["key"], algorithm="EdDSA").key
    return bearer(jwt.encode(claims, key, algorithm="EdDSA", headers=headers))


def mode_of(file: Path) -> int | None:
    return stat.S_IMODE(file.stat().st_mode) if file.exists() else None


async def is_accepted(installation: Installation, metadata: Metadata, context: str = "identity") -> bool:
    """Tell whether identity answers the caller, rather than that it does not know them."""
    async with grpc.aio.insecure_channel(installation.endpoints()[context]) as channel:
        stub: api_key_pb2_grpc.ApiKeyServiceStub = api_key_pb2_grpc.ApiKeyServiceStub(channel)
        try:
            await stub.VerifyApiKey(api_key_pb2.VerifyApiKeyRequest(key="th_live_x"), metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
        return True


async def becomes(accepted: bool, installation: Installation, metadata: Metadata) -> None:
    async with asyncio.timeout(PROMISED_S):
        while True:
            if await is_accepted(installation, metadata) is accepted:
                return
            await asyncio.sleep(0.05)


async def test_gateway_is_known_to_running_services_until_it_is_revoked(installation: Installation) -> None:
    name, location = f"edge-{new_id()[-12:]}", ["--data-dir", str(installation.data_dir)]
    created = made(installation, "gateway", "create", name, *location)
    key_file = Path(created["private_key_file"])
    assert key_file == installation.data.signing_key_file(name)
    assert mode_of(key_file) == 0o600
    first = signed_with_pyjwt(key_file)
    await becomes(True, installation, first)

    made(installation, "gateway", "rotate", name, *location)
    second = signed_with_pyjwt(key_file)
    assert await is_accepted(installation, second)  # At once: no call fails for a rotation.
    assert await is_accepted(installation, first)

    listed = {one["name"]: one for one in found(installation, "gateway", "list", *location)}
    assert [key["retire_time"] is None for key in listed[name]["keys"]] == [True, False]  # type: ignore[index]
    assert created["keys"][0]["key_id"] in done(installation, "gateway", "list", *location)  # type: ignore[index]

    made(installation, "gateway", "revoke", name, *location, "--yes")
    for metadata in (first, second):
        await becomes(False, installation, metadata)
    assert mode_of(key_file) is None
    assert "There is no gateway" in refused(installation, 1, "gateway", "delete", name, *location, "--yes")


HOSTILE = [
    *(
        "",
        "../x",
        "a/b",
        "a b",
        "'",
        '"; rm',
        "a\x00b",
        "É",
        "Edge",
        "-a",
        "1a",
        "*",
        "a*",
        "a\n",
        "a" * 64,
        "x" * 9_999,
    ),
    *sorted(RESERVED_NAMES),
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:12]))
def test_hostile_or_reserved_name_is_refused_and_writes_nothing(
    gateways: Gateways, folder: DataFolder, name: str
) -> None:
    before = {
        path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.name != "trust.lock"
    }
    attempts: tuple[Callable[[], object], ...] = (
        lambda: gateways.create(name, None),
        lambda: gateways.rotate(name, overlap=timedelta(0), out=None),
        lambda: gateways.revoke(name),
    )
    for attempt in attempts:
        with pytest.raises(WrongUse) as raised:
            attempt()
        assert len(str(raised.value)) < 400
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.name != "trust.lock"}
    assert after == before


def test_name_is_taken_once(gateways: Gateways, tmp_path: Path) -> None:
    gateways.create("edge", None)
    for out in (None, tmp_path / "other.json"):
        with pytest.raises(CommandFailed, match="There is a gateway edge already"):
            gateways.create("edge", out)
    with pytest.raises(CommandFailed, match="There is a gateway gateway already"):
        gateways.create("gateway", None)
    assert not (tmp_path / "other.json").exists()


def test_gateway_may_sign_for_its_own_subject_alone(gateways: Gateways, folder: DataFolder) -> None:
    _, file = gateways.create("edge", None)
    entry = next(one for one in TrustBundle.read(folder.trust_bundle_file).issuers if one.issuer == "tollhouse-edge")
    assert entry.subjects == ["service:edge"]
    assert SigningKey.read(file).subject == "service:edge"
    assert "d" not in entry.keys[0]


def test_file_of_another_is_never_overwritten(gateways: Gateways, folder: DataFolder, tmp_path: Path) -> None:
    for precious in (tmp_path / "precious", folder.trust_bundle_file, folder.signing_key_file("billing")):
        if not precious.exists():
            precious.write_text("precious")
        before = precious.read_bytes()
        with pytest.raises(CommandFailed, match="exists already"):
            gateways.create("edge", precious)
        assert precious.read_bytes() == before
    gateways.create("edge", tmp_path / "edge.json")
    for out, complaint in ((tmp_path / "precious", "no private key of this gateway"), (None, "Give its file as --out")):
        with pytest.raises(CommandFailed, match=complaint):
            gateways.rotate("edge", overlap=timedelta(0), out=out)
    (tmp_path / "link.json").symlink_to(tmp_path / "precious")
    attempts: tuple[Callable[[], object], ...] = (
        lambda: gateways.create("other", tmp_path / "link.json"),
        lambda: gateways.rotate("edge", overlap=timedelta(0), out=tmp_path / "link.json"),
        lambda: gateways.create("other", tmp_path / "missing" / "edge.json"),
        lambda: gateways.create("other", tmp_path / "a\x00b"),
        lambda: gateways.create("other", tmp_path),
    )
    for attempt in attempts:
        with pytest.raises(CommandFailed):
            attempt()
    assert (tmp_path / "precious").read_text() == "precious"
    assert [gateway.name for gateway in gateways.all()] == ["edge", "gateway"]


def test_rotation_without_overlap_leaves_the_new_key_alone(gateways: Gateways, tmp_path: Path) -> None:
    file = tmp_path / "edge.json"
    created, _ = gateways.create("edge", file)
    before = SigningKey.read(file)
    rotated, again = gateways.rotate("edge", overlap=timedelta(0), out=file)
    assert again == file
    assert [key.key_id for key in rotated.keys] == [SigningKey.read(file).key["kid"]]
    assert SigningKey.read(file).key["x"] != before.key["x"]
    assert created.keys != rotated.keys


def test_second_rotation_does_not_lengthen_the_first_overlap(gateways: Gateways) -> None:
    gateways.create("edge", None)
    first, _ = gateways.rotate("edge", overlap=timedelta(hours=1), out=None)
    second, _ = gateways.rotate("edge", overlap=timedelta(days=1), out=None)
    ends = {key.key_id: key.retire_time for key in second.keys}
    assert len(ends) == 3
    assert ends[first.keys[1].key_id] == first.keys[1].retire_time
    assert ends[second.keys[0].key_id] is None


def test_start_keeps_gateways_and_their_overlaps(gateways: Gateways, folder: DataFolder) -> None:
    gateways.create("edge", None)
    gateways.rotate("edge", overlap=timedelta(hours=1), out=None)
    gateways.rotate("gateway", overlap=timedelta(hours=1), out=None)
    before = gateways.all()
    DataFolder(folder.path).prepare()
    assert gateways.all() == before
    folder.trust_bundle_file.write_text("{")
    with pytest.raises(CommandFailed, match="is no trust bundle"):
        DataFolder(folder.path).prepare()
    with pytest.raises(CommandFailed, match="is no trust bundle"):
        gateways.create("other", None)
    assert not folder.signing_key_file("other").exists()


def test_commands_at_the_same_time_lose_no_gateway(gateways: Gateways, folder: DataFolder) -> None:
    names = [f"edge-{number}" for number in range(8)]
    threads = [threading.Thread(target=gateways.create, args=(name, None)) for name in names]
    threads.append(threading.Thread(target=DataFolder(folder.path).prepare))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {gateway.name for gateway in gateways.all()} == {*names, "gateway"}


def test_interrupted_rotation_leaves_the_old_key_good_and_can_be_done_again(
    gateways: Gateways, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    created, file = gateways.create("edge", None)

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            gateways.rotate("edge", overlap=timedelta(hours=1), out=None)
    assert SigningKey.read(file).key["kid"] == created.keys[0].key_id
    (edge,) = (one for one in gateways.all() if one.name == "edge")
    assert created.keys[0] in edge.keys
    rotated, _ = gateways.rotate("edge", overlap=timedelta(0), out=None)
    assert [key.key_id for key in rotated.keys] == [SigningKey.read(file).key["kid"]]


def _interrupted(_: float) -> None:
    raise KeyboardInterrupt


def test_key_file_holds_what_other_libraries_need(gateways: Gateways) -> None:
    """The private key is a JWK: 32 bytes each of `d` and `x`, in base64url."""
    _, file = gateways.create("edge", None)
    key = json.loads(file.read_bytes())["key"]
    assert {key["kty"], key["crv"]} == {"OKP", "Ed25519"}
    assert [len(base64.urlsafe_b64decode(key[name] + "=")) for name in ("d", "x")] == [32, 32]


def test_key_of_a_gateway_is_made_by_an_operator_and_by_nobody_else(installation: Installation) -> None:
    owner = f"{new_id()}@example.com"
    organization = made(installation, "organization", "create", "Platform", "--owner", owner, "--create-owner")
    of_it = ["--organization", organization["organization_id"]]
    account = made(installation, "service-account", "create", "edge", *of_it, "--role", "admin")["service_account_id"]
    scopes = ["--scope", "tollhouse:admission", "--scope", "tollhouse:usage.write"]
    create = ["key", "create", "edge", *of_it, "--service-account", account, *scopes]
    wide = json.loads(done(installation, *create, "--all-organizations", "--json"))
    assert wide["api_key"]["all_organizations"] is True
    narrow = done(installation, *create, "--gateway-organization", organization["organization_id"])
    assert f"gateway organization id  {organization['organization_id']}" in narrow
    admin = done(
        installation, *create, "--scope", "tollhouse:keys.write", "--all-organizations", "--secret-only"
    ).strip()
    WATCH.note(wide["secret"], admin)
    assert "tollhouse:admission" in refused(installation, 1, *create, "--all-organizations", "--token", admin)
