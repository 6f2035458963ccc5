"""Whatever stands in whichever field of whichever request: it is answered or refused, and never fails."""

import asyncio
from collections.abc import Iterator
from typing import Final, cast

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from libs.common.ids import new_id
from libs.common.status import reason_of
from tests.identity.people import People
from tests.identity.support import Identity
from tests.support.callers import Metadata
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
_METHODS: Final = [
    method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
]
# What ends things comes last, so that until then there is something to find.
_LAST: Final = ("Deactivate", "Remove", "Revoke", "Unlink", "SignOut", "Delete")
_AT_ONCE: Final = 24

_SURROGATE: Final = "\ue000"
"""Stands for a lone surrogate, which Python's own serializer would not write; both are three bytes long."""
_TEXTS: Final = (
    "",
    " ",
    "\x00",
    "a\x00b",
    _SURROGATE,
    "\u202e\u200b\ufeff",
    "\N{FACE WITH TEARS OF JOY}" * 40,
    "İßﬀﷺ" * 16,
    "' OR 1=1; --",
    "%s{0}\\",
    "0198F0AA-0000-7000-8000-00000000000A",
    "odd" * 100,
    "Odd!" * 512,
    "oddity" * 3_400,
    "a@b.cd",
    "W10=",
    "*",
)
_NUMBERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (2**32 - 1,),
    FieldDescriptor.CPPTYPE_UINT64: (2**64 - 1,),
    FieldDescriptor.CPPTYPE_ENUM: (-1, 99),
    FieldDescriptor.CPPTYPE_BOOL: (True,),
}


def _values(field: FieldDescriptor) -> Iterator[object]:
    """Return what is put into a field, or into each place of one that repeats."""
    if field.message_type is not None:
        return _variants(GetMessageClass(field.message_type)())
    if field.type == FieldDescriptor.TYPE_BYTES:
        return iter((b"", b"\xff" * 31, b"\x00" * 32, b"x" * 20_000))
    if field.GetOptions().debug_redact:
        # What was once sent as a secret must be seen nowhere again, not even as the text of another field.
        return (text and f"{text} told to nobody" for text in _TEXTS)
    return iter(_NUMBERS.get(field.cpp_type, _TEXTS))


def _variants(base: Message) -> Iterator[Message]:
    """Return copies of a request, each with something odd in one place of it."""
    for field in base.DESCRIPTOR.fields:
        for put in _puts(cast(FieldDescriptor, field)):
            changed = type(base)()
            changed.CopyFrom(base)
            put(changed)
            yield changed


def _puts(field: FieldDescriptor) -> Iterator["_Put"]:
    if _is_map(field.message_type):
        for text in _TEXTS:
            yield _Put(field, {text[:300]: "value"})
            yield _Put(field, {"key": text})
        yield _Put(field, {f"key-{number}": "" for number in range(2_000)})
        yield _Put(field, {f"no key {number}": "" for number in range(21)})
    elif field.is_repeated:
        for value in _values(field):
            yield _Put(field, [value])
            yield _Put(field, [value, value])
        yield _Put(field, ["a"] * 33 if field.type == FieldDescriptor.TYPE_STRING else [next(_values(field))] * 15)
    else:
        for value in _values(field):
            yield _Put(field, value)


def _is_map(descriptor: Descriptor | None) -> bool:
    return descriptor is not None and descriptor.GetOptions().map_entry


class _Put:
    """Puts a value into a field of a message."""

    def __init__(self, field: FieldDescriptor, value: object) -> None:
        self._field = field
        self._value = value

    def __call__(self, message: Message) -> None:
        name, value = self._field.name, self._value
        if isinstance(value, Message):
            getattr(message, name).CopyFrom(value)
        elif isinstance(value, dict):
            getattr(message, name).update(value)
        elif isinstance(value, list):
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


def _ordinary(method: MethodDescriptor, known: dict[str, str]) -> Message:
    """Return a request that would be answered, as far as its fields can be filled by their names."""
    request = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.is_repeated or (field.containing_oneof is not None and field.name not in known):
            continue
        if field.name in known and field.type == FieldDescriptor.TYPE_STRING:
            setattr(request, field.name, known[field.name])
        elif field.enum_type is not None:
            setattr(request, field.name, 1)
        elif field.name == "update_mask":
            names = [other.name for other in method.input_type.fields]
            paths = [name for name in names if name not in known and name not in ("update_mask", "etag")]
            getattr(request, field.name).paths.extend([*paths, *(name for name in ("name", "email") if name in names)])
    return request


@pytest.fixture
async def known(identity: Identity, people: People) -> tuple[dict[str, str], tuple[Metadata, ...]]:
    """Something behind every id that requests name, and an owner and an admin of it all as callers."""
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
        # Bytes that are no text can be sent by anybody, whatever a well-meaning library does.
        data = request.SerializeToString().replace(_SURROGATE.encode(), b"\xed\xa0\x80")
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
            request = _ordinary(method, values)
            await asyncio.gather(*(ask(channel, method, variant) for variant in [request, *_variants(request)]))

    assert not failures, "\n".join(failures)
    assert {"CreateProject", "GetProject", "ListServiceAccounts", "ListMembers", "GetJwks"} <= answered
