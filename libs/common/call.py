"""The call being handled: its caller, RPC and address, and what the caller may do.

The pipeline sets it; use cases and the audit trail read it. Work that belongs to no call, such as a background loop, is
the system's own and may do everything.
"""

from collections.abc import Collection
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import unquote

from google.protobuf.message import Message

from libs.common.access import ANONYMOUS, Caller, CallerKind, Rights, Scope
from libs.common.addresses import Address, Network, client_behind
from libs.common.callers import Credential, Resolved
from libs.common.errors import NotFound, PermissionDenied

_FORWARDED_FOR: Final = "x-forwarded-for"
_USER_AGENT: Final = "user-agent"
_USER_AGENT_MAX: Final = 200
_SYSTEM: Final = "system"
_ACTOR_MAX: Final = 255


class Transport(Protocol):
    """The part of gRPC's context that is used here."""

    def peer(self) -> str:
        """Return the address at the other end, such as `ipv4:192.0.2.1:40000`."""

    def invocation_metadata(self) -> Collection[tuple[str, str | bytes]] | None:
        """Return what the caller sent along."""


class Call:
    """One call. Values that few callers need are computed on demand."""

    __slots__ = ("_as_operator", "_proxies", "_transport", "caller", "credential", "data", "request", "rights", "rpc")

    def __init__(self, rpc: str, caller: Caller, transport: Transport, proxies: Collection[Network] = ()) -> None:
        self.rpc = rpc
        """The full name, such as `tollhouse.identity.v1.UserService.CreateUser`."""
        self.caller = caller
        self.credential: Credential | None = None
        """What a user or key came with; None for everybody else."""
        self.rights: Rights | None = None
        """What a user or key may do in the organization the request names; None for everybody else."""
        self.request: Message | None = None
        """The request, once it is known to be valid; streams have none."""
        self.data = b""
        """The request as it came."""
        self._as_operator = False
        self._transport = transport
        self._proxies = proxies

    def know(self, resolved: Resolved, *, as_operator: bool) -> None:
        """Note who a user or key is, what it may do, and whether it may do here what operators do."""
        self.caller, self.rights, self._as_operator = resolved.caller, resolved.rights, as_operator

    def note(self, data: bytes, request: Message) -> None:
        """Record the request."""
        self.data, self.request = data, request

    @property
    def as_operator(self) -> bool:
        """Whether the call is an operator's, or that of a user who may do what operators do."""
        return self._as_operator or self.caller.kind is CallerKind.OPERATOR

    @property
    def known_rights(self) -> Rights:
        """The caller's rights; none where they were not looked up."""
        return self.rights or Rights()

    @property
    def request_id(self) -> str:
        """The request's own `request_id` or `operation_id`; empty where it has none."""
        request = self.request
        return str(getattr(request, "request_id", "") or getattr(request, "operation_id", ""))

    @property
    def peer_address(self) -> str:
        """The caller's IP address: the nearest that is not one of our own proxies. Empty over a local socket."""
        address = _address_in_peer(self._transport.peer())
        if not self._proxies or address is None:
            return str(address or "")
        return str(client_behind(address, self._metadata(_FORWARDED_FOR), self._proxies))

    @property
    def user_agent(self) -> str:
        return self._metadata(_USER_AGENT)[:_USER_AGENT_MAX]

    def _metadata(self, name: str) -> str:
        return ",".join(str(value) for key, value in self._transport.invocation_metadata() or () if key == name)


def _address_in_peer(peer: str) -> Address | None:
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    try:
        return ip_address(rest.rpartition(":")[0].strip("[]").partition("%")[0])
    except ValueError:
        return None


_call: ContextVar[Call | None] = ContextVar("call", default=None)


def enter_call(call: Call) -> None:
    """Make this the current call of the running task."""
    _call.set(call)


def leave_call() -> None:
    """Clear the current call: what follows belongs to none."""
    _call.set(None)


def current_call() -> Call | None:
    """Return the call being handled, or None for work that belongs to no call."""
    return _call.get()


def current_caller() -> Caller:
    """Return the verified caller of the call being handled; anonymous outside of any."""
    call = _call.get()
    return ANONYMOUS if call is None else call.caller


def current_actor() -> str:
    """Return who acts, as records name them: the caller's subject such as `operator:ada`, `anonymous` or `system`.

    `system` stands for work that belongs to no call. Characters that are not printable are left out, so that the text
    can be stored and shown as it is; it has at most 255 characters.
    """
    call = _call.get()
    if call is None:
        return _SYSTEM
    caller = call.caller
    subject = caller.kind.value if caller.kind is CallerKind.ANONYMOUS else caller.subject
    if len(subject) <= _ACTOR_MAX and subject.isprintable():
        return subject
    return "".join(character for character in subject[:_ACTOR_MAX] if character.isprintable())


def is_operator() -> bool:
    """Tell whether the call is an operator's, or a user's who may do what operators do."""
    call = _call.get()
    return call is not None and call.as_operator


def is_limited() -> bool:
    """Tell whether roles and scopes limit the caller: false for operators, services and background work."""
    call = _call.get()
    return call is not None and not call.as_operator and call.caller.has_rights


def current_rights() -> Rights | None:
    """Return the rights of a limited caller, or None where there is no limit."""
    call = _call.get()
    return call.known_rights if call is not None and is_limited() else None


def may(scope: Scope.ValueType, *, project_id: str = "", user_id: str = "") -> bool:
    """Tell whether the caller holds a scope for a resource of this project and owner, in the organization named."""
    rights = current_rights()
    if rights is None:
        return True
    return rights.grant(scope).covers(project_id=project_id, is_own=current_caller().is_user(user_id))


def reaches(organization_id: str) -> bool:
    """Tell whether the caller may act in an organization that a part of the request names, in lower case.

    For RPCs open to gateways: one with a key for a single organization may not act in another, for which the answer is
    to be that of a missing one.
    """
    rights = current_rights()
    return rights is None or rights.reaches(organization_id)


def require_scope(scope: Scope.ValueType, *, project_id: str = "", user_id: str = "") -> None:
    """Raise PermissionDenied unless the caller holds the scope for the resource; for RPCs declared `by_resource`."""
    if not may(scope, project_id=project_id, user_id=user_id):
        raise PermissionDenied


def require_membership(organization_id: str) -> None:
    """Raise NotFound unless the caller belongs to the organization the request names; for RPCs open to all users."""
    rights = current_rights()
    if rights is not None and not rights.organization_role:
        raise NotFound(resource_type="organization", resource_name=organization_id)
