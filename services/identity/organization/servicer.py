"""OrganizationService over gRPC."""

from typing import Final

import grpc

from libs.common import pages
from libs.common.pages import id_in_token
from libs.common.timestamps import render_time
from services.identity.organization.model import Member, Organization, Role
from services.identity.organization.organizations import Organizations
from tollhouse.identity.v1 import organization_pb2 as pb
from tollhouse.identity.v1 import organization_pb2_grpc as rpc

_ROLES: Final = {
    pb.MEMBER_ROLE_OWNER: Role.OWNER,
    pb.MEMBER_ROLE_ADMIN: Role.ADMIN,
    pb.MEMBER_ROLE_MEMBER: Role.MEMBER,
    pb.MEMBER_ROLE_BILLING: Role.BILLING,
    pb.MEMBER_ROLE_VIEWER: Role.VIEWER,
}
_RENDERED_ROLES: Final = {role: rendered for rendered, role in _ROLES.items()}


class OrganizationServicer(rpc.OrganizationServiceServicer):
    """Reads requests into what `Organizations` takes, and renders what it gives."""

    def __init__(self, organizations: Organizations) -> None:
        self._organizations = organizations

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateOrganizationResponse:
        organization, replayed = await self._organizations.create(
            name=request.name, owner_user_id=request.owner_user_id.lower(), request_id=request.request_id
        )
        return pb.CreateOrganizationResponse(organization=_render(organization), replayed=replayed)

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetOrganizationResponse:
        organization = await self._organizations.get(request.organization_id)
        return pb.GetOrganizationResponse(organization=_render(organization))

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListOrganizationsResponse:
        fingerprint = f"organizations {request.user_id}"
        organizations, more = await self._organizations.page(
            user_id=request.user_id,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(organizations[-1].organization_id, fingerprint=fingerprint) if more else ""
        return pb.ListOrganizationsResponse(
            organizations=[_render(organization) for organization in organizations], next_page_token=token
        )

    async def AddMember(self, request: pb.AddMemberRequest, context: grpc.aio.ServicerContext) -> pb.AddMemberResponse:
        member, replayed = await self._organizations.add_member(
            request.organization_id, request.user_id.lower(), _ROLES[request.role], request_id=request.request_id
        )
        return pb.AddMemberResponse(member=_render_member(member), replayed=replayed)

    async def UpdateMember(
        self, request: pb.UpdateMemberRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateMemberResponse:
        member = await self._organizations.update_member(request.organization_id, request.user_id, _ROLES[request.role])
        return pb.UpdateMemberResponse(member=_render_member(member))

    async def RemoveMember(
        self, request: pb.RemoveMemberRequest, context: grpc.aio.ServicerContext
    ) -> pb.RemoveMemberResponse:
        revoked, revision = await self._organizations.remove_member(request.organization_id, request.user_id)
        return pb.RemoveMemberResponse(revoked_api_keys=revoked, revision=revision)

    async def ListMembers(
        self, request: pb.ListMembersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListMembersResponse:
        fingerprint = f"members {request.organization_id}"
        members, more = await self._organizations.page_of_members(
            request.organization_id,
            after=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(members[-1].user_id, fingerprint=fingerprint) if more else ""
        return pb.ListMembersResponse(members=[_render_member(member) for member in members], next_page_token=token)


def _render(organization: Organization) -> pb.Organization:
    return pb.Organization(
        organization_id=organization.organization_id,
        name=organization.name,
        create_time=render_time(organization.create_time),
        update_time=render_time(organization.update_time),
    )


def _render_member(member: Member) -> pb.Member:
    return pb.Member(
        organization_id=member.organization_id,
        user_id=member.user_id,
        role=_RENDERED_ROLES[member.role],
        create_time=render_time(member.create_time),
        update_time=render_time(member.update_time),
    )
