"""Who is calling, and whether an RPC lets them in.

The rules are data: the `access` option each RPC declares in its proto, and the holders each scope declares. Everything
here is a pure decision; `call.py` knows whose call is being handled.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from libs.common.errors import NotFound, PermissionDenied
from tollhouse.common.v1 import access_pb2
from tollhouse.common.v1.access_pb2 import Scope as Scope  # What use cases ask for, by the name the protos give it.

ANY_SERVICE: Final = "*"
OWN_SCOPES_PREFIX: Final = "tollhouse:"
"""The prefix of Tollhouse's own scopes; no other scope may have it."""
_WORKING_ROLES: Final = frozenset({"owner", "admin", "member"})
"""The organization roles that hold every scope the platform defines for itself."""


class CallerKind(Enum):
    """The kind of caller that a token's subject, or a key's owner, is."""

    ANONYMOUS = "anonymous"
    OPERATOR = "operator"
    SERVICE = "service"
    USER = "user"
    SERVICE_ACCOUNT = "service_account"


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified caller; `name` is the part of the subject after the kind: a name, or the id of a user or account."""

    kind: CallerKind
    name: str
    session_id: str = ""
    """The session a user came with; empty for everybody else."""
    api_key_id: str = ""
    """The key a user or service account came with."""

    @property
    def subject(self) -> str:
        return f"{self.kind.value}:{self.name}"

    def is_user(self, user_id: str) -> bool:
        """Tell whether the caller is this user, by a session or by one of their keys; empty stands for nobody."""
        return bool(user_id) and self.kind is CallerKind.USER and self.name == user_id

    @property
    def has_rights(self) -> bool:
        """Whether roles and scopes decide what the caller may do, rather than its name alone."""
        return self.kind in (CallerKind.USER, CallerKind.SERVICE_ACCOUNT)


ANONYMOUS: Final = Caller(CallerKind.ANONYMOUS, "")


class PlatformRole(StrEnum):
    """What a user may do on the whole platform, in all organizations."""

    USER = "user"
    ADMIN = "admin"
    ADMIN_READONLY = "admin_readonly"


@dataclass(frozen=True, slots=True)
class Grant:
    """How far a scope is held in an organization: for all of it, for some projects, for what is the caller's own."""

    wide: bool = False
    projects: frozenset[str] = frozenset()
    own: bool = False

    def covers(self, *, project_id: str, is_own: bool) -> bool:
        """Tell whether it reaches a resource of this project (empty for none), owned by the caller or not."""
        return self.wide or (bool(project_id) and project_id in self.projects) or (self.own and is_own)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user or a key may do in the organization that was asked about, read at one moment."""

    platform_role: PlatformRole = PlatformRole.USER
    organization_id: str = ""
    organization_role: str = ""
    """Empty where the caller does not belong to the organization, or there is none."""
    project_roles: Mapping[str, str] = field(default_factory=dict)
    """The caller's role in each project of the organization they work in, by the project's id."""
    key_scopes: frozenset[str] | None = None
    """The scopes of the key the caller came with; None for a session."""
    key_project_id: str = ""
    """The only project the key acts in; empty when it is bound to none."""
    all_organizations: bool = False
    """Whether the key's scopes of gateways hold in all organizations."""
    gateway_organization_id: str = ""
    """The only organization in which the key's scopes of gateways hold; empty where they hold in all or in none."""

    def is_gateway(self, scope: Scope.ValueType) -> bool:
        """Tell whether a key lets its holder act as a gateway with this scope, in the organizations it reaches."""
        return self.key_scopes is not None and _HOLDERS[scope].name in self.key_scopes

    def reaches(self, organization_id: str) -> bool:
        """Tell whether the key's scopes of gateways hold in an organization, named in lower case."""
        return self.all_organizations or (bool(organization_id) and organization_id == self.gateway_organization_id)

    def grant(self, scope: Scope.ValueType) -> Grant:
        """Return how far the scope is held."""
        holders = _HOLDERS[scope]
        if self.key_scopes is not None and holders.name not in self.key_scopes:
            return Grant()
        wide = self.organization_role in holders.organization_roles
        projects = frozenset(id_ for id_, role in self.project_roles.items() if role in holders.project_roles)
        if self.key_project_id:
            reached = wide or self.key_project_id in projects
            return Grant(projects=frozenset({self.key_project_id}) if reached else frozenset())
        return Grant(wide, projects, self.organization_role in holders.own_roles)

    def holds(self, scope_name: str) -> bool:
        """Tell whether the scope is held at all. A caller may grant only the scopes it holds."""
        if self.key_scopes is not None and scope_name not in self.key_scopes:
            return False
        return role_holds(scope_name, self.organization_role, self.project_roles.values())


def role_holds(scope_name: str, organization_role: str, project_roles: Collection[str]) -> bool:
    """Tell whether any of the roles holds a scope, for the organization or for any part of it."""
    holders = _HOLDERS_BY_NAME.get(scope_name)
    if holders is not None:
        return (
            organization_role in holders.organization_roles
            or organization_role in holders.own_roles
            or any(role in holders.project_roles for role in project_roles)
        )
    return not scope_name.startswith(OWN_SCOPES_PREFIX) and (organization_role in _WORKING_ROLES or bool(project_roles))


def is_gateway_scope(scope_name: str) -> bool:
    """Tell whether a scope is one that no role holds, but service accounts to whose keys an operator gave it."""
    holders = _HOLDERS_BY_NAME.get(scope_name)
    return holders is not None and holders.gateways


def is_known_scope(scope_name: str) -> bool:
    """Tell whether a key may carry the scope: one of Tollhouse's own, or one the platform defined."""
    return scope_name in _HOLDERS_BY_NAME or not scope_name.startswith(OWN_SCOPES_PREFIX)


class UndeclaredAccess(Exception):
    """An RPC says nothing about who may call it. The service must not start."""


@dataclass(frozen=True, slots=True)
class Target:
    """The ids in a request that access depends on; empty where it names none."""

    organization_id: str = ""
    project_id: str = ""
    user_id: str = ""
    self_id: str = ""
    """The value of the field the rule's `self_field` names."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """The `access` option of one RPC, prepared so that checks are fast."""

    operators: bool
    services: frozenset[str]
    public: bool
    scope: Scope.ValueType = Scope.SCOPE_UNSPECIFIED
    self_field: str = ""
    users: bool = False
    by_resource: bool = False
    only_reads: bool = False
    gateway_scope: Scope.ValueType = Scope.SCOPE_UNSPECIFIED
    all_organizations: bool = False

    @classmethod
    def of(cls, method: MethodDescriptor) -> "AccessRule":
        """Read the rule that a method declares.

        Raises:
            UndeclaredAccess: the method declares none, one that lets nobody in, or one that its request cannot answer.
        """
        options = method.GetOptions()
        access = options.Extensions[access_pb2.access]
        rule = cls(
            operators=access.operators,
            services=frozenset(access.services),
            public=access.public,
            scope=access.scope,
            self_field=access.self_field,
            users=access.users,
            by_resource=access.by_resource,
            only_reads=options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS,
            gateway_scope=access.gateway_scope,
            all_organizations=access.all_organizations,
        )
        if not (rule.operators or rule.services or rule.public or rule.for_users):
            raise UndeclaredAccess(f"{method.full_name} declares no access")
        if rule.gateway_scope and (rule.for_users or not _HOLDERS[rule.gateway_scope].gateways):
            raise UndeclaredAccess(f"{method.full_name} lets gateways in by a scope that is not theirs alone")
        if rule.scope and _HOLDERS[rule.scope].gateways:
            raise UndeclaredAccess(f"{method.full_name} lets users in by a scope that no role holds")
        fields = method.input_type.fields_by_name
        missing = [
            name for name in (rule.self_field, "organization_id" if rule.scope else "") if name not in {"", *fields}
        ]
        if missing:
            raise UndeclaredAccess(f"{method.full_name} lets users in by {missing[0]}, which its request has not")
        return rule

    @property
    def for_users(self) -> bool:
        """Whether users and keys have any way in but the operators' and the gateways'."""
        return bool(self.scope or self.self_field or self.users)

    @property
    def callers(self) -> str:
        """Who is let in, in words, for those who are not."""
        if self.public:
            return "everybody"
        ways = ["operators"] if self.operators else []
        if ANY_SERVICE in self.services:
            ways.append("services")
        elif self.services:
            ways.append(f"the services {', '.join(sorted(self.services))}")
        if self.users:
            ways.append("users and API keys")
        if self.scope:
            ways.append(f"users and API keys that hold {_HOLDERS[self.scope].name} for what the request names")
        if self.gateway_scope:
            reach = "for all organizations" if self.all_organizations else "for what the request names"
            ways.append(f"API keys of gateways that hold {_HOLDERS[self.gateway_scope].name} {reach}")
        if self.self_field:
            ways.append(f"the user whom {self.self_field} names, with a session")
        return ", ".join(ways[:-1]) + " and " * (len(ways) > 1) + ways[-1]

    def admits(self, caller: Caller) -> bool:
        """Tell whether the caller is let in by its name; callers with rights are asked about with `admit_by_rights`."""
        if self.public:
            return True
        if caller.kind is CallerKind.OPERATOR:
            return self.operators
        if caller.kind is CallerKind.SERVICE:
            return caller.name in self.services or ANY_SERVICE in self.services
        return False

    def admits_as_operator(self, caller: Caller, rights: Rights) -> bool:
        """Tell whether a user is let in for what they may do on the whole platform. A key never is."""
        if not self.operators or not caller.session_id:
            return False
        role = rights.platform_role
        return role is PlatformRole.ADMIN or (role is PlatformRole.ADMIN_READONLY and self.only_reads)

    def admits_gateway(self, rights: Rights) -> bool:
        """Tell whether a key lets a gateway in, wherever it reaches."""
        if not self.gateway_scope or not rights.is_gateway(self.gateway_scope):
            return False
        return rights.all_organizations or (bool(rights.gateway_organization_id) and not self.all_organizations)

    def admit_by_rights(self, caller: Caller, rights: Rights, target: Target) -> None:
        """Let a user or key in.

        Raises:
            NotFound: the request names an organization they do not belong to, or somebody else.
            PermissionDenied: they may not make this call.
        """
        if self.public or self.users or self._is_self(caller, target):
            return
        if self.admits_gateway(rights):
            # Where the request names no organization itself, whoever handles it looks at what it names.
            if target.organization_id and not rights.reaches(target.organization_id):
                raise NotFound(resource_type="organization", resource_name=target.organization_id)
            return
        if self.scope and not rights.organization_role:
            raise NotFound(resource_type="organization", resource_name=target.organization_id)
        if not self.scope:
            if self.self_field and caller.session_id and target.self_id:
                raise NotFound(resource_type="user", resource_name=target.self_id)
            raise PermissionDenied
        grant = rights.grant(self.scope)
        if grant.covers(project_id=target.project_id, is_own=caller.is_user(target.user_id)):
            return
        if not (self.by_resource and (grant.projects or grant.own)):
            raise PermissionDenied

    def _is_self(self, caller: Caller, target: Target) -> bool:
        return bool(self.self_field and caller.session_id) and target.self_id == caller.name


def _holders() -> dict[Scope.ValueType, access_pb2.ScopeHolders]:
    return {
        Scope.Value(value.name): value.GetOptions().Extensions[access_pb2.holders]
        for value in access_pb2.Scope.DESCRIPTOR.values
        if value.number
    }


_HOLDERS: Final = _holders()
_HOLDERS_BY_NAME: Final = {holders.name: holders for holders in _HOLDERS.values()}
