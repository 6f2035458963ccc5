"""Who is calling, and whether an RPC lets them in.

The rules are data: the `access` option each RPC declares in its proto. What a caller may see once inside is decided by
the use case, from the tenant of the resource.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Final

from google.protobuf.descriptor import MethodDescriptor

from libs.common.errors import PermissionDenied
from tollhouse.common.v1 import access_pb2

ANY_SERVICE: Final = "*"


class CallerKind(Enum):
    """What sort of caller a token's subject names."""

    ANONYMOUS = "anonymous"
    OPERATOR = "operator"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified caller; `name` is the part of the token's subject after the kind."""

    kind: CallerKind
    name: str

    @property
    def subject(self) -> str:
        return f"{self.kind.value}:{self.name}"


ANONYMOUS: Final = Caller(CallerKind.ANONYMOUS, "")
_caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


class UndeclaredAccess(Exception):
    """An RPC says nothing about who may call it. The service must not start."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """The `access` option of one RPC, in a form that is quick to ask."""

    operators: bool
    services: frozenset[str]
    public: bool

    @classmethod
    def of(cls, method: MethodDescriptor) -> "AccessRule":
        """Read the rule that a method declares.

        Raises:
            UndeclaredAccess: the method declares none, or one that lets nobody in.
        """
        access = method.GetOptions().Extensions[access_pb2.access]
        rule = cls(access.operators, frozenset(access.services), access.public)
        if not (rule.operators or rule.services or rule.public):
            raise UndeclaredAccess(f"{method.full_name} declares no access")
        return rule

    def admits(self, caller: Caller) -> bool:
        if self.public:
            return True
        if caller.kind is CallerKind.OPERATOR:
            return self.operators
        if caller.kind is CallerKind.SERVICE:
            return caller.name in self.services or ANY_SERVICE in self.services
        return False

    def require(self, caller: Caller) -> None:
        """Raise PermissionDenied unless the caller is let in."""
        if not self.admits(caller):
            raise PermissionDenied


def current_caller() -> Caller:
    """Return the verified caller of the RPC being handled."""
    return _caller.get()


def enter_as(caller: Caller) -> None:
    """Make the caller known to everything the current RPC does."""
    _caller.set(caller)


def is_operator() -> bool:
    return _caller.get().kind is CallerKind.OPERATOR
