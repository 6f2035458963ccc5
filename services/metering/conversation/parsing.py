"""Requests about conversations, read into what the use cases take."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from libs.common.access import Scope
from libs.common.call import current_rights, is_limited, may
from libs.common.errors import FieldViolation, InvalidArgument, PermissionDenied
from libs.common.pages import decode_page_token, foreign_token, number_in_key, time_in_key
from libs.common.timestamps import moment_of, parse_range
from libs.common.update_mask import mask_violations
from services.metering.conversation.domain import (
    POLICY_UPDATABLE,
    UPDATABLE,
    Beginning,
    Conversation,
    Policy,
    Role,
    chosen_id,
    folded,
)
from services.metering.conversation.store import Listed, Place
from services.metering.usage.domain import Work
from services.metering.usage.servicer import read_usage
from services.metering.usage.usages import Usages
from tollhouse.metering.v1 import admission_pb2
from tollhouse.metering.v1 import conversation_pb2 as pb

_AHEAD: Final = timedelta(days=1)
"""Clocks of several processes differ by less."""
_BEFORE_ALL: Final = 0
_AFTER_ALL: Final = 2**63 - 1


def read_beginning(request: pb.CreateConversationRequest) -> Beginning:
    """Read what a conversation begins with.

    Raises:
        InvalidArgument: no id is given, or one that the caller may not choose.
        PermissionDenied: the caller does not work in the project.
    """
    if request.conversation_id and is_limited():
        raise InvalidArgument([FieldViolation("conversation_id", "can be chosen by operators and services alone")])
    if not request.conversation_id and not request.request_id:
        raise InvalidArgument([FieldViolation("request_id", "is needed where no conversation_id is given")])
    organization_id, user_id = request.organization_id.lower(), request.user_id.lower()
    project_id = request.project_id.lower()
    if project_id and not _works_in(project_id):
        raise PermissionDenied
    conversation_id = request.conversation_id or chosen_id(organization_id, user_id, request.request_id)
    return Beginning(
        organization_id, conversation_id, project_id or None, user_id or None, request.title, request.model
    )


def _works_in(project_id: str) -> bool:
    rights = current_rights()
    if rights is None or project_id in rights.project_roles:
        return True
    return may(Scope.SCOPE_CONVERSATIONS_WRITE, project_id=project_id)


def read_start(request: pb.AppendMessageRequest) -> Beginning | None:
    """Read the conversation that a message begins; None where it begins none."""
    if not request.HasField("begin"):
        return None
    begin = request.begin
    return Beginning(
        request.organization_id.lower(),
        request.conversation_id,
        begin.project_id.lower() or None,
        begin.user_id.lower() or None,
        begin.title,
        begin.model,
    )


def read_role(role: pb.MessageRole.ValueType) -> Role:
    return Role(pb.MessageRole.Name(role).removeprefix("MESSAGE_ROLE_"))


def read_work(request: pb.AppendMessageRequest, conversation: Conversation, usages: Usages) -> Work:
    """Read the usage of a message of a conversation.

    Raises:
        InvalidArgument: there is no model, the time is no moment, or the quantities are wrong.
    """
    model = request.model or conversation.model
    if not model:
        raise InvalidArgument([FieldViolation("model", "is needed with usage, where the conversation has none")])
    settle = admission_pb2.SettleRequest.FromString(request.usage.SerializeToString())
    settle.organization_id = conversation.organization_id
    settle.operation_id = request.operation_id
    settle.project_id = conversation.project_id or ""
    settle.user_id = conversation.user_id or ""
    settle.model = model
    settle.conversation_id = conversation.conversation_id
    return read_usage(settle, usages)


def within_usage(refusal: InvalidArgument) -> InvalidArgument:
    """Return a refusal of usage as one of the message that has it."""
    return InvalidArgument(
        [
            one if one.field == "model" else FieldViolation(f"usage.{one.field}", one.description)
            for one in refusal.violations
        ]
    )


def read_listed(request: pb.ListConversationsRequest, now: datetime, token: Sequence[str] | None) -> Listed:
    """Read which conversations are listed, from where a page begins.

    Raises:
        InvalidArgument: a time is no moment, or the token is not of this list.
    """
    start_time, end_time = parse_range(request)
    before = Place(end_time or now + _AHEAD, "")
    if token is not None:
        if len(token) != 2:
            raise foreign_token()
        before = Place(time_in_key(token[0]), token[1])
    return Listed(
        start_time or moment_of(0),
        before,
        request.user_id.lower() or None,
        request.project_id.lower() or None,
        folded(request.title),
        request.show_archived,
        request.show_deleted,
    )


def read_position(request: pb.ListMessagesRequest, fingerprint: str) -> int:
    """Read the position after which a page of messages begins."""
    if not request.page_token:
        return _AFTER_ALL if request.newest_first else _BEFORE_ALL
    parts = decode_page_token(request.page_token, fingerprint)
    if len(parts) != 1:
        raise foreign_token()
    return number_in_key(parts[0], _AFTER_ALL)


def read_update(request: pb.UpdateConversationRequest) -> dict[str, object]:
    """Read the fields to change with their new values."""
    fields = _read_mask(request.update_mask.paths, UPDATABLE)
    return {name: getattr(request, name) for name in fields}


def read_policy(request: pb.UpdateConversationPolicyRequest) -> tuple[Policy, Collection[str]]:
    """Read a policy with the new values, and the names of the fields to change; the others are not looked at."""
    fields = _read_mask(request.update_mask.paths, POLICY_UPDATABLE)
    return Policy(request.keep_content, request.retention_days), fields


def _read_mask(paths: Collection[str], updatable: Collection[str]) -> Collection[str]:
    violations = mask_violations(paths, updatable)
    if violations:
        raise InvalidArgument(violations)
    return set(paths)
