"""Odd contents in any field of any request are answered or refused, and never fail the call."""

import asyncio
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.common.ids import new_id
from libs.common.status import reason_of
from tests.identity.people import People
from tests.identity.support import Identity
from tests.support.callers import Metadata
from tests.support.odd_requests import as_sent, filled, methods_of, variants
from tollhouse.common.v1 import audit_pb2, caller_pb2
from tollhouse.identity.v1 import (
    api_key_pb2,
    organization_pb2,
    project_pb2,
    service_account_pb2,
    session_pb2,
    system_configuration_pb2,
    user_pb2,
)

_FILES: Final = (
    user_pb2,
    session_pb2,
    organization_pb2,
    project_pb2,
    service_account_pb2,
    api_key_pb2,
    system_configuration_pb2,
    audit_pb2,
    caller_pb2,
)
_METHODS: Final = [method for method in methods_of(_FILES) if not method.server_streaming]
# RPCs that delete or end resources come last, so that the resources exist until then.
_LAST: Final = ("Deactivate", "Remove", "Revoke", "Unlink", "SignOut", "Delete")
_AT_ONCE: Final = 24


@pytest.fixture
async def known(identity: Identity, people: People) -> tuple[dict[str, str], tuple[Metadata, ...]]:
    """A resource for every id that requests name, and an owner and an admin of all of them as callers."""
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    admin = await people.member(organization_id, organization_pb2.MEMBER_ROLE_ADMIN)
    project = await identity.create_project(organization_id)
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=admin.user_id)
    )
    account = await identity.service_accounts.CreateServiceAccount(
        service_account_pb2.CreateServiceAccountRequest(
            organization_id=organization_id, name="Robot", role=organization_pb2.MEMBER_ROLE_MEMBER
        ),
        metadata=identity.metadata,
    )
    invitation = await identity.organizations.CreateInvitation(
        organization_pb2.CreateInvitationRequest(
            organization_id=organization_id, email="eve@example.com", role=organization_pb2.MEMBER_ROLE_VIEWER
        ),
        metadata=identity.metadata,
    )
    values = {
        "organization_id": organization_id,
        "user_id": owner.user_id,
        "owner_user_id": owner.user_id,
        "project_id": project.project_id,
        "api_key_id": key.api_key.api_key_id,
        "service_account_id": account.service_account.service_account_id,
        "invitation_id": invitation.invitation.invitation_id,
        "session_id": new_id(),
        "email": "odd@example.com",
        "name": "Odd",
        "key": key.secret,
        "login": "odd@example.com",
        "password": "violet-harbour-93-lantern",
    }
    return values, (identity.metadata, owner.metadata, admin.metadata)


@pytest.mark.parametrize("as_whom", range(3), ids=["operator", "owner", "admin"])
async def test_nothing_a_request_can_say_is_a_failure(
    identity: Identity, known: tuple[dict[str, str], tuple[Metadata, ...]], as_whom: int
) -> None:
    values, callers = known
    failures: list[str] = []
    answered: set[str] = set()
    room = asyncio.Semaphore(_AT_ONCE)

    async def ask(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message) -> None:
        data = as_sent(request)
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, Message] = channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=None,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        async with room:
            try:
                await call(data, metadata=callers[as_whom], timeout=30)
                answered.add(method.name)
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                if reason in (None, "INTERNAL", "DEADLINE_EXCEEDED"):
                    text = str(request)
                    failures.append(f"{method.name} {error.code().name} {error.details()} of {text[:300]!r}")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{identity.port}") as channel:
        for method in sorted(_METHODS, key=lambda method: method.name.startswith(_LAST)):
            request = filled(method.input_type, values)
            await asyncio.gather(*(ask(channel, method, variant) for variant in [request, *variants(request)]))

    assert not failures, "\n".join(failures)
    assert {"CreateProject", "GetProject", "ListServiceAccounts", "ListMembers", "GetJwks"} <= answered
