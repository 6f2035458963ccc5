"""What a user is."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class NewUser:
    """What is said about a user when they are created."""

    email: str
    username: str
    full_name: str
    picture_url: str


@dataclass(frozen=True, slots=True)
class User:
    """A person."""

    user_id: str
    email: str
    username: str
    full_name: str
    picture_url: str
    create_time: datetime
    update_time: datetime
    deactivate_time: datetime | None
