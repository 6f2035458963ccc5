"""Service accounts."""

from dataclasses import dataclass
from datetime import datetime

from libs.common.access import Caller, CallerKind
from services.identity.attributes import Attributes
from services.identity.organization.domain import Role


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """An owner of API keys that is not a person."""

    service_account_id: str
    organization_id: str
    name: str
    description: str
    role: Role
    create_time: datetime
    update_time: datetime
    version: int
    attributes: Attributes

    @property
    def etag(self) -> str:
        return str(self.version)

    @property
    def subject(self) -> str:
        """The account's subject, by which it is named as a caller and as a creator."""
        return Caller(CallerKind.SERVICE_ACCOUNT, self.service_account_id).subject
