"""Organizations, members, invitations and roles as messages."""

from datetime import datetime
from typing import Final

from libs.common.timestamps import render_optional_time, render_time
from services.identity.organization.domain import Invitation, InvitationState, Member, Organization, Role
from services.identity.organization.watch.feed import OrganizationNews
from services.identity.organization.watch.store import FeedEntry
from tollhouse.identity.v1 import organization_pb2 as pb

ROLES: Final = {
    pb.MEMBER_ROLE_OWNER: Role.OWNER,
    pb.MEMBER_ROLE_ADMIN: Role.ADMIN,
    pb.MEMBER_ROLE_MEMBER: Role.MEMBER,
    pb.MEMBER_ROLE_BILLING: Role.BILLING,
    pb.MEMBER_ROLE_VIEWER: Role.VIEWER,
}
RENDERED_ROLES: Final = {role: rendered for rendered, role in ROLES.items()}
_STATES: Final = {
    InvitationState.OPEN: pb.INVITATION_STATE_OPEN,
    InvitationState.ACCEPTED: pb.INVITATION_STATE_ACCEPTED,
    InvitationState.REVOKED: pb.INVITATION_STATE_REVOKED,
    InvitationState.EXPIRED: pb.INVITATION_STATE_EXPIRED,
}


def render_organization(organization: Organization) -> pb.Organization:
    return pb.Organization(
        organization_id=organization.organization_id,
        name=organization.name,
        create_time=render_time(organization.create_time),
        update_time=render_time(organization.update_time),
        personal=organization.personal,
        api_key_max_lifetime_s=organization.api_key_max_lifetime_s or 0,
        etag=organization.etag,
        metadata=organization.attributes.metadata,
        external_id=organization.attributes.external_id,
    )


def render_member(member: Member) -> pb.Member:
    return pb.Member(
        organization_id=member.organization_id,
        user_id=member.user_id,
        role=RENDERED_ROLES[member.role],
        create_time=render_time(member.create_time),
        update_time=render_time(member.update_time),
        email=member.email,
        full_name=member.full_name,
        etag=member.etag,
    )


def render_invitation(invitation: Invitation, now: datetime) -> pb.Invitation:
    return pb.Invitation(
        invitation_id=invitation.invitation_id,
        organization_id=invitation.organization_id,
        email=invitation.email,
        role=RENDERED_ROLES[invitation.role],
        state=_STATES[invitation.state_at(now)],
        inviter=invitation.inviter,
        create_time=render_time(invitation.create_time),
        expire_time=render_time(invitation.expire_time),
        accept_time=render_optional_time(invitation.accept_time),
        accepted_user_id=invitation.accepted_user_id or "",
        revoke_time=render_optional_time(invitation.revoke_time),
    )


def render_news(news: OrganizationNews) -> pb.WatchOrganizationsResponse:
    return pb.WatchOrganizationsResponse(
        revision=news.revision, organizations=[_entry(entry) for entry in news.entries], resync=news.resync
    )


def _entry(entry: FeedEntry) -> pb.WatchedOrganization:
    return pb.WatchedOrganization(
        revision=entry.revision,
        organization_id=entry.organization_id,
        personal=entry.personal,
        owner_user_id=entry.owner_user_id or "",
        create_time=render_time(entry.create_time),
        delete_time=render_optional_time(entry.delete_time),
    )
