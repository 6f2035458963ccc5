"""Mutual TLS: a peer without a certificate of our authority fails in the handshake."""

import datetime
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from libs.common.channel import ClientTls, open_channel
from libs.common.clock import SystemClock
from libs.common.server import Service
from libs.common.settings import ServiceSettings, SettingsError, load_settings
from libs.common.status import reason_of
from tests.common.test_pipeline import Probe, UnusedDatabase, settings
from tests.support.callers import Callers
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2_grpc as rpc


class Authority:
    """A certificate authority for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a new certificate for this machine and of its private key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        certificate_file, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_file, key_file

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


class Guarded:
    """A service that requires client certificates, and what a caller needs to reach it."""

    def __init__(self, port: int, callers: Callers, ours: Authority, theirs: Authority) -> None:
        self.target = f"127.0.0.1:{port}"
        self.callers = callers
        self.ours = ours
        self.theirs = theirs

    async def call(self, tls: ClientTls | None) -> pb.ReleaseHoldResponse:
        tokens = self.callers.token_source("metering")
        async with open_channel(self.target, caller=tokens, audience="billing.tollhouse", tls=tls) as channel:
            return await rpc.LedgerServiceStub(channel).ReleaseHold(pb.ReleaseHoldRequest(), timeout=3)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    callers = Callers(tmp_path)
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.issue("billing")
    service = Service(
        "billing",
        settings(callers.bundle_file, tls_certificate_file=certificate, tls_key_file=key, tls_client_ca_file=ours.file),
        UnusedDatabase(),  # type: ignore[arg-type]  # only `ping` and `close` are called here.
        SystemClock(),
    )
    service.add(rpc.add_LedgerServiceServicer_to_server, Probe())  # type: ignore[abstract]  # one RPC is enough here.
    yield Guarded(await service.start(), callers, ours, theirs)
    await service.stop(grace_s=0)


async def test_peer_with_our_certificate_reaches_the_pipeline(guarded: Guarded) -> None:
    certificate, key = guarded.ours.issue("metering")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await guarded.call(ClientTls(certificate, key, guarded.ours.file))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"


async def test_peer_without_a_certificate_cannot_connect(guarded: Guarded) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await guarded.call(None)
    assert reason_of(refused.value) is None
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_peer_with_a_certificate_of_another_authority_cannot_connect(guarded: Guarded) -> None:
    certificate, key = guarded.theirs.issue("metering")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await guarded.call(ClientTls(certificate, key, guarded.ours.file))
    assert reason_of(refused.value) is None


def test_incomplete_set_of_tls_files_is_reported_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, _ = Authority(tmp_path, "ours").issue("billing")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1/none")
    monkeypatch.setenv("TRUST_BUNDLE_FILE", str(Callers(tmp_path).bundle_file))
    monkeypatch.setenv("TLS_CERTIFICATE_FILE", str(certificate))

    with pytest.raises(SettingsError) as refused:
        load_settings(ServiceSettings)
    assert "TLS_KEY_FILE" in str(refused.value)
