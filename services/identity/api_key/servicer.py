"""ApiKeyService over gRPC."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast

import grpc

from libs.common import pages, validation
from libs.common.call import current_call, current_rights, reaches
from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument, Refusal
from libs.common.pages import id_in_token
from libs.common.status import status_of
from libs.common.validation import Reader
from services.identity.api_key.domain import ApiKey, Verdict
from services.identity.api_key.importing.imports import Imports, Outcome
from services.identity.api_key.manage.api_keys import ApiKeys
from services.identity.api_key.manage.leaks import Leaks
from services.identity.api_key.manage.rotation import Rotation
from services.identity.api_key.parsing import (
    read_expire_time,
    read_filter,
    read_imports,
    read_leak,
    read_new_api_key,
    read_update,
    require_each_digest_once,
)
from services.identity.api_key.rendering import CODES, DOMAIN, render_api_key, render_news, render_outcomes
from services.identity.api_key.verify.batches import Asked, Batches
from services.identity.api_key.verify.questions import Questions, question_of
from services.identity.api_key.verify.verification import Answer, Verifier
from services.identity.api_key.watch.watch import Watchers
from services.identity.revisions import ChangeKind
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import api_key_pb2_grpc as rpc

_MALFORMED: Final = pb.VerifyApiKeyResponse(code=pb.VERIFY_API_KEY_CODE_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Management:
    """The use cases that manage keys."""

    api_keys: ApiKeys
    rotation: Rotation
    imports: Imports
    leaks: Leaks


class ApiKeyServicer(rpc.ApiKeyServiceServicer):
    """Reads requests into commands of management, verifier and watchers, and renders their results."""

    def __init__(self, management: Management, verifier: Verifier[bytes], watchers: Watchers, clock: Clock) -> None:
        self._api_keys = management.api_keys
        self._rotation = management.rotation
        self._imports = management.imports
        self._leaks = management.leaks
        self._verifier = verifier
        self._batches = Batches(verifier)
        self._watchers = watchers
        self._clock = clock
        self._questions = Questions()

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "CreateApiKey": read_new_api_key,
            "UpdateApiKey": read_update,
            "ImportApiKeys": require_each_digest_once,
        }

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateApiKeyResponse:
        created = await self._api_keys.create(read_new_api_key(request), request_id=request.request_id)
        return pb.CreateApiKeyResponse(
            api_key=self._render(created.api_key),
            secret=created.secret,
            replayed=created.replayed,
            revision=created.revision,
        )

    async def GetApiKey(self, request: pb.GetApiKeyRequest, context: grpc.aio.ServicerContext) -> pb.GetApiKeyResponse:
        api_key = await self._api_keys.get(request.organization_id.lower(), request.api_key_id.lower())
        return pb.GetApiKeyResponse(api_key=self._render(api_key))

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListApiKeysResponse:
        chosen = read_filter(request)
        fingerprint = f"api_keys {request.organization_id} {chosen}"
        api_keys, following = await self._api_keys.page(
            request.organization_id.lower(),
            chosen,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(following, fingerprint=fingerprint) if following else ""
        return pb.ListApiKeysResponse(api_keys=[self._render(api_key) for api_key in api_keys], next_page_token=token)

    async def UpdateApiKey(
        self, request: pb.UpdateApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateApiKeyResponse:
        api_key, revision = await self._api_keys.update(
            request.organization_id.lower(), request.api_key_id.lower(), read_update(request), etag=request.etag
        )
        return pb.UpdateApiKeyResponse(api_key=self._render(api_key), revision=revision)

    async def RotateApiKey(
        self, request: pb.RotateApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.RotateApiKeyResponse:
        violations: list[FieldViolation] = []
        expire_time = read_expire_time(request, "", violations)
        if violations:
            raise InvalidArgument(violations)
        rotated = await self._rotation.rotate(
            request.organization_id.lower(),
            request.api_key_id.lower(),
            overlap=timedelta(seconds=request.overlap.seconds, microseconds=request.overlap.nanos // 1000),
            expire_time=expire_time,
            request_id=request.request_id,
        )
        return pb.RotateApiKeyResponse(
            api_key=self._render(rotated.api_key),
            secret=rotated.secret,
            rotated_api_key=self._render(rotated.rotated),
            replayed=rotated.replayed,
            revision=rotated.revision,
        )

    async def ImportApiKeys(
        self, request: pb.ImportApiKeysRequest, context: grpc.aio.ServicerContext
    ) -> pb.ImportApiKeysResponse:
        outcomes, revision = await self._imports.run(
            request.organization_id.lower(), request.secret_prefix, read_imports(request)
        )
        refused = sum(isinstance(outcome.result, Refusal) for outcome in outcomes)
        replayed = sum(outcome.replayed for outcome in outcomes)
        return pb.ImportApiKeysResponse(
            outcomes=map(self._render_outcome, outcomes),
            imported_count=len(outcomes) - refused - replayed,
            replayed_count=replayed,
            refused_count=refused,
            revision=revision,
        )

    async def ReportLeakedApiKey(
        self, request: pb.ReportLeakedApiKeyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReportLeakedApiKeyResponse:
        revision = await self._leaks.report(read_leak(request))
        return pb.ReportLeakedApiKeyResponse(found=revision is not None, revision=revision or 0)

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
        call, asked = current_call(), _read_asked(request)
        answer = self._answer(await self._verifier.verify(*asked), asked, None if call is None else call.data)
        # A cached answer is bytes already; the pipeline sends them as they are.
        return cast("pb.VerifyApiKeyResponse", answer)

    async def BatchVerifyApiKeys(
        self, request: pb.BatchVerifyApiKeysRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchVerifyApiKeysResponse:
        outcomes: dict[int, pb.VerifyApiKeyResponse | bytes | Exception] = {}
        asked: dict[int, Asked] = {}
        sent = [one.SerializeToString() for one in request.requests]
        for place, one in enumerate(request.requests):
            # A caller with a key of its own may not be told about keys of every organization.
            known = self.recall_verification(sent[place]) if current_rights() is None else None
            if known is not None:
                outcomes[place] = known
                continue
            try:
                validation.check(one)
                asked[place] = _read_asked(one)
            except InvalidArgument as refusal:
                outcomes[place] = refusal
        answers = await self._batches.verify(list(asked.values())) if asked else []
        for (place, one_asked), answer in zip(asked.items(), answers, strict=True):
            if isinstance(answer, Exception):
                outcomes[place] = answer
            else:
                outcomes[place] = self._answer(answer, one_asked, sent[place])
        return render_outcomes([outcomes[place] for place in range(len(sent))])

    def _answer(self, answer: Answer[bytes], asked: Asked, data: bytes | None) -> pb.VerifyApiKeyResponse | bytes:
        """Render an answer; remember what was asked by the bytes in which it came, if the key is valid."""
        verdict, entry, revision = answer
        if entry is not None and not reaches(entry.organization_id):
            verdict, entry = Verdict.NOT_FOUND, None
        if entry is None:
            return pb.VerifyApiKeyResponse(code=CODES[verdict], revision=revision) if revision else _MALFORMED
        if verdict is Verdict.VALID:
            if data is not None and not entry.stale:
                self._questions.remember(data, question_of(entry.digest, *asked[1:]))
            return entry.answer
        return pb.VerifyApiKeyResponse(
            code=CODES[verdict],
            api_key_id=entry.subjects[0],
            revision=revision,
            stale=entry.stale,
            refused_organization_id=entry.organization_id,
        )

    def recall_verification(self, data: bytes) -> bytes | None:
        """Answer VerifyApiKey for a request seen before in the same bytes, if the cache says that its key is valid."""
        question = self._questions.find(data)
        if question is None:
            return None
        entry = self._verifier.recall(question)
        return None if entry is None else entry.answer

    async def WatchApiKeys(
        self, request: pb.WatchApiKeysRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchApiKeysResponse]:
        rights = current_rights()
        reached = rights.gateway_organization_id if rights is not None else ""
        async for news in self._watchers.watch(request.after_revision, reached):
            yield render_news(news, self._clock.now())

    async def _change(
        self, request: pb.DisableApiKeyRequest | pb.EnableApiKeyRequest | pb.RevokeApiKeyRequest, kind: ChangeKind
    ) -> tuple[pb.ApiKey, int]:
        api_key, revision = await self._api_keys.change(
            request.organization_id.lower(), request.api_key_id.lower(), kind
        )
        return self._render(api_key), revision

    def _render(self, api_key: ApiKey) -> pb.ApiKey:
        return render_api_key(api_key, api_key.state_at(self._clock.now()))

    def _render_outcome(self, outcome: Outcome) -> pb.ImportApiKeyOutcome:
        if isinstance(outcome.result, Refusal):
            return pb.ImportApiKeyOutcome(error=status_of(outcome.result, DOMAIN))
        return pb.ImportApiKeyOutcome(api_key=self._render(outcome.result), replayed=outcome.replayed)


def _read_asked(request: pb.VerifyApiKeyRequest) -> Asked:
    return Asked(request.key, request.required_scopes, request.model, request.min_revision, request.client_address)
