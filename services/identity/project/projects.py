"""Creating and finding projects."""

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound
from libs.common.ids import new_id
from services.identity.organization.store import find_organization, lock_organization
from services.identity.project import store
from services.identity.project.model import Project
from services.identity.requests import claim_request


class Projects:
    """The parts of organizations."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, organization_id: str, *, name: str, description: str, request_id: str
    ) -> tuple[Project, bool]:
        """Create a project, or return the one an earlier call with this request id made.

        Raises:
            NotFound: there is no such organization.
            ProjectAlreadyExists: the organization has one of this name.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        new = Project(new_id(), organization_id, name, description, now, now)
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="CreateProject",
                request_id=request_id,
                body={"name": name, "description": description},
                resource_id=new.project_id,
                now=now,
            )
            if earlier_id is None:
                await store.insert_project(tx, new)
            project_id = earlier_id or new.project_id
            project = _existing(await store.find_project(tx, organization_id, project_id), project_id)
        return project, earlier_id is not None

    async def get(self, organization_id: str, project_id: str) -> Project:
        async with self._database.transaction() as tx:
            return _existing(await store.find_project(tx, organization_id, project_id), project_id)

    async def page(self, organization_id: str, *, before: str | None, size: int) -> tuple[list[Project], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            projects = await store.list_projects(tx, organization_id, before=before, limit=size + 1)
        return projects[:size], len(projects) > size


def _existing(project: Project | None, project_id: str) -> Project:
    if project is None:
        raise NotFound(resource_type="project", resource_name=project_id)
    return project
