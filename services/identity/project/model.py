"""What a project is."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Project:
    """A part of an organization."""

    project_id: str
    organization_id: str
    name: str
    description: str
    create_time: datetime
    update_time: datetime
