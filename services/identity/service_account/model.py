"""What a service account is."""

from dataclasses import dataclass
from datetime import datetime

from services.identity.organization.model import Role


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """An owner of API keys that is no person."""

    service_account_id: str
    organization_id: str
    name: str
    description: str
    role: Role
    create_time: datetime
    update_time: datetime
    version: int

    @property
    def etag(self) -> str:
        return str(self.version)
