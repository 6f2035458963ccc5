"""`tollhouse project …`: the parts of an organization."""

from typing import Annotated

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationOption, RequestIdOption
from libs.cli.terminal.output import Output
from tollhouse.identity.v1 import project_pb2, project_pb2_grpc

group = typer.Typer(name="project", help="The parts of an organization.", no_args_is_help=True)


@calling(group, "create")
async def create(
    channels: Channels,
    output: Output,
    name: Annotated[str, typer.Argument(help="The name of the project, unique in its organization.")],
    organization: OrganizationOption,
    description: Annotated[str, typer.Option(help="A description.")] = "",
    request_id: RequestIdOption = "",
) -> None:
    """Create a project."""
    request = project_pb2.CreateProjectRequest(
        request_id=request_id, organization_id=organization, name=name, description=description
    )
    output.one((await project_pb2_grpc.ProjectServiceStub(channels.identity).CreateProject(request)).project)


@calling(group, "list")
async def list_projects(
    channels: Channels, output: Output, organization: OrganizationOption, limit: LimitOption = LIMIT
) -> None:
    """List an organization's projects, newest first."""
    stub = project_pb2_grpc.ProjectServiceStub(channels.identity)
    request = project_pb2.ListProjectsRequest(organization_id=organization)
    projects, more = await listed(stub.ListProjects, request, lambda page: page.projects, limit)
    output.many(projects, ("project_id", "name", "description", "create_time"), more=more)
