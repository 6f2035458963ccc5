"""Projects and their members, and the rule about project roles."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.access import Rights, Scope
from services.identity.attributes import Attributes


class ProjectRole(StrEnum):
    """The role of a member in a project."""

    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Project:
    """A part of an organization."""

    project_id: str
    organization_id: str
    name: str
    description: str
    create_time: datetime
    update_time: datetime
    version: int
    attributes: Attributes

    @property
    def etag(self) -> str:
        return str(self.version)


@dataclass(frozen=True, slots=True)
class ProjectMember:
    """The membership of a user in a project."""

    organization_id: str
    project_id: str
    user_id: str
    role: ProjectRole
    create_time: datetime
    update_time: datetime
    version: int
    email: str
    full_name: str

    @property
    def etag(self) -> str:
        return str(self.version)


def holds_project_role(rights: Rights, project_id: str, role: ProjectRole) -> bool:
    """Return whether somebody with these rights may do in the project everything that the role allows."""
    of_role = Rights(project_roles={project_id: role.value})
    return all(
        rights.grant(scope).covers(project_id=project_id, is_own=False)
        for scope in Scope.values()
        if scope and of_role.grant(scope).covers(project_id=project_id, is_own=False)
    )
