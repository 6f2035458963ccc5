"""Creating, changing and deleting the endpoints that events are sent to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypedDict

from libs.common.audit.recording import Changed, record_event
from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import (
    EventsNotSetUp,
    FieldViolation,
    InvalidArgument,
    NotFound,
    StaleEtag,
    TooManyEventEndpoints,
)
from libs.common.events import store
from libs.common.events.domain import ENDPOINTS_MAX, Endpoint, Off, url_problem
from libs.common.events.homes import Homes
from libs.common.events.message import new_secret, secret_text
from libs.common.events.options import Options
from libs.common.events.outbox import NewEvent, announce
from libs.common.events.requests import earlier_outcome, request_of
from libs.common.ids import new_id
from libs.common.sealing import SealingKeys, place_of_secret
from libs.common.update_mask import mask_violations

OFF_TYPE: Final = "tollhouse.event_endpoint.disabled"


@dataclass(frozen=True, slots=True)
class WithSecret:
    """An endpoint with the secret that it was given; an empty one where an earlier call with the same id did it."""

    endpoint: Endpoint
    secret: str
    replayed: bool

    def __repr__(self) -> str:
        return f"WithSecret(endpoint_id={self.endpoint.endpoint_id}, replayed={self.replayed})"


class Changes(TypedDict, total=False):
    """The fields of an endpoint that change."""

    url: str
    types: tuple[str, ...]
    description: str
    enabled: bool


class Endpoints:
    """The endpoints of a service."""

    def __init__(self, homes: Homes, clock: Clock, options: Options, *, mails: bool) -> None:
        self._homes = homes
        self._clock = clock
        self._options = options
        self._mails = mails

    async def create(
        self, organization_id: str, *, url: str, types: Sequence[str], description: str, request_id: str
    ) -> WithSecret:
        """Create an endpoint, or return the one that an earlier call with this request id created.

        Raises:
            InvalidArgument: events are never sent to this address.
            EventsNotSetUp: there is no key to encrypt the secret with.
            TooManyEventEndpoints: the organization has as many as there may be.
            RequestIdReused: the request id was sent before with another body.
        """
        self._check_url(url)
        keys, now, secret = self._keys(), self._clock.now(), new_secret()
        endpoint_id = new_id()
        body = {"url": url, "types": list(types), "description": description}
        request = request_of(organization_id, "CreateEventEndpoint", request_id, body)
        async with self._homes.of(organization_id).raw_transaction() as connection:
            earlier_id = await earlier_outcome(connection, request, now)
            if earlier_id is not None:
                found = _existing(await store.find_endpoint(connection, organization_id, earlier_id), earlier_id)
                return WithSecret(found, "", True)
            if await store.count_endpoints(connection, organization_id) >= ENDPOINTS_MAX:
                raise TooManyEventEndpoints(endpoints=ENDPOINTS_MAX)
            endpoint = Endpoint(
                organization_id=organization_id,
                endpoint_id=endpoint_id,
                url=url,
                types=tuple(types),
                description=description,
                enabled=True,
                disabled_reason="",
                secret=keys.seal(secret, place_of_secret(endpoint_id)),
                previous_secret=None,
                previous_secret_expire_time=None,
                failing_since=None,
                version=1,
                create_time=now,
                update_time=now,
                delete_time=None,
            )
            await store.insert_endpoint(connection, endpoint)
            if request is not None:
                await store.keep_outcome(connection, request, endpoint_id)
            await self._record(connection, None, endpoint)
        return WithSecret(endpoint, secret_text(secret), False)

    async def get(self, organization_id: str, endpoint_id: str) -> Endpoint:
        """Return an endpoint of an organization; raises NotFound if it has no such one."""
        async with self._homes.of(organization_id).raw_connection() as connection:
            return _existing(await store.find_endpoint(connection, organization_id, endpoint_id), endpoint_id)

    async def page(self, organization_id: str, before: str, limit: int) -> list[Endpoint]:
        """Return the endpoints of an organization with lower ids, the newest first."""
        async with self._homes.of(organization_id).raw_connection() as connection:
            return await store.list_endpoints(connection, organization_id, before, limit)

    async def update(self, organization_id: str, endpoint_id: str, changes: Changes, *, etag: str) -> Endpoint:
        """Change an endpoint, and return it.

        Raises:
            InvalidArgument: events are never sent to the new address.
            NotFound: the organization has no such endpoint.
            StaleEtag: it has changed since the etag was read.
        """
        if "url" in changes:
            self._check_url(changes["url"])
        now = self._clock.now()
        async with self._homes.of(organization_id).raw_transaction() as connection:
            before = _existing(
                await store.find_endpoint(connection, organization_id, endpoint_id, lock=True), endpoint_id
            )
            _check_etag(before, etag)
            after = replace(before, **changes)
            if changes.get("enabled"):
                after = replace(after, disabled_reason="")
            if changes.get("enabled") or after.url != before.url:
                # It starts anew, also where it was on and failing.
                after = replace(after, failing_since=None)
            if after == before:
                return before
            after = replace(after, update_time=now, version=before.version + 1)
            await store.update_endpoint(connection, after)
            await self._record(connection, before, after)
        return after

    async def delete(self, organization_id: str, endpoint_id: str, *, etag: str) -> None:
        """Delete an endpoint; one that is deleted stays so.

        Raises:
            NotFound: the organization never had such an endpoint.
            StaleEtag: it has changed since the etag was read.
        """
        now = self._clock.now()
        async with self._homes.of(organization_id).raw_transaction() as connection:
            before = await store.find_endpoint(connection, organization_id, endpoint_id, lock=True)
            if before is None:
                raise _missing(endpoint_id)
            if before.delete_time is not None:
                return
            _check_etag(before, etag)
            after = replace(before, enabled=False, secret=None, previous_secret=None, delete_time=now, update_time=now)
            await store.update_endpoint(connection, after)
            await self._record(connection, before, after)

    async def rotate(
        self, organization_id: str, endpoint_id: str, *, overlap: timedelta, request_id: str
    ) -> WithSecret:
        """Give an endpoint a new secret; the old one signs, too, until the overlap is over.

        Raises:
            EventsNotSetUp: there is no key to encrypt the secret with.
            NotFound: the organization has no such endpoint.
            RequestIdReused: the request id was sent before with another body.
        """
        keys, now, secret = self._keys(), self._clock.now(), new_secret()
        body = {"endpoint_id": endpoint_id, "overlap": overlap.total_seconds()}
        request = request_of(organization_id, "RotateEventEndpointSecret", request_id, body)
        async with self._homes.of(organization_id).raw_transaction() as connection:
            earlier = await earlier_outcome(connection, request, now)
            before = _existing(
                await store.find_endpoint(connection, organization_id, endpoint_id, lock=True), endpoint_id
            )
            if earlier is not None:
                return WithSecret(before, "", True)
            after = replace(
                before,
                secret=keys.seal(secret, place_of_secret(endpoint_id)),
                previous_secret=before.secret if overlap else None,
                previous_secret_expire_time=now + overlap if overlap else None,
                update_time=now,
                version=before.version + 1,
            )
            await store.update_endpoint(connection, after)
            if request is not None:
                await store.keep_outcome(connection, request, endpoint_id)
            await self._record(connection, before, after, Changed("secret"))
        return WithSecret(after, secret_text(secret), False)

    async def note_failing(self, endpoint: Endpoint, *, failing: bool) -> None:
        """Note whether attempts fail at an endpoint, from now on or not any more."""
        since = self._clock.now() if failing else None
        async with self._homes.of(endpoint.organization_id).raw_connection() as connection:
            await store.note_failing(connection, endpoint, since)

    async def switch_off(self, endpoint: Endpoint, why: Off) -> None:
        """Switch an endpoint off, unless it has changed since it was read, and announce that."""
        now = self._clock.now()
        async with self._homes.of(endpoint.organization_id).raw_transaction() as connection:
            key = endpoint.organization_id, endpoint.endpoint_id
            before = await store.find_endpoint(connection, *key, lock=True)
            if before is None or not before.enabled or before.version != endpoint.version:
                return
            after = replace(before, enabled=False, disabled_reason=why.value, update_time=now)
            await store.update_endpoint(connection, after)
            data = {"endpoint_id": endpoint.endpoint_id, "reason": why.value, "description": endpoint.description}
            notice = NewEvent(endpoint.organization_id, OFF_TYPE, f"event_endpoint/{endpoint.endpoint_id}", data)
            await announce(connection, [notice], now)
            await self._record(connection, before, after)

    def _check_url(self, url: str) -> None:
        problem = url_problem(url, self._options.allowed, mails=self._mails)
        if problem is not None:
            raise InvalidArgument([FieldViolation("url", problem)])

    def _keys(self) -> SealingKeys:
        if self._options.keys is None:
            raise EventsNotSetUp
        return self._options.keys

    async def _record(
        self, connection: RawConnection, before: Endpoint | None, after: Endpoint, *also: Changed
    ) -> None:
        old, new = _audited(before), _audited(after)
        names = [name for name, value in new.items() if old.get(name) != value]
        await record_event(
            connection,
            now=after.update_time,
            organization_id=after.organization_id,
            resource_type="event_endpoint",
            resource_id=after.endpoint_id,
            changed=[*(Changed(name, old.get(name), new[name]) for name in names), *also],
        )


def _audited(endpoint: Endpoint | None) -> Mapping[str, str | None]:
    """Return what the audit trail has of an endpoint: of its address the host alone, since the rest may be secret."""
    if endpoint is None:
        return {}
    return {
        "url": _host_of(endpoint.url),
        "types": ", ".join(endpoint.types),
        "description": endpoint.description,
        "enabled": str(endpoint.enabled).lower(),
        "disabled_reason": endpoint.disabled_reason,
        "delete_time": None if endpoint.delete_time is None else endpoint.delete_time.isoformat(),
    }


def _host_of(url: str) -> str:
    scheme, _, rest = url.partition(":")
    return f"{scheme}:{'/'.join(rest.split('/')[:3])}".partition("?")[0] if rest.startswith("//") else scheme


def _check_etag(endpoint: Endpoint, etag: str) -> None:
    if etag and etag != endpoint.etag:
        raise StaleEtag(resource_type="event_endpoint")


def _existing(endpoint: Endpoint | None, endpoint_id: str) -> Endpoint:
    if endpoint is None or endpoint.delete_time is not None:
        raise _missing(endpoint_id)
    return endpoint


def _missing(endpoint_id: str) -> NotFound:
    return NotFound(resource_type="event_endpoint", resource_name=endpoint_id)


def updatable(paths: Collection[str]) -> list[FieldViolation]:
    """Return what is wrong with an update mask of an endpoint."""
    return mask_violations(paths, ("url", "types", "description", "enabled"))
