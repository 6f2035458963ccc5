"""Creating, finding, changing and deleting projects."""

from dataclasses import replace
from datetime import datetime

from libs.common.audit.recording import Changed, differences, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from libs.common.ids import new_id
from services.identity.attributes import Attributes, AttributesChange, attribute_differences
from services.identity.organization.store import find_organization, lock_organization
from services.identity.project import store
from services.identity.project.domain import Project
from services.identity.requests import claim_request
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change


class Projects:
    """Manages the projects of organizations."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, organization_id: str, *, name: str, description: str, attributes: Attributes, request_id: str
    ) -> tuple[Project, bool]:
        """Create a project, or return the one an earlier call with this request id made.

        Raises:
            NotFound: there is no such organization.
            ProjectAlreadyExists: the organization has one of this name or external id.
            RequestIdReused: the request id was sent before with another body.
        """
        now = self._clock.now()
        new = Project(new_id(), organization_id, name, description, now, now, version=1, attributes=attributes)
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            earlier_id = await claim_request(
                tx,
                organization_id=organization_id,
                method="CreateProject",
                request_id=request_id,
                body={"name": name, "description": description, **attributes.as_body()},
                resource_id=new.project_id,
                now=now,
            )
            if earlier_id is not None:
                return existing(await store.find_project(tx, organization_id, earlier_id), earlier_id), True
            await store.insert_project(tx, new)
            await _record(tx, new, now, (Changed("name", after=name), *attribute_differences(Attributes(), attributes)))
        return new, False

    async def get(self, organization_id: str, project_id: str) -> Project:
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="project", resource_name=project_id)
            return existing(await store.find_project(tx, organization_id, project_id), project_id)

    async def page(
        self, organization_id: str, *, external_id: str, before: str | None, size: int
    ) -> tuple[list[Project], bool]:
        """Return a page, and whether more follow."""
        async with self._database.transaction() as tx:
            if await find_organization(tx, organization_id) is None:
                raise NotFound(resource_type="organization", resource_name=organization_id)
            projects = await store.list_projects(
                tx, organization_id, external_id=external_id, before=before, limit=size + 1
            )
        return projects[:size], len(projects) > size

    async def update(
        self,
        organization_id: str,
        project_id: str,
        *,
        etag: str,
        name: str | None,
        description: str | None,
        attributes: AttributesChange,
    ) -> Project:
        """Change the fields that are not None.

        Raises:
            NotFound: the organization has no such project.
            StaleEtag: it has changed since the etag was read.
            ProjectAlreadyExists: the organization has another one of this name or external id.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="project", resource_name=project_id)
            before = existing(await store.find_project(tx, organization_id, project_id, lock=True), project_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="project")
            after = replace(
                before,
                name=before.name if name is None else name,
                description=before.description if description is None else description,
                attributes=before.attributes.changed(attributes),
            )
            if after == before:
                return before
            after = replace(after, update_time=now, version=before.version + 1)
            await store.replace_project(tx, after)
            changed = differences(_audited(before), _audited(after))
            await _record(tx, after, now, (*changed, *attribute_differences(before.attributes, after.attributes)))
        return after

    async def delete(self, organization_id: str, project_id: str) -> tuple[datetime, int]:
        """Delete a project, unless it is deleted; return the time of deletion, and a revision that holds it.

        Raises:
            NotFound: the organization never had such a project.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            held = None
            if await lock_organization(tx, organization_id):
                held = await store.lock_to_delete(tx, organization_id, project_id)
            if held is None:
                raise NotFound(resource_type="project", resource_name=project_id)
            project, delete_time = held
            if delete_time is not None:
                return delete_time, await current_revision(tx)
            await store.delete_project(tx, organization_id, project_id, now)
            await store.forget_selection(tx, organization_id, project_id)
            await _record(tx, project, now, ())
            revision = await record_change(
                tx,
                ChangeKind.PROJECT_DELETED,
                SubjectType.PROJECT,
                project_id,
                organization_id=organization_id,
                now=now,
            )
        return now, revision


def existing(project: Project | None, project_id: str) -> Project:
    """Return the project; raise NotFound for None."""
    if project is None:
        raise NotFound(resource_type="project", resource_name=project_id)
    return project


def _audited(project: Project) -> dict[str, str | None]:
    """Return the fields whose values the audit trail shows."""
    return {"name": project.name, "description": project.description}


async def _record(tx: Transaction, project: Project, now: datetime, changed: tuple[Changed, ...]) -> None:
    await record_event(
        tx,
        now=now,
        organization_id=project.organization_id,
        resource_type="project",
        resource_id=project.project_id,
        changed=changed,
    )
