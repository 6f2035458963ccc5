"""Computes the expected access decision from the options of the protos alone, without any code of the services."""

from enum import Enum
from typing import Final

from tests.system.authorization.callers import EVERYWHERE, Caller, Kind
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.targets import Target
from tollhouse.common.v1 import access_pb2

# RPCs open to all users, whose use case requires a session rather than a key, and the caller's own id in this field.
# The request names no organization, so the access option cannot express this.
IN_PERSON: Final = {"identity.v1.OrganizationService.AcceptInvitation": "user_id"}

# RPCs whose resource tells its owner alone: subscriptions belong to no project.
OF_NO_PROJECT: Final = frozenset(
    f"billing.v1.SubscriptionService.{verb}" for verb in ("GetSubscription", "ListSubscriptionEvents")
)

# RPCs whose answer about a resource that the caller may not see is that about a missing one.
_HIDDEN_VERBS: Final = ("GetConversation", "UpdateConversation", "DeleteConversation", "ListMessages")
HIDDEN: Final = frozenset(f"metering.v1.ConversationService.{verb}" for verb in _HIDDEN_VERBS)


class Verdict(Enum):
    """The access decision on a call."""

    ADMITTED = "admitted"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NO_ORGANIZATION = "NOT_FOUND organization"
    NO_USER = "NOT_FOUND user"
    NO_CONVERSATION = "NOT_FOUND conversation"


def expected(rpc: Rpc, caller: Caller, target: Target) -> Verdict:
    """Return the verdict on a caller with a valid credential."""
    access = rpc.access
    if access.public:
        return Verdict.ADMITTED
    if caller.kind is Kind.OPERATOR:
        return _admitted(access.operators)
    if caller.kind is Kind.SERVICE:
        return _admitted(caller.name.removeprefix("service ") in access.services or "*" in access.services)
    if access.operators and _acts_as_operator(rpc, caller):
        return Verdict.ADMITTED
    return _of_user(rpc, caller, target)


def _admitted(admitted: bool) -> Verdict:
    return Verdict.ADMITTED if admitted else Verdict.PERMISSION_DENIED


def _acts_as_operator(rpc: Rpc, caller: Caller) -> bool:
    role = caller.platform_role
    return caller.kind is Kind.SESSION and (role == "admin" or (role == "admin_readonly" and rpc.only_reads))


def _of_user(rpc: Rpc, caller: Caller, target: Target) -> Verdict:
    access = rpc.access
    belongs = bool(caller.roles.get(target.organization_id))
    if access.gateway_scope:
        return _of_gateway(rpc, caller, target)
    if access.users:
        if rpc.name in IN_PERSON and caller.kind is not Kind.SESSION:
            return Verdict.PERMISSION_DENIED
        if rpc.name in IN_PERSON and target.value(IN_PERSON[rpc.name]) not in ("", caller.user_id):
            return Verdict.NO_USER
        names_organization = "organization_id" in rpc.fields and target.organization_id
        return Verdict.NO_ORGANIZATION if names_organization and not belongs else Verdict.ADMITTED
    in_person = bool(access.self_field) and caller.kind is Kind.SESSION
    named = target.value(access.self_field) if access.self_field else ""
    if in_person and named == caller.user_id:
        return Verdict.ADMITTED
    if access.scope:
        if belongs and rpc.name in HIDDEN and not _reaches(rpc, caller, target) and _reaches_any(rpc, caller, target):
            return Verdict.NO_CONVERSATION
        return _admitted(_reaches(rpc, caller, target)) if belongs else Verdict.NO_ORGANIZATION
    return Verdict.NO_USER if in_person and named else Verdict.PERMISSION_DENIED


def _of_gateway(rpc: Rpc, caller: Caller, target: Target) -> Verdict:
    """The verdict on a key at an RPC for gateways. Each item of a batch or a stream has an outcome of its own."""
    scope = access_pb2.Scope.DESCRIPTOR.values_by_number[rpc.access.gateway_scope]
    holds = scope.GetOptions().Extensions[access_pb2.holders].name in (caller.scopes or ())
    if not holds or not caller.reaches or (rpc.access.all_organizations and caller.reaches != EVERYWHERE):
        return Verdict.PERMISSION_DENIED
    named = target.organization_id if "organization_id" in rpc.fields else ""
    return Verdict.NO_ORGANIZATION if named and caller.reaches not in (EVERYWHERE, named) else Verdict.ADMITTED


def _reaches(rpc: Rpc, caller: Caller, target: Target) -> bool:
    """Whether a caller of the organization holds the scope for the resource that the request names."""
    scope = access_pb2.Scope.DESCRIPTOR.values_by_number[rpc.access.scope]
    holders = scope.GetOptions().Extensions[access_pb2.holders]
    if caller.scopes is not None and holders.name not in caller.scopes:
        return False
    # Where the request does not name the project, it is known only after the service has read the resource.
    told = {name for name in ("project_id", "user_id") if rpc.access.by_resource or name in rpc.fields}
    project_id = target.project_id if "project_id" in told and rpc.name not in OF_NO_PROJECT else ""
    role = caller.roles[target.organization_id]
    everywhere = role in holders.organization_roles
    in_project = bool(project_id) and caller.project_roles.get(project_id) in holders.project_roles
    if caller.key_project_id:
        return project_id == caller.key_project_id and (everywhere or in_project)
    is_own = "user_id" in told and bool(target.user_id) and target.user_id == caller.user_id
    return everywhere or in_project or (is_own and role in holders.own_roles)


def _reaches_any(rpc: Rpc, caller: Caller, target: Target) -> bool:
    """Whether a caller of the organization holds the scope for some project, or for what is their own."""
    projects = (caller.key_project_id,) if caller.key_project_id else tuple(caller.project_roles)
    theirs = [target.with_ids(project_id=project_id, user_id="") for project_id in projects]
    own = [] if caller.key_project_id else [target.with_ids(project_id="", user_id=caller.user_id)]
    return any(_reaches(rpc, caller, one) for one in (*theirs, *own))
