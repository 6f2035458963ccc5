"""Callers: their credentials, and the facts on which the access decision depends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

EVERYWHERE: Final = "*"


class Kind(Enum):
    """The kind of credential with which a caller calls."""

    OPERATOR = "operator"
    SERVICE = "service"
    SESSION = "session"
    KEY = "key"


@dataclass(frozen=True)
class Caller:
    """One caller with a valid credential."""

    name: str
    kind: Kind
    token: str = field(repr=False)
    user_id: str = ""
    """The user of a session, and the user whose key it is; empty for the key of a service account."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """The caller's role by the id of the organization; a key has one in its own organization alone."""
    project_roles: Mapping[str, str] = field(default_factory=dict)
    """The caller's role by the id of the project."""
    platform_role: str = "user"
    scopes: frozenset[str] | None = None
    """What a key carries; None for everybody else."""
    key_project_id: str = ""
    reaches: str = ""
    """The organization in which a gateway's key acts, `EVERYWHERE` for all; empty for other callers."""

    def __str__(self) -> str:
        return self.name

    @property
    def is_limited(self) -> bool:
        """Whether the caller's rights depend on roles and scopes."""
        return self.kind in (Kind.SESSION, Kind.KEY)
