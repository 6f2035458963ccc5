"""The customers to whom the calls of a trace are assigned: organizations with projects, users, API keys and models.

Everything is created with a fixed request id, so that creating it again, from any machine, returns what exists. The
assignment of a row depends only on its number.
"""

import hashlib
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from itertools import accumulate
from typing import Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.terminal.connection import Channels
from tollhouse.identity.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    user_pb2,
    user_pb2_grpc,
)
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Plan:
    """One organization to create: its share of all calls, its projects and users."""

    name: str
    slug: str
    share: int
    projects: tuple[str, ...]
    users: int


# A few customers make most of the calls.
_PLANS: Final = (
    _Plan("Northwind Research", "northwind", 46, ("assistant", "search", "evaluation"), 4),
    _Plan("Blue Harbor Logistics", "blueharbor", 26, ("dispatch", "support"), 3),
    _Plan("Cedar & Pine Clinics", "cedarpine", 15, ("triage", "letters"), 3),
    _Plan("Quarry Street Games", "quarrystreet", 9, ("characters",), 2),
    _Plan("Marta Oduya", "oduya", 4, ("thesis",), 1),
)
_MODEL_SHARES: Final = {
    "gpt-4o-mini": 34,
    "gpt-4o": 24,
    "claude-sonnet-4-20250514": 17,
    "gemini-2.5-flash": 12,
    "gpt-4.1": 8,
    "claude-3-5-haiku-20241022": 5,
}
_CATALOGUE: Final = "models.yaml"
# Before the times of every trace: usage is charged at the price in force when it occurred.
_PRICED_SINCE: Final = datetime(2015, 1, 1, tzinfo=UTC)
_PREFIX: Final = "tollhouse-replay"


@dataclass(frozen=True, slots=True)
class Seat:
    """A user with an API key for one project. The secret is known only if this process created the key."""

    organization_id: str
    project_id: str
    user_id: str
    api_key_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Organization:
    """One customer."""

    organization_id: str
    name: str
    share: int
    seats: Sequence[Seat]


@dataclass(frozen=True, slots=True)
class Population:
    """All customers, and the assignment of calls to them."""

    organizations: Sequence[Organization]

    def maker_of(self, row_number: int) -> tuple[Seat, str]:
        """Return the seat and the model to which a row is assigned."""
        organization = _chosen(self.organizations, [one.share for one in self.organizations], _part(row_number, "org"))
        # The first seats of an organization make more calls than the last.
        weights = [len(organization.seats) - place for place in range(len(organization.seats))]
        seat = _chosen(organization.seats, weights, _part(row_number, "seat"))
        model = _chosen(list(_MODEL_SHARES), list(_MODEL_SHARES.values()), _part(row_number, "model"))
        return seat, model


def models() -> list[str]:
    return list(_MODEL_SHARES)


def _part(row_number: int, subject: str) -> float:
    """Return a number from 0 to 1 that depends only on the row and the subject."""
    digest = hashlib.blake2b(f"{subject}:{row_number}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def way_of(row_number: int) -> float:
    """Return a number from 0 to 1 that decides how a row is metered, the same in every replay."""
    return _part(row_number, "way")


def _chosen(items: Sequence[_T], weights: Sequence[int], part: float) -> _T:
    sums = list(accumulate(weights))
    return items[bisect(sums, part * sums[-1])]


async def import_missing_models(channels: Channels) -> None:
    """Import the models that replays use and that do not exist yet, at their list prices."""
    stub = model_pb2_grpc.ModelServiceStub(channels.metering)
    known: set[str] = set()
    page_token = ""
    while True:
        page = await stub.ListModels(model_pb2.ListModelsRequest(page_size=1000, page_token=page_token))
        known.update(model.model_id for model in page.models)
        page_token = page.next_page_token
        if not page_token:
            break
    missing = [model for model in _MODEL_SHARES if model not in known]
    if missing:
        effective_time = Timestamp()
        effective_time.FromDatetime(_PRICED_SINCE)
        catalogue = resources.files("libs.cli.traces").joinpath("data", _CATALOGUE).read_bytes()
        await stub.ImportModels(
            model_pb2.ImportModelsRequest(yaml=catalogue, effective_time=effective_time, model_ids=missing)
        )


async def make_population(channels: Channels) -> Population:
    """Create the customers; those that exist are returned."""
    return Population([await _make_organization(channels, plan) for plan in _PLANS])


async def _make_organization(channels: Channels, plan: _Plan) -> Organization:
    users = [await _make_user(channels, plan, number) for number in range(1, plan.users + 1)]
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    created = await stub.CreateOrganization(
        organization_pb2.CreateOrganizationRequest(
            request_id=f"{_PREFIX}:{plan.slug}", name=plan.name, owner_user_id=users[0]
        )
    )
    organization_id = created.organization.organization_id
    for user_id in users[1:]:
        await stub.AddMember(
            organization_pb2.AddMemberRequest(
                request_id=f"{_PREFIX}:{plan.slug}:{user_id}",
                organization_id=organization_id,
                user_id=user_id,
                role=organization_pb2.MEMBER_ROLE_MEMBER,
            )
        )
    seats = [
        await _make_seat(channels, plan, organization_id, project_id, user_id)
        for project_id in [await _make_project(channels, plan, organization_id, name) for name in plan.projects]
        for user_id in users
    ]
    return Organization(organization_id, plan.name, plan.share, seats)


async def _make_user(channels: Channels, plan: _Plan, number: int) -> str:
    stub = user_pb2_grpc.UserServiceStub(channels.identity)
    request = user_pb2.CreateUserRequest(
        request_id=f"{_PREFIX}:{plan.slug}:user-{number}",
        email=f"user-{number}@{plan.slug}.example",
        full_name=f"User {number} of {plan.name}",
    )
    return str((await stub.CreateUser(request)).user.user_id)


async def _make_project(channels: Channels, plan: _Plan, organization_id: str, name: str) -> str:
    stub = project_pb2_grpc.ProjectServiceStub(channels.identity)
    request = project_pb2.CreateProjectRequest(
        request_id=f"{_PREFIX}:{plan.slug}:{name}", organization_id=organization_id, name=name
    )
    return str((await stub.CreateProject(request)).project.project_id)


async def _make_seat(channels: Channels, plan: _Plan, organization_id: str, project_id: str, user_id: str) -> Seat:
    stub = api_key_pb2_grpc.ApiKeyServiceStub(channels.identity)
    created = await stub.CreateApiKey(
        api_key_pb2.CreateApiKeyRequest(
            request_id=f"{_PREFIX}:{plan.slug}:{project_id}:{user_id}",
            organization_id=organization_id,
            project_id=project_id,
            user_id=user_id,
            name="replay",
            environment=api_key_pb2.API_KEY_ENVIRONMENT_LIVE,
            allowed_models=models(),
        )
    )
    return Seat(organization_id, project_id, user_id, created.api_key.api_key_id, created.secret)
