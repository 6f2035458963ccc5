"""ProjectService over gRPC."""

import grpc

from libs.common import pages
from libs.common.pages import id_in_token
from libs.common.timestamps import render_time
from services.identity.project.model import Project
from services.identity.project.projects import Projects
from tollhouse.identity.v1 import project_pb2 as pb
from tollhouse.identity.v1 import project_pb2_grpc as rpc


class ProjectServicer(rpc.ProjectServiceServicer):
    """Reads requests into what `Projects` takes, and renders what it gives."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    async def CreateProject(
        self, request: pb.CreateProjectRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateProjectResponse:
        project, replayed = await self._projects.create(
            request.organization_id,
            name=request.name,
            description=request.description,
            request_id=request.request_id,
        )
        return pb.CreateProjectResponse(project=_render(project), replayed=replayed)

    async def GetProject(
        self, request: pb.GetProjectRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetProjectResponse:
        project = await self._projects.get(request.organization_id, request.project_id)
        return pb.GetProjectResponse(project=_render(project))

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListProjectsResponse:
        fingerprint = f"projects {request.organization_id}"
        projects, more = await self._projects.page(
            request.organization_id,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(projects[-1].project_id, fingerprint=fingerprint) if more else ""
        return pb.ListProjectsResponse(projects=[_render(project) for project in projects], next_page_token=token)


def _render(project: Project) -> pb.Project:
    return pb.Project(
        project_id=project.project_id,
        organization_id=project.organization_id,
        name=project.name,
        description=project.description,
        create_time=render_time(project.create_time),
        update_time=render_time(project.update_time),
    )
