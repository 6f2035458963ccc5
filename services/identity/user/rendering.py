"""Conversions between users, identities, configurations and their messages."""

from typing import Final

from libs.common.access import PlatformRole
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import render_optional_time, render_time
from libs.common.update_mask import mask_violations
from services.identity.attributes import ATTRIBUTES, read_attributes_change
from services.identity.configuration import Configuration
from services.identity.email_address import NO_EMAIL, folded_email
from services.identity.user.domain import LinkedIdentity, User, UserChange
from tollhouse.identity.v1 import user_pb2 as pb

_ROLES: Final = {
    pb.PLATFORM_ROLE_USER: PlatformRole.USER,
    pb.PLATFORM_ROLE_ADMIN: PlatformRole.ADMIN,
    pb.PLATFORM_ROLE_ADMIN_READONLY: PlatformRole.ADMIN_READONLY,
}
_RENDERED_ROLES: Final = {role: rendered for rendered, role in _ROLES.items()}
_TEXTS: Final = ("email", "username", "full_name", "picture_url")
_UPDATABLE: Final = (
    *_TEXTS,
    *("platform_role", "last_selected_organization_id", "last_selected_project_id"),
    *ATTRIBUTES,
)


def render_user(user: User) -> pb.User:
    return pb.User(
        user_id=user.user_id,
        email=user.email,
        username=user.username,
        full_name=user.full_name,
        picture_url=user.picture_url,
        active=user.active,
        create_time=render_time(user.create_time),
        update_time=render_time(user.update_time),
        deactivate_time=render_optional_time(user.deactivate_time),
        platform_role=_RENDERED_ROLES[user.platform_role],
        personal_organization_id=user.personal_organization_id,
        last_selected_organization_id=user.last_selected_organization_id,
        last_selected_project_id=user.last_selected_project_id,
        has_password=user.has_password,
        linked_identities=[
            pb.LinkedIdentity(provider=identity.provider, subject=identity.subject) for identity in user.identities
        ],
        email_verify_time=render_optional_time(user.email_verify_time),
        last_sign_in_time=render_optional_time(user.last_sign_in_time),
        password_change_time=render_optional_time(user.password_change_time),
        delete_time=render_optional_time(user.delete_time),
        etag=user.etag,
        metadata=user.attributes.metadata,
        external_id=user.attributes.external_id,
    )


def render_configuration(configuration: Configuration) -> pb.UserConfiguration:
    return pb.UserConfiguration(
        entries=configuration.entries,
        update_time=render_optional_time(configuration.update_time),
        etag=configuration.etag,
    )


def read_identity(identity: pb.LinkedIdentity) -> LinkedIdentity:
    return LinkedIdentity(identity.provider, identity.subject)


def read_change(request: pb.UpdateUserRequest) -> UserChange:
    """Return the new values of the fields that the update mask names.

    Raises:
        InvalidArgument: the mask names nothing or something else, or a field that cannot be empty is.
    """
    paths = set(request.update_mask.paths)
    violations = mask_violations(paths, _UPDATABLE)
    if "email" in paths and not request.email:
        violations.append(FieldViolation("email", "cannot be removed"))
    elif "email" in paths and folded_email(request.email) is None:
        violations.append(NO_EMAIL)
    if "platform_role" in paths and request.platform_role not in _ROLES:
        violations.append(FieldViolation("platform_role", "must be one of the roles"))
    if violations:
        raise InvalidArgument(violations)
    return UserChange(
        texts={name: getattr(request, name) for name in _TEXTS if name in paths},
        platform_role=_ROLES[request.platform_role] if "platform_role" in paths else None,
        selected_organization_id=(
            request.last_selected_organization_id.lower() if "last_selected_organization_id" in paths else None
        ),
        selected_project_id=request.last_selected_project_id.lower() if "last_selected_project_id" in paths else None,
        attributes=read_attributes_change(request, paths),
    )
