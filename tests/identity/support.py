"""A running identity service with stubs to call it, and requests that many tests make."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import grpc
from pydantic import SecretStr

from libs.common.clock import Clock
from libs.common.ids import new_id
from libs.common.server import Service
from services.identity.__main__ import build
from services.identity.settings import IdentitySettings
from tests.support.callers import Callers, Metadata
from tollhouse.common.v1 import audit_pb2_grpc, integrity_pb2_grpc
from tollhouse.identity.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    service_account_pb2_grpc,
    system_configuration_pb2_grpc,
    user_pb2,
    user_pb2_grpc,
)

PEPPERS = {"1": "11" * 32}


class Identity:
    """Stubs to one server; every call is an operator's."""

    def __init__(self, service: Service, port: int, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self.channel = channel
        self.service = service
        self.port = port
        self.metadata = metadata
        self.users = user_pb2_grpc.UserServiceStub(channel)
        self.system_configuration = system_configuration_pb2_grpc.SystemConfigurationServiceStub(channel)
        self.organizations = organization_pb2_grpc.OrganizationServiceStub(channel)
        self.projects = project_pb2_grpc.ProjectServiceStub(channel)
        self.service_accounts = service_account_pb2_grpc.ServiceAccountServiceStub(channel)
        self.api_keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
        self.integrity = integrity_pb2_grpc.IntegrityServiceStub(channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)

    async def create_user(self, email: str = "", username: str = "") -> user_pb2.User:
        request = user_pb2.CreateUserRequest(email=email or f"{new_id()}@example.com", username=username)
        return (await self.users.CreateUser(request, metadata=self.metadata)).user

    async def create_organization(self, owner_user_id: str = "") -> tuple[str, str]:
        """Return the ids of a new organization and of its owner."""
        owner = owner_user_id or (await self.create_user()).user_id
        request = organization_pb2.CreateOrganizationRequest(name="Acme", owner_user_id=owner)
        created = await self.organizations.CreateOrganization(request, metadata=self.metadata)
        return created.organization.organization_id, owner

    async def create_project(self, organization_id: str, name: str = "Chat") -> project_pb2.Project:
        request = project_pb2.CreateProjectRequest(organization_id=organization_id, name=name)
        return (await self.projects.CreateProject(request, metadata=self.metadata)).project

    async def create_key(
        self, request: api_key_pb2.CreateApiKeyRequest | None = None
    ) -> api_key_pb2.CreateApiKeyResponse:
        """Create a key, in an organization of its own unless the request says otherwise."""
        request = request or api_key_pb2.CreateApiKeyRequest()
        if not request.organization_id:
            request.organization_id, request.user_id = await self.create_organization()
        return await self.api_keys.CreateApiKey(request, metadata=self.metadata)

    async def verify(
        self, key: str, *, scopes: tuple[str, ...] = (), model: str = "", min_revision: int = 0, address: str = ""
    ) -> api_key_pb2.VerifyApiKeyResponse:
        request = api_key_pb2.VerifyApiKeyRequest(
            key=key, required_scopes=scopes, model=model, min_revision=min_revision, client_address=address
        )
        return await self.api_keys.VerifyApiKey(request, metadata=self.metadata, timeout=5)

    async def code(
        self, key: str, *, scopes: tuple[str, ...] = (), model: str = "", min_revision: int = 0, address: str = ""
    ) -> str:
        """Return the code of a verification, without its prefix."""
        answer = await self.verify(key, scopes=scopes, model=model, min_revision=min_revision, address=address)
        return api_key_pb2.VerifyApiKeyCode.Name(answer.code).removeprefix("VERIFY_API_KEY_CODE_")

    async def revoke(self, api_key: api_key_pb2.ApiKey) -> int:
        """Revoke a key; return the revision."""
        request = api_key_pb2.RevokeApiKeyRequest(
            organization_id=api_key.organization_id, api_key_id=api_key.api_key_id
        )
        return (await self.api_keys.RevokeApiKey(request, metadata=self.metadata)).revision


async def changes_until(
    stream: AsyncIterator[api_key_pb2.WatchApiKeysResponse], until: int
) -> list[api_key_pb2.ApiKeyChange]:
    """Return the changes that a stream tells up to a revision."""
    changes: list[api_key_pb2.ApiKeyChange] = []
    async for message in stream:
        assert not message.resync
        changes += message.changes
        if message.revision >= until:
            break
    return changes


def identity_settings(callers: Callers, url: str, folder: Path, peppers: dict[str, str]) -> IdentitySettings:
    pepper_file = folder / f"peppers-{len(peppers)}.json"
    pepper_file.write_text(json.dumps(peppers))
    return IdentitySettings(
        database_url=SecretStr(url),
        trust_bundle_file=callers.bundle_file,
        peppers=pepper_file,
        event_keys_file=callers.event_keys_file,
        event_look_every_s=0.1,
        event_allowed_networks=(ip_network("127.0.0.0/8"),),
        last_used_flush_s=0.2,
    )


@asynccontextmanager
async def open_identity(
    callers: Callers,
    url: str,
    folder: Path,
    *,
    peppers: dict[str, str] | None = None,
    clock: Clock | None = None,
    key_stale_max_s: float = 0,
    port: int = 0,
) -> AsyncIterator[Identity]:
    """Run identity for as long as the context lasts, on a free port unless one is given."""
    settings = identity_settings(callers, url, folder, peppers or PEPPERS)
    service = await build(settings.model_copy(update={"key_stale_max_s": key_stale_max_s, "port": port}), clock)
    port = await service.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Identity(service, port, channel, callers.operator())
    finally:
        await service.stop(grace_s=0)
