"""Keys, verdicts and changes as messages."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from libs.common.pages import PAGE_BYTES_MAX
from libs.common.status import status_of_item
from libs.common.timestamps import render_optional_time, render_time
from services.identity.api_key.domain import ApiKey, Environment, KeyRecord, State, Verdict
from services.identity.api_key.watch.watch import News
from services.identity.errors import BatchAnswerTooLarge
from services.identity.revisions import Change, ChangeKind, SubjectType
from tollhouse.identity.v1 import api_key_pb2 as pb

ENVIRONMENTS: Final = {Environment.LIVE: pb.API_KEY_ENVIRONMENT_LIVE, Environment.TEST: pb.API_KEY_ENVIRONMENT_TEST}
CODES: Final = {
    Verdict.VALID: pb.VERIFY_API_KEY_CODE_VALID,
    Verdict.NOT_FOUND: pb.VERIFY_API_KEY_CODE_NOT_FOUND,
    Verdict.REVOKED: pb.VERIFY_API_KEY_CODE_REVOKED,
    Verdict.DISABLED: pb.VERIFY_API_KEY_CODE_DISABLED,
    Verdict.EXPIRED: pb.VERIFY_API_KEY_CODE_EXPIRED,
    Verdict.OWNER_INACTIVE: pb.VERIFY_API_KEY_CODE_OWNER_INACTIVE,
    Verdict.ADDRESS_NOT_ALLOWED: pb.VERIFY_API_KEY_CODE_ADDRESS_NOT_ALLOWED,
    Verdict.INSUFFICIENT_SCOPE: pb.VERIFY_API_KEY_CODE_INSUFFICIENT_SCOPE,
    Verdict.MODEL_NOT_ALLOWED: pb.VERIFY_API_KEY_CODE_MODEL_NOT_ALLOWED,
}
_STATES: Final = {
    State.ACTIVE: pb.API_KEY_STATE_ACTIVE,
    State.DISABLED: pb.API_KEY_STATE_DISABLED,
    State.REVOKED: pb.API_KEY_STATE_REVOKED,
    State.EXPIRED: pb.API_KEY_STATE_EXPIRED,
}
_KINDS: Final = {
    ChangeKind.CREATED: pb.API_KEY_CHANGE_KIND_CREATED,
    ChangeKind.DISABLED: pb.API_KEY_CHANGE_KIND_DISABLED,
    ChangeKind.ENABLED: pb.API_KEY_CHANGE_KIND_ENABLED,
    ChangeKind.REVOKED: pb.API_KEY_CHANGE_KIND_REVOKED,
    ChangeKind.OWNER_DEACTIVATED: pb.API_KEY_CHANGE_KIND_OWNER_DEACTIVATED,
    ChangeKind.OWNER_REACTIVATED: pb.API_KEY_CHANGE_KIND_OWNER_REACTIVATED,
    ChangeKind.MEMBER_REMOVED: pb.API_KEY_CHANGE_KIND_MEMBER_REMOVED,
    ChangeKind.UPDATED: pb.API_KEY_CHANGE_KIND_UPDATED,
    ChangeKind.ROTATED: pb.API_KEY_CHANGE_KIND_ROTATED,
    ChangeKind.ROLE_CHANGED: pb.API_KEY_CHANGE_KIND_ROLE_CHANGED,
    ChangeKind.OWNER_DELETED: pb.API_KEY_CHANGE_KIND_OWNER_DELETED,
    ChangeKind.PROJECT_DELETED: pb.API_KEY_CHANGE_KIND_PROJECT_DELETED,
    ChangeKind.ORGANIZATION_DELETED: pb.API_KEY_CHANGE_KIND_ORGANIZATION_DELETED,
    ChangeKind.IMPORTED: pb.API_KEY_CHANGE_KIND_IMPORTED,
    ChangeKind.OTHER: pb.API_KEY_CHANGE_KIND_UNSPECIFIED,
}

DOMAIN: Final = "identity.tollhouse"
_STALE: Final = pb.VerifyApiKeyResponse(stale=True).SerializeToString()


def render_api_key(api_key: ApiKey, state: State) -> pb.ApiKey:
    rendered = pb.ApiKey(
        api_key_id=api_key.api_key_id,
        organization_id=api_key.organization_id,
        project_id=api_key.project_id or "",
        name=api_key.name,
        environment=ENVIRONMENTS[api_key.environment],
        secret_prefix=api_key.secret_prefix,
        secret_suffix=api_key.secret_suffix,
        scopes=api_key.scopes,
        allowed_models=api_key.allowed_models,
        metadata=dict(api_key.metadata),
        external_id=api_key.external_id,
        state=_STATES[state],
        expire_time=render_optional_time(api_key.expire_time),
        disable_time=render_optional_time(api_key.disable_time),
        revoke_time=render_optional_time(api_key.revoke_time),
        last_used_time=render_optional_time(api_key.last_used_time),
        create_time=render_time(api_key.create_time),
        update_time=render_time(api_key.update_time),
        allowed_addresses=api_key.allowed_addresses,
        rotated_from_api_key_id=api_key.rotated_from_api_key_id or "",
        rotated_to_api_key_id=api_key.rotated_to_api_key_id or "",
        etag=api_key.etag,
        imported_prefix=api_key.imported_prefix or "",
        subscription_id=api_key.subscription_id or "",
        all_organizations=api_key.all_organizations,
        gateway_organization_id=api_key.gateway_organization_id or "",
    )
    if api_key.user_id is not None:
        rendered.user_id = api_key.user_id
    if api_key.service_account_id is not None:
        rendered.service_account_id = api_key.service_account_id
    return rendered


def render_valid(record: KeyRecord, revision: int) -> bytes:
    """Serialize the answer about a valid key, once for many calls. A message would take ten times the memory."""
    answer = pb.VerifyApiKeyResponse(
        code=pb.VERIFY_API_KEY_CODE_VALID,
        principal=_principal(record),
        metadata=dict(record.metadata),
        external_id=record.external_id,
        environment=ENVIRONMENTS[record.environment],
        api_key_id=record.api_key_id,
        revision=revision,
        expire_time=render_optional_time(record.expire_time),
        allowed_models=record.allowed_models,
        allowed_addresses=record.allowed_addresses,
    )
    return answer.SerializeToString()


def mark_stale(answer: bytes) -> bytes:
    """Return a serialized answer with `stale` set: the fields of a message may come in any order."""
    return answer + _STALE


def render_outcomes(outcomes: Sequence[pb.VerifyApiKeyResponse | bytes | Exception]) -> pb.BatchVerifyApiKeysResponse:
    """Render what became of each item of a batch; an answer may be serialized already."""
    answers = {
        place: one if isinstance(one, bytes) else one.SerializeToString()
        for place, one in enumerate(outcomes)
        if not isinstance(one, Exception)
    }
    too_large = largest_beyond({place: len(answer) for place, answer in answers.items()}, PAGE_BYTES_MAX)
    response = pb.BatchVerifyApiKeysResponse()
    for place, one in enumerate(outcomes):
        rendered = response.outcomes.add()
        if isinstance(one, Exception):
            rendered.refused.CopyFrom(status_of_item(one, DOMAIN))
        elif place in too_large:
            refusal = BatchAnswerTooLarge(bytes=len(answers[place]), max_bytes=PAGE_BYTES_MAX)
            rendered.refused.CopyFrom(status_of_item(refusal, DOMAIN))
        else:
            rendered.decided.MergeFromString(answers[place])
    return response


def largest_beyond(sizes: Mapping[int, int], total_max: int) -> frozenset[int]:
    """Return the places of the largest answers that must go so that the others have `total_max` bytes at most.

    So somebody's large answers never displace the small ones of others.
    """
    total = sum(sizes.values())
    gone: set[int] = set()
    for place in sorted(sizes, key=lambda place: sizes[place], reverse=True):
        if total <= total_max:
            break
        gone.add(place)
        total -= sizes[place]
    return frozenset(gone)


def _principal(record: KeyRecord) -> pb.Principal:
    principal = pb.Principal(
        organization_id=record.organization_id,
        project_id=record.project_id or "",
        api_key_id=record.api_key_id,
        scopes=record.scopes,
        subscription_id=record.subscription_id or "",
    )
    if record.user_id is not None:
        principal.user_id = record.user_id
    if record.service_account_id is not None:
        principal.service_account_id = record.service_account_id
    return principal


def render_news(news: News, now: datetime) -> pb.WatchApiKeysResponse:
    return pb.WatchApiKeysResponse(
        revision=news.revision,
        changes=[_change(change) for change in news.changes],
        resync=news.resync,
        send_time=render_time(now),
    )


def _change(change: Change) -> pb.ApiKeyChange:
    rendered = pb.ApiKeyChange(
        revision=change.revision,
        kind=_KINDS[change.kind],
        organization_id=change.organization_id or "",
        change_time=render_time(change.change_time),
    )
    match change.subject_type:
        case SubjectType.API_KEY:
            rendered.api_key_id = change.subject_id
        case SubjectType.USER:
            rendered.user_id = change.subject_id
        case SubjectType.SERVICE_ACCOUNT:
            rendered.service_account_id = change.subject_id
        case SubjectType.PROJECT:
            rendered.project_id = change.subject_id
        case SubjectType.ORGANIZATION:
            rendered.changed_organization_id = change.subject_id
        case SubjectType.OTHER:
            pass  # The kind stays unspecified too: the subscriber cannot know what changed.
    return rendered
