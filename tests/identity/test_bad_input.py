"""Bad input is refused with every field at fault, and changes nothing."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.status import field_violations
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, user_pb2

ID = "0198f0aa-0000-7000-8000-000000000001"
KEY = api_key_pb2.CreateApiKeyRequest
USER = user_pb2.CreateUserRequest
LONG = "x" * 300

CASES: list[tuple[str, Message, set[str]]] = [
    ("users/CreateUser", USER(), {"email"}),
    ("users/CreateUser", USER(email="nobody"), {"email"}),
    ("users/CreateUser", USER(email="a@example.com", username="a b", picture_url="x"), {"username", "picture_url"}),
    ("users/CreateUser", USER(email="a@example.com", full_name="a\x00b"), {"full_name"}),
    ("users/CreateUser", USER(email="a@example.com", full_name=LONG), {"full_name"}),
    ("users/CreateUser", USER(email="a@example.com", request_id="has space"), {"request_id"}),
    ("users/CreateUser", USER(email=f"{LONG}@example.com"), {"email"}),
    ("users/CreateUser", USER(email="a@example.com", picture_url="javascript:alert(1)"), {"picture_url"}),
    (
        "users/UpdateUser",
        user_pb2.UpdateUserRequest(user_id="x", update_mask=FieldMask(paths=["email", "platform_role"])),
        {"user_id", "email", "platform_role"},
    ),
    (
        "users/UpdateUserConfiguration",
        user_pb2.UpdateUserConfigurationRequest(user_id="x", entries={"a": "1"}, removed_keys=["a"]),
        {"user_id", "removed_keys"},
    ),
    (
        "organizations/UpdateOrganization",
        organization_pb2.UpdateOrganizationRequest(organization_id="x", update_mask=FieldMask(paths=["name", "other"])),
        {"organization_id", "name", "update_mask"},
    ),
    (
        "projects/UpdateProject",
        project_pb2.UpdateProjectRequest(organization_id="x", project_id=ID, update_mask=FieldMask(paths=["name"])),
        {"organization_id", "name"},
    ),
    (
        "api_keys/CreateApiKey",
        KEY(
            organization_id="x",
            user_id=ID,
            scopes=["tollhouse:no.such"],
            allowed_addresses=["10.0.0.1/8"],
            expire_time=Timestamp(seconds=-1),
        ),
        {"organization_id", "scopes[0]", "allowed_addresses[0]", "expire_time"},
    ),
    ("users/GetUser", user_pb2.GetUserRequest(), {"user_id"}),
    ("users/GetUser", user_pb2.GetUserRequest(user_id="' OR 1=1 --"), {"user_id"}),
    ("users/ListUsers", user_pb2.ListUsersRequest(page_size=-1), {"page_size"}),
    ("users/ListUsers", user_pb2.ListUsersRequest(page_size=1001), {"page_size"}),
    ("users/ListUsers", user_pb2.ListUsersRequest(page_token="bm90IG91cnM="), {"page_token"}),
    ("users/ListUsers", user_pb2.ListUsersRequest(page_token="\N{SNOWMAN}"), {"page_token"}),
    ("users/ListUsers", user_pb2.ListUsersRequest(email="a\x00b"), {"email"}),
    (
        "organizations/CreateOrganization",
        organization_pb2.CreateOrganizationRequest(name=" \t"),
        {"name", "owner_user_id"},
    ),
    (
        "organizations/AddMember",
        organization_pb2.AddMemberRequest(organization_id=ID, user_id="7"),
        {"user_id", "role"},
    ),
    (
        "organizations/AddMember",
        organization_pb2.AddMemberRequest(organization_id=ID, user_id=ID, role=99),  # type: ignore[arg-type]  # unknown.
        {"role"},
    ),
    (
        "organizations/UpdateMember",
        organization_pb2.UpdateMemberRequest(organization_id=ID, user_id=ID),
        {"role"},
    ),
    ("projects/CreateProject", project_pb2.CreateProjectRequest(name=""), {"organization_id", "name"}),
    ("projects/CreateProject", project_pb2.CreateProjectRequest(organization_id=ID, name=LONG), {"name"}),
    ("projects/GetProject", project_pb2.GetProjectRequest(organization_id=ID, project_id=ID[:-1]), {"project_id"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID), {"owner"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, project_id="p"), {"project_id"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, scopes=["a", "a"]), {"scopes"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, scopes=["Usage Write"]), {"scopes[0]"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, scopes=[f"s{n}" for n in range(65)]), {"scopes"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, allowed_models=["a*b"]), {"allowed_models[0]"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, allowed_models=["a b"]), {"allowed_models[0]"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, allowed_models=["x" * 257]), {"allowed_models[0]"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, metadata={"k": LONG * 2}), {"metadata[k]"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, external_id="a\x00"), {"external_id"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, environment=9), {"environment"}),  # type: ignore[arg-type]  # unknown.
    (
        "api_keys/CreateApiKey",
        KEY(organization_id=ID, user_id=ID, expire_time=Timestamp(seconds=10**15)),
        {"expire_time"},
    ),
    (
        "api_keys/CreateApiKey",
        KEY(organization_id=ID, user_id=ID, expire_time=Timestamp(nanos=-5)),
        {"expire_time"},
    ),
    ("api_keys/VerifyApiKey", api_key_pb2.VerifyApiKeyRequest(key="k", min_revision=-1), {"min_revision"}),
    ("api_keys/VerifyApiKey", api_key_pb2.VerifyApiKeyRequest(key="k", required_scopes=[""]), {"required_scopes[0]"}),
    ("api_keys/VerifyApiKey", api_key_pb2.VerifyApiKeyRequest(key="k", client_address="a.test"), {"client_address"}),
    ("api_keys/RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(), {"organization_id", "api_key_id"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, service_account_id="s"), {"service_account_id"}),
    ("api_keys/CreateApiKey", KEY(organization_id=ID, user_id=ID, scopes=["tollhouse:x"]), {"scopes[0]"}),
    (
        "api_keys/CreateApiKey",
        KEY(organization_id=ID, user_id=ID, allowed_addresses=["192.0.2.1", "192.0.2.1/24", "localhost"]),
        {"allowed_addresses[1]", "allowed_addresses[2]"},
    ),
    (
        "api_keys/CreateApiKey",
        KEY(organization_id=ID, user_id=ID, allowed_addresses=["192.0.2.1"] * 51),
        {"allowed_addresses"},
    ),
    (
        "api_keys/UpdateApiKey",
        api_key_pb2.UpdateApiKeyRequest(name="a\nb"),
        {"organization_id", "api_key_id", "update_mask", "name"},
    ),
    (
        "api_keys/RotateApiKey",
        api_key_pb2.RotateApiKeyRequest(request_id=" "),
        {"organization_id", "api_key_id", "request_id"},
    ),
    (
        "api_keys/RotateApiKey",
        api_key_pb2.RotateApiKeyRequest(organization_id=ID, api_key_id=ID, overlap=Duration(seconds=-1)),
        {"overlap"},
    ),
    (
        "api_keys/RotateApiKey",
        api_key_pb2.RotateApiKeyRequest(organization_id=ID, api_key_id=ID, expire_time=Timestamp(seconds=-1)),
        {"expire_time"},
    ),
    (
        "api_keys/ImportApiKeys",
        api_key_pb2.ImportApiKeysRequest(
            organization_id=ID,
            secret_prefix="sk-",
            api_keys=[api_key_pb2.ImportedApiKey(digest="xy", secret_suffix="12345")],
        ),
        {"api_keys[0].digest", "api_keys[0].secret_suffix", "api_keys[0].owner"},
    ),
    ("api_keys/ReportLeakedApiKey", api_key_pb2.ReportLeakedApiKeyRequest(digest="00"), {"digest"}),
    ("api_keys/ListApiKeys", api_key_pb2.ListApiKeysRequest(organization_id=ID, external_id=LONG), {"external_id"}),
]


@pytest.mark.parametrize(("rpc", "request_", "fields"), CASES)
async def test_bad_field_is_named(identity: Identity, rpc: str, request_: Message, fields: set[str]) -> None:
    stub, _, method = rpc.partition("/")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(getattr(identity, stub), method)(request_, metadata=identity.metadata)

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert set(field_violations(refused.value)) == fields


async def test_negative_watch_revision_is_refused(identity: Identity) -> None:
    of_keys = identity.api_keys.WatchApiKeys(
        api_key_pb2.WatchApiKeysRequest(after_revision=-1), metadata=identity.metadata
    )
    of_organizations = identity.organizations.WatchOrganizations(
        organization_pb2.WatchOrganizationsRequest(after_revision=-(2**63)), metadata=identity.metadata
    )

    for stream in (aiter(of_keys), aiter(of_organizations)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(stream)
        assert set(field_violations(refused.value)) == {"after_revision"}


async def test_expiry_in_the_past_is_refused(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = KEY(organization_id=organization_id, user_id=owner, expire_time=Timestamp(seconds=1))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.create_key(request)

    assert set(field_violations(refused.value)) == {"expire_time"}
