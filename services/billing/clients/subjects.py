"""Makes sure that the user and the model that something is made for exist."""

from typing import Protocol

from libs.common.errors import NotFound


class Members(Protocol):
    """Knows who belongs to which organization."""

    async def is_member(self, organization_id: str, user_id: str) -> bool:
        """Return whether a user belongs to an organization. Raises NotFound if there is none, and Unavailable."""


class Models(Protocol):
    """Knows the catalogue of models."""

    async def is_known(self, model: str) -> bool:
        """Return whether there is a model of this name. Raises Unavailable."""


class Subjects:
    """Asks identity about users and metering about models."""

    def __init__(self, members: Members | None, models: Models | None) -> None:
        """Without `members` any user is taken as one of the organization, without `models` any name as a model's."""
        self._members = members
        self._models = models

    async def require(self, organization_id: str, user_id: str | None, model: str | None) -> None:
        """Return if the user, where there is one, belongs to the organization, and the model is in the catalogue.

        Raises:
            NotFound: the user, the model or the organization does not exist, or the user is not of the organization.
            Unavailable: identity or metering cannot be asked.
        """
        members, models = self._members, self._models
        if user_id is not None and members is not None and not await members.is_member(organization_id, user_id):
            raise NotFound(resource_type="user", resource_name=user_id)
        if model is not None and models is not None and not await models.is_known(model):
            raise NotFound(resource_type="model", resource_name=model)
