"""The three services with one client as a gateway has it, by its signing key, and one as an operator has it.

`house` is shared by the tests of a module, `own_house` is a test's own. Both have an organization with money and a key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from tests.billing.support import balance_of
from tests.metering.support import Platform, priced
from tests.support.callers import Callers
from tollhouse.identity.v1 import api_key_pb2
from tollhouse_client import Client, Retries, SigningKey, Token

_PATIENT = Retries(attempts_max=50, pause_s=0.02, pause_max_s=0.2)


@dataclass
class House:
    """The services, and an organization."""

    platform: Platform
    gateway: Client
    operator: Client
    signing_key_file: Path
    key: api_key_pb2.CreateApiKeyResponse

    @property
    def organization_id(self) -> str:
        return self.key.api_key.organization_id

    @property
    def secret(self) -> str:
        return self.key.secret

    async def new_key(self, **fields: object) -> api_key_pb2.CreateApiKeyResponse:
        """Create another key of the organization's owner."""
        request = api_key_pb2.CreateApiKeyRequest(
            organization_id=self.organization_id,
            user_id=self.key.api_key.user_id,
            **fields,  # type: ignore[arg-type]
        )
        return await self.platform.identity.create_key(request)

    async def charges(self) -> dict[str, Decimal]:
        """What billing has charged the organization for, by operation id."""
        await self.platform.settled()
        found = await self.platform.billing_charges()
        return {operation: value for (payer, operation), value in found.items() if payer == self.organization_id}

    async def held(self) -> Decimal:
        """How much of the organization's money is held."""
        return Decimal((await balance_of(self.platform.ledger, self.organization_id)).held.value)

    def client(self, **options: object) -> Client:
        """Make another client with the gateway's key."""
        addresses = addresses_of(self.platform)
        credentials = SigningKey.read(self.signing_key_file)
        return Client(**{**addresses, "credentials": credentials, "retries": _PATIENT, **options})  # type: ignore[arg-type]


def addresses_of(platform: Platform) -> dict[str, str]:
    """Return where the services are, as arguments of a client."""
    ports = {"identity": platform.identity_port, "billing": platform.billing_port, "metering": platform.metering_port}
    return {context: f"127.0.0.1:{port}" for context, port in ports.items()}


@asynccontextmanager
async def _furnished(callers: Callers, urls: dict[str, str], admin_url: str, folder: Path) -> AsyncIterator[House]:
    async with priced(Platform(callers, urls, admin_url, folder, SystemClock())) as platform:
        identity = await platform.start_identity()
        key = await identity.create_key()
        await platform.fund(key.api_key.organization_id)
        addresses = addresses_of(platform)
        file = callers.signing_key_file("gateway", folder)
        operator = Client(**addresses, credentials=Token(callers.token(callers.operator_key)), retries=_PATIENT)  # type: ignore[arg-type]
        gateway = Client(**addresses, credentials=SigningKey.read(file), retries=_PATIENT)  # type: ignore[arg-type]
        async with operator, gateway:
            yield House(platform, gateway, operator, file, key)


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture(scope="module")
async def house(
    callers: Callers,
    module_database_urls: dict[str, str],
    module_database_admin_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("house")
    async with _furnished(callers, module_database_urls, module_database_admin_url, folder) as house:
        yield house


@pytest.fixture
async def own_house(
    callers: Callers, database_urls: dict[str, str], database_admin_url: str, tmp_path: Path
) -> AsyncIterator[House]:
    async with _furnished(callers, database_urls, database_admin_url, tmp_path) as house:
        yield house
