"""Asks metering what charges were for, and at which rates."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import grpc

from libs.common.errors import Unavailable
from libs.common.timestamps import parse_time, render_time
from tollhouse.metering.v1 import charge_pb2, charge_pb2_grpc, model_pb2, model_pb2_grpc

_ASK_WITHIN_S: Final = 10.0
_PRICE_PAGES_MAX: Final = 20
_VERSIONS_KNOWN_MAX: Final = 10_000


class ChargedUsage(NamedTuple):
    """The usage behind a charge; of a part of a call nothing is told but the time."""

    occur_time: datetime
    model: str
    service_tier: str
    price_version_id: str
    quantities: Mapping[str, Decimal]


class UsedQuantity(NamedTuple):
    """How much of a unit was used."""

    quantity: Decimal
    priced_models: tuple[str, ...]
    """Models that ask for a price for the unit by themselves."""
    dropped_months: tuple[str, ...] = ()
    """Months of which usage was dropped that is lacking."""


class WantedQuantity(NamedTuple):
    """Which usage is asked for."""

    organization_id: str
    subscription_id: str
    with_unsubscribed: bool
    unit: str
    models: tuple[str, ...]
    start: datetime
    end: datetime


Rates = Mapping[tuple[str, str], tuple[str, ...]]
"""The rates of a price version, by service tier and unit."""


class Usages:
    """Says what charges were for. Rates never change, so they are remembered."""

    def __init__(self, metering: grpc.aio.Channel) -> None:
        self._charges: charge_pb2_grpc.ChargeServiceStub = charge_pb2_grpc.ChargeServiceStub(metering)
        self._models: model_pb2_grpc.ModelServiceStub = model_pb2_grpc.ModelServiceStub(metering)
        self._rates: dict[str, Rates] = {}

    async def of_charges(self, organization_id: str, operation_ids: Sequence[str]) -> dict[str, ChargedUsage]:
        """Return the usage behind at most 1,000 charges, by operation; those that metering does not know are left out.

        Raises:
            Unavailable: metering cannot be asked.
        """
        request = charge_pb2.ListChargesRequest(
            organization_id=organization_id, operation_ids=operation_ids, page_size=10_000, with_usage=True
        )
        found: dict[str, ChargedUsage] = {}
        try:
            while True:
                page = await self._charges.ListCharges(request, timeout=_ASK_WITHIN_S, wait_for_ready=True)
                found |= {charge.operation_id: _usage(charge) for charge in page.charges}
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token
        except grpc.aio.AioRpcError as error:
            raise Unavailable(dependency="metering") from error

    async def quantity(self, wanted: WantedQuantity) -> UsedQuantity:
        """Return how much of a unit was used.

        Raises:
            Unavailable: metering cannot be asked.
        """
        request = charge_pb2.GetUsedQuantityRequest(
            organization_id=wanted.organization_id,
            subscription_id=wanted.subscription_id,
            with_unsubscribed=wanted.with_unsubscribed,
            unit=wanted.unit,
            models=wanted.models,
            start_time=render_time(wanted.start),
            end_time=render_time(wanted.end),
        )
        try:
            found = await self._charges.GetUsedQuantity(request, timeout=_ASK_WITHIN_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(dependency="metering") from error
        return UsedQuantity(Decimal(found.quantity), tuple(found.priced_models), tuple(found.dropped_months))

    async def rates(self, organization_id: str, model: str, price_version_id: str) -> Rates:
        """Return the rates of a price version; none of one that is not among the latest 20,000 of the model.

        Raises:
            Unavailable: metering cannot be asked.
        """
        if price_version_id not in self._rates:
            try:
                await self._read_rates(organization_id, model, price_version_id)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise Unavailable(dependency="metering") from error
        return self._rates.get(price_version_id, {})

    async def _read_rates(self, organization_id: str, model: str, price_version_id: str) -> None:
        for owner in ("", organization_id):
            request = model_pb2.ListPricesRequest(model_id=model, organization_id=owner, page_size=1_000)
            for _ in range(_PRICE_PAGES_MAX):
                page = await self._models.ListPrices(request, timeout=_ASK_WITHIN_S, wait_for_ready=True)
                for version in page.price_versions:
                    self._rates[version.price_version_id] = _rates(version)
                while len(self._rates) > _VERSIONS_KNOWN_MAX:
                    del self._rates[next(iter(self._rates))]
                if price_version_id in self._rates:
                    return
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token


def _usage(charge: charge_pb2.Charge) -> ChargedUsage:
    usage = charge.usage
    return ChargedUsage(
        parse_time("occur_time", charge.occur_time, []),
        usage.model,
        usage.service_tier,
        usage.price_version_id,
        {one.unit: Decimal(one.value) for one in usage.quantities},
    )


def _rates(version: model_pb2.PriceVersion) -> Rates:
    rates: dict[tuple[str, str], tuple[str, ...]] = {}
    for rate in version.rate_card.rates:
        key = rate.service_tier or "standard", rate.unit
        rates[key] = (*rates.get(key, ()), _rate_text(rate, version.rate_card.factor))
    return _with_fallbacks(rates, {one.unit: one.priced_as for one in version.rate_card.fallbacks})


def _with_fallbacks(rates: dict[tuple[str, str], tuple[str, ...]], fallbacks: Mapping[str, str]) -> Rates:
    """Add the rates of units that are priced as others, which may be priced as others again."""
    tiers = {tier for tier, _ in rates}
    for unit in fallbacks:
        for tier in tiers:
            priced_as = unit
            for _ in fallbacks:
                if (tier, priced_as) in rates or priced_as not in fallbacks:
                    break
                priced_as = fallbacks[priced_as]
            if (tier, priced_as) in rates:
                rates.setdefault((tier, unit), rates[tier, priced_as])
    return rates


def _rate_text(rate: model_pb2.Rate, factor: str) -> str:
    text = f"{rate.price} per {rate.per or 1}"
    if rate.above:
        text += f" above {rate.above}"
    if rate.hours:
        text += f" in hours {rate.hours}"
    return text if factor in ("", "1") else f"{text}, times {factor}"
