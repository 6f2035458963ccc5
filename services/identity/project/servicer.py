"""ProjectService over gRPC."""

from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

import grpc

from libs.common import pages
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import id_in_token
from libs.common.timestamps import render_time
from libs.common.update_mask import mask_violations
from libs.common.validation import Reader
from services.identity.attributes import ATTRIBUTES, read_attributes, read_attributes_change
from services.identity.project.domain import Project, ProjectMember, ProjectRole
from services.identity.project.members import ProjectMembers
from services.identity.project.projects import Projects
from tollhouse.identity.v1 import project_pb2 as pb
from tollhouse.identity.v1 import project_pb2_grpc as rpc

_Context: TypeAlias = grpc.aio.ServicerContext
_UPDATABLE: Final = ("name", "description", *ATTRIBUTES)
_ROLES: Final = {
    pb.PROJECT_MEMBER_ROLE_ADMIN: ProjectRole.ADMIN,
    pb.PROJECT_MEMBER_ROLE_MEMBER: ProjectRole.MEMBER,
}
_RENDERED_ROLES: Final = {role: rendered for rendered, role in _ROLES.items()}


class ProjectServicer(rpc.ProjectServiceServicer):
    """Reads requests into commands of the use cases, and renders their results."""

    def __init__(self, projects: Projects, members: ProjectMembers) -> None:
        self._projects = projects
        self._members = members

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "UpdateProject": _read_mask,
        }

    async def CreateProject(self, request: pb.CreateProjectRequest, context: _Context) -> pb.CreateProjectResponse:
        project, replayed = await self._projects.create(
            request.organization_id.lower(),
            name=request.name,
            description=request.description,
            attributes=read_attributes(request),
            request_id=request.request_id,
        )
        return pb.CreateProjectResponse(project=_render(project), replayed=replayed)

    async def GetProject(self, request: pb.GetProjectRequest, context: _Context) -> pb.GetProjectResponse:
        project = await self._projects.get(request.organization_id.lower(), request.project_id.lower())
        return pb.GetProjectResponse(project=_render(project))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: _Context) -> pb.ListProjectsResponse:
        organization_id = request.organization_id.lower()
        fingerprint = f"projects {organization_id} {request.external_id}"
        projects, more = await self._projects.page(
            organization_id,
            external_id=request.external_id,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(projects[-1].project_id, fingerprint=fingerprint) if more else ""
        return pb.ListProjectsResponse(projects=[_render(project) for project in projects], next_page_token=token)

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: _Context) -> pb.UpdateProjectResponse:
        paths = _read_mask(request)
        project = await self._projects.update(
            request.organization_id.lower(),
            request.project_id.lower(),
            etag=request.etag,
            name=request.name if "name" in paths else None,
            description=request.description if "description" in paths else None,
            attributes=read_attributes_change(request, paths),
        )
        return pb.UpdateProjectResponse(project=_render(project))

    async def DeleteProject(self, request: pb.DeleteProjectRequest, context: _Context) -> pb.DeleteProjectResponse:
        delete_time, revision = await self._projects.delete(request.organization_id.lower(), request.project_id.lower())
        return pb.DeleteProjectResponse(delete_time=render_time(delete_time), revision=revision)

    async def AddProjectMember(
        self, request: pb.AddProjectMemberRequest, context: _Context
    ) -> pb.AddProjectMemberResponse:
        member, replayed = await self._members.add(
            request.organization_id.lower(),
            request.project_id.lower(),
            request.user_id.lower(),
            _ROLES[request.role],
            request_id=request.request_id,
        )
        return pb.AddProjectMemberResponse(member=_render_member(member), replayed=replayed)

    async def UpdateProjectMember(
        self, request: pb.UpdateProjectMemberRequest, context: _Context
    ) -> pb.UpdateProjectMemberResponse:
        member, revision = await self._members.update(
            request.organization_id.lower(),
            request.project_id.lower(),
            request.user_id.lower(),
            _ROLES[request.role],
            etag=request.etag,
        )
        return pb.UpdateProjectMemberResponse(member=_render_member(member), revision=revision)

    async def RemoveProjectMember(
        self, request: pb.RemoveProjectMemberRequest, context: _Context
    ) -> pb.RemoveProjectMemberResponse:
        revoked, revision = await self._members.remove(
            request.organization_id.lower(), request.project_id.lower(), request.user_id.lower()
        )
        return pb.RemoveProjectMemberResponse(revoked_api_keys=revoked, revision=revision)

    async def ListProjectMembers(
        self, request: pb.ListProjectMembersRequest, context: _Context
    ) -> pb.ListProjectMembersResponse:
        organization_id, project_id = request.organization_id.lower(), request.project_id.lower()
        fingerprint = f"project members {organization_id} {project_id}"
        members, more = await self._members.page(
            organization_id,
            project_id,
            after=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(members[-1].user_id, fingerprint=fingerprint) if more else ""
        return pb.ListProjectMembersResponse(
            members=[_render_member(member) for member in members], next_page_token=token
        )


def _read_mask(request: pb.UpdateProjectRequest) -> Collection[str]:
    """Return which fields an update gives; raises InvalidArgument naming every field at fault."""
    paths = request.update_mask.paths
    violations = mask_violations(paths, _UPDATABLE)
    if "name" in paths and not request.name:
        violations.append(FieldViolation("name", "must not be empty"))
    if violations:
        raise InvalidArgument(violations)
    return paths


def _render(project: Project) -> pb.Project:
    return pb.Project(
        project_id=project.project_id,
        organization_id=project.organization_id,
        name=project.name,
        description=project.description,
        create_time=render_time(project.create_time),
        update_time=render_time(project.update_time),
        etag=project.etag,
        metadata=project.attributes.metadata,
        external_id=project.attributes.external_id,
    )


def _render_member(member: ProjectMember) -> pb.ProjectMember:
    return pb.ProjectMember(
        organization_id=member.organization_id,
        project_id=member.project_id,
        user_id=member.user_id,
        role=_RENDERED_ROLES[member.role],
        email=member.email,
        full_name=member.full_name,
        create_time=render_time(member.create_time),
        update_time=render_time(member.update_time),
        etag=member.etag,
    )
