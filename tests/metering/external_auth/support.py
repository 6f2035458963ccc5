"""Requests as Envoy's external authorization sends them."""

import json
from collections.abc import Mapping

from envoy.service.auth.v3 import external_auth_pb2 as pb
from envoy.service.auth.v3 import external_auth_pb2_grpc as rpc

from tests.identity.support import Identity
from tests.metering.support import Metering, Platform
from tollhouse.identity.v1 import api_key_pb2


def bearer(secret: str) -> tuple[str, str]:
    return "authorization", f"Bearer {secret}"


def request_of(*headers: tuple[str, str], address: str = "127.0.0.1", **extensions: str) -> pb.CheckRequest:
    """Return a request with these headers, whose route has these context extensions."""
    request = pb.CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = address
    attributes.request.http.headers.update({":path": "/v1/chat", ":method": "POST"} | dict(headers))
    attributes.context_extensions.update(extensions)
    return request


async def check(metering: Metering, request: pb.CheckRequest) -> pb.CheckResponse:
    stub: rpc.AuthorizationStub = rpc.AuthorizationStub(metering.channel)
    return await stub.Check(request, metadata=metering.gateway)


async def outcome(metering: Metering, *headers: tuple[str, str], address: str = "127.0.0.1", **extensions: str) -> str:
    """Return `200`, or the status and reason of a denial."""
    return said(await check(metering, request_of(*headers, address=address, **extensions)))


def said(response: pb.CheckResponse) -> str:
    if response.HasField("ok_response"):
        assert response.status.code == 0
        return "200"
    assert response.status.code != 0
    denied = response.denied_response
    body: Mapping[str, object] = json.loads(denied.body)
    assert set(body) == {"reason", "message", "facts"}
    for option in denied.headers:
        assert option.header.value.isascii()
        assert option.header.value.isprintable()
    return f"{denied.status.code} {body['reason']}"


async def funded_key(platform: Platform, identity: Identity, **fields: object) -> api_key_pb2.CreateApiKeyResponse:
    """Create a key with the scope `chat` in an organization that has money."""
    request = api_key_pb2.CreateApiKeyRequest(scopes=["chat"])
    request.MergeFrom(api_key_pb2.CreateApiKeyRequest(**fields))  # type: ignore[arg-type]
    created = await identity.create_key(request)
    await platform.fund(created.api_key.organization_id)
    return created
