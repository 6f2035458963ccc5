"""The use cases of the catalogue. Access is checked by the pipeline before they are called."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.audit.recording import PLATFORM, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.errors import ModelExists, PriceUnknown, PriceVersionExists
from services.metering.model import store
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import (
    Model,
    PriceVersion,
    Tokens,
    all_quantities,
    model_changes,
    price_changes,
)
from services.metering.model.rates import STANDARD_TIER, Priced, RateCard, Unpriced, price
from services.metering.model.repeats import Repeatable, once


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of some usage that is not recorded."""

    version: PriceVersion
    priced: Priced


class Models:
    """Changes and reads the catalogue."""

    def __init__(self, database: Database, shards: Shards, catalogue: Catalogue, clock: Clock) -> None:
        """`database` has the catalogue. An organization's own price is audited in its shard, in one transaction."""
        self._database = database
        self._shards = shards
        self._catalogue = catalogue
        self._clock = clock

    async def create(
        self, model: Model, repeatable: Repeatable, render: Callable[[Model], bytes]
    ) -> tuple[bytes, bool]:
        """Add a model; return the rendered response, and whether it is a replay."""

        async def add(connection: Transaction) -> bytes:
            revision, now = await store.take_next_revision(connection), self._clock.now()
            new = replace(model, revision=revision, create_time=now, update_time=now)
            if not await store.add_models(connection, [new]):
                raise ModelExists(model_id=model.model_id)
            await _record_model(connection, None, new)
            return render(new)

        return await self._once(repeatable, add)

    async def update(
        self,
        model_id: str,
        changes: Mapping[str, object],
        etag: str,
        repeatable: Repeatable,
        render: Callable[[Model], bytes],
    ) -> tuple[bytes, bool]:
        """Change some fields of a model; return the rendered response, and whether it is a replay."""

        async def change(connection: Transaction) -> bytes:
            revision = await store.take_next_revision(connection)
            model = await store.find_model(connection, model_id, lock=True)
            if model is None:
                raise NotFound(resource_type="model", resource_name=model_id)
            if etag and etag != str(model.revision):
                raise StaleEtag(resource_type="model")
            changed = replace(model, **changes, revision=revision, update_time=self._clock.now())  # type: ignore[arg-type]
            await store.replace_model(connection, changed)
            await _record_model(connection, model, changed)
            return render(changed)

        return await self._once(repeatable, change)

    async def set_price(
        self,
        *,
        model_id: str,
        organization_id: str | None,
        card: RateCard,
        effective_time: datetime | None,
        repeatable: Repeatable,
        render: Callable[[PriceVersion], bytes],
    ) -> tuple[bytes, bool]:
        """Add a price version; return the rendered response, and whether it is a replay."""

        async def add(connection: Transaction) -> bytes:
            version = self._new_version(
                model_id, organization_id, card, effective_time or self._clock.now(), "SetPrice"
            )
            revision = await store.take_next_revision(connection)
            if await store.find_model(connection, model_id) is None:
                raise NotFound(resource_type="model", resource_name=model_id)
            if not await store.add_price_versions(connection, [version], revision):
                raise PriceVersionExists(model_id=model_id, effective_time=version.effective_time)
            await record_event(
                connection,
                now=version.create_time,
                organization_id=organization_id or PLATFORM,
                resource_type="price_version",
                resource_id=version.price_version_id,
                changed=price_changes(version),
            )
            return render(version)

        home = self._shards.of(organization_id) if organization_id else self._database
        return await self._once(repeatable, add, home)

    async def check_price(self, model_id: str, organization_id: str | None, effective_time: datetime | None) -> None:
        """Raise what `set_price` would raise, and change nothing."""
        async with self._database.transaction() as connection:
            if await store.find_model(connection, model_id) is None:
                raise NotFound(resource_type="model", resource_name=model_id)
            if effective_time is None:
                return
            latest = await store.list_price_versions(
                connection,
                model_id=model_id,
                organization_id=organization_id,
                before=(effective_time, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
                limit=1,
            )
            if latest and latest[0].effective_time == effective_time:
                raise PriceVersionExists(model_id=model_id, effective_time=effective_time)

    async def get(self, model_id: str) -> Model:
        async with self._database.transaction() as connection:
            model = await store.find_model(connection, model_id)
        if model is None:
            raise NotFound(resource_type="model", resource_name=model_id)
        return model

    async def list_models(self, *, after: str, provider: str, active_only: bool, limit: int) -> Sequence[Model]:
        async with self._database.transaction() as connection:
            return await store.list_models(
                connection, after=after, provider=provider, active_only=active_only, limit=limit
            )

    async def list_prices(
        self, *, model_id: str, organization_id: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[PriceVersion]:
        async with self._database.transaction() as connection:
            return await store.list_price_versions(
                connection, model_id=model_id, organization_id=organization_id, before=before, limit=limit
            )

    async def estimate(
        self, *, model_id: str, organization_id: str, tokens: Tokens, occur_time: datetime | None
    ) -> Estimate:
        """Price some usage.

        Raises:
            NotFound: the model is not in the catalogue.
            PriceUnknown: it has no price in force at that time.
        """
        await self._catalogue.refresh()
        moment = occur_time or self._clock.now()
        version = self._catalogue.price(model_id, organization_id, moment)
        if version is None:
            await self._catalogue.refresh_for_unknown()
            version = self._catalogue.price(model_id, organization_id, moment)
        if self._catalogue.model(model_id) is None:
            raise NotFound(resource_type="model", resource_name=model_id)
        if version is None:
            raise PriceUnknown(model_id=model_id, occur_time=moment)
        used = all_quantities(version.card, tokens, {})
        priced = price(version.card, used, STANDARD_TIER, self._catalogue.units)
        if isinstance(priced, Unpriced):
            raise PriceUnknown(model_id=model_id, occur_time=moment)
        return Estimate(version, priced)

    def _new_version(
        self, model_id: str, organization_id: str | None, card: RateCard, effective_time: datetime, source: str
    ) -> PriceVersion:
        return PriceVersion(
            price_version_id=new_id(),
            model_id=model_id,
            organization_id=organization_id,
            card=card,
            effective_time=effective_time,
            create_time=self._clock.now(),
            source=source,
        )

    async def _once(
        self, repeatable: Repeatable, work: Callable[[Transaction], Awaitable[bytes]], home: Database | None = None
    ) -> tuple[bytes, bool]:
        return await once(home or self._database, self._catalogue, self._clock, repeatable, work)


async def _record_model(connection: Transaction, before: Model | None, after: Model) -> None:
    await record_event(
        connection,
        now=after.update_time,
        organization_id=PLATFORM,
        resource_type="model",
        resource_id=after.model_id,
        changed=model_changes(before, after),
    )
