"""OrganizationService over gRPC."""

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final, TypeAlias

import grpc

from libs.common import pages
from libs.common.clock import Clock
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import id_in_token
from libs.common.timestamps import parse_optional_time, render_time
from libs.common.update_mask import mask_violations
from libs.common.validation import Reader
from services.identity.attributes import ATTRIBUTES, read_attributes, read_attributes_change
from services.identity.organization.invitations import Invitations
from services.identity.organization.members import Members
from services.identity.organization.organizations import Organizations
from services.identity.organization.rendering import (
    ROLES,
    render_invitation,
    render_member,
    render_news,
    render_organization,
)
from services.identity.organization.watch.feed import OrganizationFeed
from tollhouse.identity.v1 import organization_pb2 as pb
from tollhouse.identity.v1 import organization_pb2_grpc as rpc

_Context: TypeAlias = grpc.aio.ServicerContext
_UPDATABLE: Final = ("name", "api_key_max_lifetime_s", *ATTRIBUTES)


class OrganizationServicer(rpc.OrganizationServiceServicer):
    """Reads requests into commands of the use cases, and renders their results."""

    def __init__(
        self,
        organizations: Organizations,
        members: Members,
        invitations: Invitations,
        feed: OrganizationFeed,
        clock: Clock,
    ) -> None:
        self._organizations = organizations
        self._members = members
        self._invitations = invitations
        self._feed = feed
        self._clock = clock

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "UpdateOrganization": _read_mask,
        }

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: _Context
    ) -> pb.CreateOrganizationResponse:
        organization, replayed = await self._organizations.create(
            name=request.name,
            owner_user_id=request.owner_user_id.lower(),
            attributes=read_attributes(request),
            request_id=request.request_id,
        )
        return pb.CreateOrganizationResponse(organization=render_organization(organization), replayed=replayed)

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: _Context
    ) -> pb.GetOrganizationResponse:
        organization = await self._organizations.get(request.organization_id.lower())
        return pb.GetOrganizationResponse(organization=render_organization(organization))

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: _Context
    ) -> pb.ListOrganizationsResponse:
        user_id = request.user_id.lower()
        fingerprint = f"organizations {user_id} {request.external_id}"
        organizations, more = await self._organizations.page(
            user_id=user_id,
            external_id=request.external_id,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(organizations[-1].organization_id, fingerprint=fingerprint) if more else ""
        return pb.ListOrganizationsResponse(
            organizations=[render_organization(organization) for organization in organizations], next_page_token=token
        )

    async def CheckOrganizations(
        self, request: pb.CheckOrganizationsRequest, context: _Context
    ) -> pb.CheckOrganizationsResponse:
        known = await self._organizations.known(
            {organization_id.lower() for organization_id in request.organization_ids}
        )
        return pb.CheckOrganizationsResponse(known_organization_ids=known)

    async def WatchOrganizations(
        self, request: pb.WatchOrganizationsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchOrganizationsResponse]:
        async for news in self._feed.watch(request.after_revision):
            yield render_news(news)

    async def UpdateOrganization(
        self, request: pb.UpdateOrganizationRequest, context: _Context
    ) -> pb.UpdateOrganizationResponse:
        paths = _read_mask(request)
        organization = await self._organizations.update(
            request.organization_id.lower(),
            etag=request.etag,
            name=request.name if "name" in paths else None,
            api_key_max_lifetime_s=request.api_key_max_lifetime_s if "api_key_max_lifetime_s" in paths else None,
            attributes=read_attributes_change(request, paths),
        )
        return pb.UpdateOrganizationResponse(organization=render_organization(organization))

    async def DeleteOrganization(
        self, request: pb.DeleteOrganizationRequest, context: _Context
    ) -> pb.DeleteOrganizationResponse:
        delete_time, revision = await self._organizations.delete(request.organization_id.lower())
        return pb.DeleteOrganizationResponse(delete_time=render_time(delete_time), revision=revision)

    async def AddMember(self, request: pb.AddMemberRequest, context: _Context) -> pb.AddMemberResponse:
        member, replayed = await self._members.add(
            request.organization_id.lower(),
            request.user_id.lower(),
            ROLES[request.role],
            request_id=request.request_id,
        )
        return pb.AddMemberResponse(member=render_member(member), replayed=replayed)

    async def UpdateMember(self, request: pb.UpdateMemberRequest, context: _Context) -> pb.UpdateMemberResponse:
        member, revision = await self._members.update(
            request.organization_id.lower(), request.user_id.lower(), ROLES[request.role], etag=request.etag
        )
        return pb.UpdateMemberResponse(member=render_member(member), revision=revision)

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: _Context) -> pb.RemoveMemberResponse:
        revoked, revision = await self._members.remove(request.organization_id.lower(), request.user_id.lower())
        return pb.RemoveMemberResponse(revoked_api_keys=revoked, revision=revision)

    async def ListMembers(self, request: pb.ListMembersRequest, context: _Context) -> pb.ListMembersResponse:
        organization_id = request.organization_id.lower()
        fingerprint = f"members {organization_id} {request.user_id.lower()}".rstrip()
        members, more = await self._members.page(
            organization_id,
            user_id=request.user_id.lower() or None,
            after=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(members[-1].user_id, fingerprint=fingerprint) if more else ""
        return pb.ListMembersResponse(members=[render_member(member) for member in members], next_page_token=token)

    async def CreateInvitation(
        self, request: pb.CreateInvitationRequest, context: _Context
    ) -> pb.CreateInvitationResponse:
        created = await self._invitations.create(
            request.organization_id.lower(),
            email=request.email,
            role=ROLES[request.role],
            expire_time=parse_optional_time(
                "expire_time", request.expire_time, present=request.HasField("expire_time")
            ),
            request_id=request.request_id,
        )
        return pb.CreateInvitationResponse(
            invitation=render_invitation(created.invitation, self._clock.now()),
            token=created.token,
            replayed=created.replayed,
        )

    async def AcceptInvitation(
        self, request: pb.AcceptInvitationRequest, context: _Context
    ) -> pb.AcceptInvitationResponse:
        member, replayed = await self._invitations.accept(
            request.token, user_id=request.user_id.lower(), request_id=request.request_id
        )
        return pb.AcceptInvitationResponse(member=render_member(member), replayed=replayed)

    async def RevokeInvitation(
        self, request: pb.RevokeInvitationRequest, context: _Context
    ) -> pb.RevokeInvitationResponse:
        invitation = await self._invitations.revoke(request.organization_id.lower(), request.invitation_id.lower())
        return pb.RevokeInvitationResponse(invitation=render_invitation(invitation, self._clock.now()))

    async def ListInvitations(
        self, request: pb.ListInvitationsRequest, context: _Context
    ) -> pb.ListInvitationsResponse:
        organization_id = request.organization_id.lower()
        fingerprint = f"invitations {organization_id} {request.include_closed}"
        invitations, more = await self._invitations.page(
            organization_id,
            include_closed=request.include_closed,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        now = self._clock.now()
        token = pages.encode_page_token(invitations[-1].invitation_id, fingerprint=fingerprint) if more else ""
        return pb.ListInvitationsResponse(
            invitations=[render_invitation(invitation, now) for invitation in invitations], next_page_token=token
        )


def _read_mask(request: pb.UpdateOrganizationRequest) -> Collection[str]:
    """Return which fields an update gives; raises InvalidArgument naming every field at fault."""
    paths = request.update_mask.paths
    violations = mask_violations(paths, _UPDATABLE)
    if "name" in paths and not request.name:
        violations.append(FieldViolation("name", "must not be empty"))
    if violations:
        raise InvalidArgument(violations)
    return paths
