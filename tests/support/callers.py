"""Callers for tests: signing keys, the trust bundle that contains them, and valid and invalid tokens."""

import json
from datetime import timedelta
from pathlib import Path

import grpc

from libs.common.authentication import Authenticator, SigningKey, TokenSource, TrustBundle, mint_token
from libs.common.clock import Clock, SystemClock
from tests.support.secrecy import WATCH

CONTEXTS = ("identity", "billing", "metering")
SERVICES = (*CONTEXTS, "gateway")
Metadata = tuple[tuple[str, str], ...]

EVENT_KEY = bytes(range(32))
"""The key with which services of tests encrypt secrets of events."""


class Callers:
    """One operator and every service, each with a key of its own."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.operator_key = SigningKey.generate(issuer="operators.test", subject="operator:alice")
        self.service_keys = {
            name: SigningKey.generate(issuer=f"{name}.test", subject=f"service:{name}") for name in SERVICES
        }
        self.session_key = SigningKey.generate(issuer="sessions.test", subject="user:*")
        WATCH.note(*(str(key.key["d"]) for key in (self.operator_key, self.session_key, *self.service_keys.values())))
        issuers = [self.operator_key.trusted(["operator:*"]), *(key.trusted() for key in self.service_keys.values())]
        issuers.append(self.session_key.trusted())
        self.bundle = TrustBundle(issuers=issuers)
        self.bundle_file = folder / "trust.json"
        self.bundle_file.write_text(self.bundle.model_dump_json())
        self.event_keys_file = folder / "event-keys.json"
        self.event_keys_file.write_text(json.dumps({"1": EVENT_KEY.hex()}))

    def signing_key_file(self, service: str, folder: Path) -> Path:
        """Return the private key file of a service, for settings that name one."""
        path = folder / f"{service}.key.json"
        self.service_keys[service].write(path)
        return path

    def token_source(self, service: str) -> TokenSource:
        return TokenSource(self.service_keys[service], self._clock)

    def token(
        self,
        key: SigningKey,
        *,
        audiences: list[str] | None = None,
        lifetime: timedelta = timedelta(hours=1),
        subject: str | None = None,
    ) -> str:
        audiences = audiences or [f"{context}.tollhouse" for context in CONTEXTS]
        return mint_token(key, audiences=audiences, lifetime=lifetime, clock=self._clock, subject=subject)

    def authenticator(self, audience: str) -> Authenticator:
        """Return an authenticator of callers' tokens, as the service with this audience has."""
        return Authenticator(self.bundle, audience=audience, clock=self._clock)

    def operator(self) -> Metadata:
        """Return the metadata with which an operator calls any of the services."""
        return bearer(self.token(self.operator_key))

    def service(self, name: str) -> Metadata:
        """Return the metadata with which a service calls any other."""
        return bearer(self.token(self.service_keys[name]))

    def user(self, user_id: str, session_id: str) -> Metadata:
        """Return the metadata with which a user calls any of the services, for a session that exists in identity."""
        token = mint_token(
            self.session_key,
            audiences=[f"{context}.tollhouse" for context in CONTEXTS],
            lifetime=timedelta(minutes=15),
            clock=self._clock,
            subject=f"user:{user_id}",
            more_claims={"sid": session_id},
        )
        return bearer(token)


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def in_the_name_of(metadata: Metadata, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    """Return the details of a call with its credentials replaced by the caller's; for interceptors."""
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=details.timeout,
        metadata=grpc.aio.Metadata(*metadata),
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )
