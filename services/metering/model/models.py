"""The use cases of the catalogue. Access is checked by the pipeline before they are called."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.audit.recording import PLATFORM, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import InvalidArgument, NotFound, StaleEtag
from libs.common.ids import MAX, new_id
from libs.common.repeats.once import Repeatable
from libs.common.shards import Shards
from services.metering.errors import ModelExists, PriceUnknown, PriceVersionExists, ProviderCostUnknown
from services.metering.model import store
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import (
    Model,
    PriceVersion,
    Rated,
    Tokens,
    all_quantities,
    model_changes,
    part_at,
    price_changes,
    refusal_of_cost,
)
from services.metering.model.rates import Priced, RateCard, Unpriced, price
from services.metering.model.repeats import once
from services.metering.model.units import Quantities, Units


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of some usage that is not recorded."""

    version: PriceVersion
    priced: Priced
    total_tokens: int
    hours: str
    """The name of the card's hours in which it is priced."""
    wall_clock: datetime | None
    """The time in the zone of the card's hours; None for a card without hours."""


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A price that is to be set."""

    model_id: str
    organization_id: str | None
    effective_time: datetime | None
    """Now, where it is None."""
    base_version_id: str
    """The version on whose provider costs a margin is put; empty where there is none."""
    read_card: Callable[[Units, RateCard | None], RateCard]
    """Returns the card, given all units and the card of the base version; raises InvalidArgument."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose cost is asked for."""

    model_id: str
    organization_id: str
    tokens: Tokens
    quantities: Quantities
    """Beside the tokens."""
    total_tokens: int
    service_tier: str


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
        self, price: NewPrice, repeatable: Repeatable, render: Callable[[PriceVersion], bytes]
    ) -> tuple[bytes, bool]:
        """Add a price version; return the rendered response, and whether it is a replay.

        A price for all organizations that is in force, or will be, is kept by later imports.
        """

        async def add(connection: Transaction) -> bytes:
            revision, now = await store.take_next_revision(connection), self._clock.now()
            card = await _card(connection, price)
            model = await store.find_model(connection, price.model_id)
            if model is None:
                raise NotFound(resource_type="model", resource_name=price.model_id)
            version = PriceVersion(
                price_version_id=new_id(),
                model_id=price.model_id,
                organization_id=price.organization_id,
                card=card,
                effective_time=price.effective_time or now,
                create_time=now,
                source="SetPrice",
            )
            if not await store.add_price_versions(connection, [version], revision):
                raise PriceVersionExists(model_id=price.model_id, effective_time=version.effective_time)
            await record_event(
                connection,
                now=now,
                organization_id=price.organization_id or PLATFORM,
                resource_type="price_version",
                resource_id=version.price_version_id,
                changed=price_changes(version),
            )
            if await _keeps_model(connection, model, version):
                kept = replace(model, price_set_by_hand=True, revision=revision, update_time=now)
                await store.replace_model(connection, kept)
                await _record_model(connection, model, kept)
            return render(version)

        home = self._shards.of(price.organization_id) if price.organization_id else self._database
        return await self._once(repeatable, add, home)

    async def check_price(self, price: NewPrice) -> RateCard:
        """Return the card that `set_price` would add, or raise what it would raise; change nothing."""
        async with self._database.transaction() as connection:
            card = await _card(connection, price)
            if await store.find_model(connection, price.model_id) is None:
                raise NotFound(resource_type="model", resource_name=price.model_id)
            if price.effective_time is None:
                return card
            latest = await store.list_price_versions(
                connection,
                model_id=price.model_id,
                organization_id=price.organization_id,
                before=(price.effective_time, MAX),
                limit=1,
            )
            if latest and latest[0].effective_time == price.effective_time:
                raise PriceVersionExists(model_id=price.model_id, effective_time=price.effective_time)
        return card

    async def get(self, model_id: str) -> Model:
        async with self._database.transaction() as connection:
            model = await store.find_model(connection, model_id)
        if model is None:
            raise NotFound(resource_type="model", resource_name=model_id)
        return model

    async def list_models(
        self, *, after: str, provider: str, capabilities: Sequence[str], active_only: bool, limit: int
    ) -> Sequence[Model]:
        async with self._database.transaction() as connection:
            return await store.list_models(
                connection,
                after=after,
                provider=provider,
                capabilities=capabilities,
                active_only=active_only,
                limit=limit,
            )

    async def list_prices(
        self, *, model_id: str, organization_id: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[PriceVersion]:
        async with self._database.transaction() as connection:
            return await store.list_price_versions(
                connection, model_id=model_id, organization_id=organization_id, before=before, limit=limit
            )

    @property
    def units(self) -> Units:
        """All units by their ids, as this process knows them."""
        return self._catalogue.units

    async def estimate(self, read_call: Callable[[Units], Call], occur_time: datetime | None) -> Estimate:
        """Price a call; `read_call` returns it, given all units.

        Raises:
            InvalidArgument: what was used is wrong.
            NotFound: the model is not in the catalogue.
            PriceUnknown: it has no price in force at that time, or none for a unit that was used.
            CostTooLarge: it would cost more than an amount can be.
        """
        await self._catalogue.refresh()
        moment = occur_time or self._clock.now()
        try:
            return self._estimate(read_call(self.units), moment)
        except (InvalidArgument, NotFound, PriceUnknown):
            await self._catalogue.refresh_for_unknown()
        return self._estimate(read_call(self.units), moment)

    def _estimate(self, call: Call, moment: datetime) -> Estimate:
        version = self._catalogue.price(call.model_id, call.organization_id, moment)
        if self._catalogue.model(call.model_id) is None:
            raise NotFound(resource_type="model", resource_name=call.model_id)
        if version is None:
            raise PriceUnknown(model_id=call.model_id, occur_time=moment)
        part = part_at(version, moment)
        if part is None:
            raise PriceUnknown(model_id=call.model_id, occur_time=moment)
        hours, in_force = part
        used = all_quantities(in_force.card, call.tokens, call.quantities)
        priced = price(in_force.card, used, call.service_tier, self.units)
        if isinstance(priced, Unpriced):
            raise PriceUnknown(
                model_id=call.model_id, occur_time=moment, unit=priced.unit_id, service_tier=priced.service_tier
            )
        too_large = refusal_of_cost(Rated(priced.amount_nanos, priced.provider_cost_nanos), version.card)
        if too_large is not None:
            raise too_large
        schedule = version.card.schedule
        wall_clock = None if schedule is None else moment.astimezone(schedule.zone)
        return Estimate(version, priced, call.total_tokens, hours, wall_clock)

    async def _once(
        self, repeatable: Repeatable, work: Callable[[Transaction], Awaitable[bytes]], home: Database | None = None
    ) -> tuple[bytes, bool]:
        return await once(home or self._database, self._catalogue, self._clock, repeatable, work)


async def _card(connection: Transaction, price: NewPrice) -> RateCard:
    """Return the card of a price, read with all units as they are in the database."""
    units = {unit.unit_id: unit for unit in await store.units_since(connection, -1)}
    if not price.base_version_id:
        return price.read_card(units, None)
    base = await store.find_price_version(connection, price.base_version_id)
    if base is None:
        raise NotFound(resource_type="price_version", resource_name=price.base_version_id)
    without = dict.fromkeys(rate.unit_id for rate in base.card.rates if rate.provider_cost is None)
    if without:
        raise ProviderCostUnknown(price_version_id=price.base_version_id, units=_listed(list(without)))
    return price.read_card(units, base.card)


def _listed(names: Sequence[str], shown_max: int = 8) -> str:
    more = [f"{len(names) - shown_max} more"] if len(names) > shown_max else []
    return ", ".join([*names[:shown_max], *more])


async def _keeps_model(connection: Transaction, model: Model, version: PriceVersion) -> bool:
    """Whether imports are to leave the model's price as it is from now on, which they did not before."""
    if version.organization_id is not None or model.price_set_by_hand:
        return False
    moment = max(version.create_time, version.effective_time)
    newest = (await store.prices_in_force(connection, [version.model_id], moment))[version.model_id]
    return newest.price_version_id == version.price_version_id


async def _record_model(connection: Transaction, before: Model | None, after: Model) -> None:
    await record_event(
        connection,
        now=after.update_time,
        organization_id=PLATFORM,
        resource_type="model",
        resource_id=after.model_id,
        changed=model_changes(before, after),
    )
