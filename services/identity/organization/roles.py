"""Which roles a caller may hand out or take away."""

from libs.common.call import current_rights
from services.identity.errors import RoleNotHeld
from services.identity.organization.domain import Role, holds_role


def require_held(*roles: Role) -> None:
    """Raise unless the caller may do everything the roles allow; operators always may.

    So an admin can neither make nor change an owner, and a key cannot give others more than it may do itself.

    Raises:
        RoleNotHeld: a role may do something that the caller may not.
    """
    rights = current_rights()
    for role in roles:
        if rights is not None and not holds_role(rights, role):
            raise RoleNotHeld(role=role.value)
