"""Which roles a caller may hand out or take away."""

from libs.common.call import current_rights
from services.identity.errors import RoleNotHeld
from services.identity.organization.domain import Role, holds_role


def require_held(*roles: Role) -> None:
    """Let the call go on only if its caller may do all that the roles may; operators may everything.

    So an admin touches no owner and makes none, and a key gives nobody more than it can do itself.

    Raises:
        RoleNotHeld: a role may do something that the caller may not.
    """
    rights = current_rights()
    for role in roles:
        if rights is not None and not holds_role(rights, role):
            raise RoleNotHeld(role=role.value)
