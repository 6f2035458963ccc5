"""ApiKeyService over gRPC."""

from collections.abc import AsyncIterator
from typing import Final, cast

import grpc

from libs.common import pages
from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import id_in_token
from libs.common.timestamps import parse_time
from services.identity.api_key.api_keys import ApiKeys
from services.identity.api_key.model import ApiKey, Environment, NewApiKey, Verdict
from services.identity.api_key.rendering import CODES, render_api_key, render_news
from services.identity.api_key.verification import Verifier
from services.identity.api_key.watch import Watchers
from services.identity.revisions import ChangeKind
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import api_key_pb2_grpc as rpc

_ENVIRONMENTS: Final = {
    pb.API_KEY_ENVIRONMENT_UNSPECIFIED: Environment.LIVE,
    pb.API_KEY_ENVIRONMENT_LIVE: Environment.LIVE,
    pb.API_KEY_ENVIRONMENT_TEST: Environment.TEST,
}
_MALFORMED: Final = pb.VerifyApiKeyResponse(code=pb.VERIFY_API_KEY_CODE_NOT_FOUND)


class ApiKeyServicer(rpc.ApiKeyServiceServicer):
    """Reads requests into what keys, verifier and watchers take, and renders what they give."""

    def __init__(self, api_keys: ApiKeys, verifier: Verifier[bytes], watchers: Watchers, clock: Clock) -> None:
        self._api_keys = api_keys
        self._verifier = verifier
        self._watchers = watchers
        self._clock = clock

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateApiKeyResponse:
        created = await self._api_keys.create(_new_api_key(request), request_id=request.request_id)
        return pb.CreateApiKeyResponse(
            api_key=self._render(created.api_key),
            secret=created.secret,
            replayed=created.replayed,
            revision=created.revision,
        )

    async def GetApiKey(self, request: pb.GetApiKeyRequest, context: grpc.aio.ServicerContext) -> pb.GetApiKeyResponse:
        api_key = await self._api_keys.get(request.organization_id, request.api_key_id)
        return pb.GetApiKeyResponse(api_key=self._render(api_key))

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListApiKeysResponse:
        fingerprint = f"api_keys {request.organization_id} {request.project_id} {request.user_id}"
        api_keys, more = await self._api_keys.page(
            request.organization_id,
            project_id=request.project_id,
            user_id=request.user_id,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(api_keys[-1].api_key_id, fingerprint=fingerprint) if more else ""
        return pb.ListApiKeysResponse(api_keys=[self._render(api_key) for api_key in api_keys], next_page_token=token)

    async def DisableApiKey(
        self, request: pb.DisableApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.DisableApiKeyResponse:
        api_key, revision = await self._change(request, ChangeKind.DISABLED)
        return pb.DisableApiKeyResponse(api_key=api_key, revision=revision)

    async def EnableApiKey(
        self, request: pb.EnableApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.EnableApiKeyResponse:
        api_key, revision = await self._change(request, ChangeKind.ENABLED)
        return pb.EnableApiKeyResponse(api_key=api_key, revision=revision)

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.RevokeApiKeyResponse:
        api_key, revision = await self._change(request, ChangeKind.REVOKED)
        return pb.RevokeApiKeyResponse(api_key=api_key, revision=revision)

    async def VerifyApiKey(
        self, request: pb.VerifyApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.VerifyApiKeyResponse:
        asked = (request.key, request.required_scopes, request.model, request.min_revision)
        known = self._verifier.verify_from_memory(*asked)
        verdict, entry, revision = known if known is not None else await self._verifier.verify(*asked)
        if entry is None:
            return pb.VerifyApiKeyResponse(code=CODES[verdict], revision=revision) if revision else _MALFORMED
        if verdict is Verdict.VALID:
            # The answer is kept serialized and sent as it is; only the pipeline ever sees it.
            return cast("pb.VerifyApiKeyResponse", entry.answer)
        return pb.VerifyApiKeyResponse(code=CODES[verdict], api_key_id=entry.subjects[0], revision=revision)

    async def WatchApiKeys(
        self, request: pb.WatchApiKeysRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchApiKeysResponse]:
        async for news in self._watchers.watch(request.after_revision):
            yield render_news(news)

    async def _change(
        self, request: pb.DisableApiKeyRequest | pb.EnableApiKeyRequest | pb.RevokeApiKeyRequest, kind: ChangeKind
    ) -> tuple[pb.ApiKey, int]:
        api_key, revision = await self._api_keys.change(request.organization_id, request.api_key_id, kind)
        return self._render(api_key), revision

    def _render(self, api_key: ApiKey) -> pb.ApiKey:
        return render_api_key(api_key, api_key.state_at(self._clock.now()))


def _new_api_key(request: pb.CreateApiKeyRequest) -> NewApiKey:
    violations: list[FieldViolation] = []
    has_end = request.HasField("expire_time")
    expire_time = parse_time("expire_time", request.expire_time, violations) if has_end else None
    if violations:
        raise InvalidArgument(violations)
    return NewApiKey(
        organization_id=request.organization_id.lower(),
        project_id=request.project_id.lower() or None,
        user_id=request.user_id.lower(),
        name=request.name,
        environment=_ENVIRONMENTS[request.environment],
        scopes=tuple(sorted(request.scopes)),
        allowed_models=tuple(sorted(request.allowed_models)),
        metadata=dict(request.metadata),
        external_id=request.external_id,
        expire_time=expire_time,
    )
