"""What limits in shadow mode would have refused is counted in one metric, whoever asks."""

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from services.metering.quota.counters import SHADOW_METRIC
from services.metering.quota.domain import Enforcement
from tests.metering.allocations.support import ADJUST_ONLY, CHECK_ONLY, Limits, allocate
from tests.metering.rate_limit.support import OK, OVER_LIMIT, ask, descriptor
from tests.metering.support import Metering


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """What the services of the test count. It comes before them."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(metrics, "get_meter", MeterProvider(metric_readers=[reader]).get_meter)
    return reader


def counted(reader: InMemoryMetricReader) -> dict[object, int | float]:
    data = reader.get_metrics_data()
    return {
        (point.attributes or {}).get("metric"): point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == SHADOW_METRIC
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    }


async def test_should_rate_limit_and_allocate_quota_count_what_shadow_limits_would_have_refused(
    reader: InMemoryMetricReader, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "2", name="shadow", enforcement=Enforcement.SHADOW)
    await limits.set(organization_id, "5", name="hard")
    await limits.set(organization_id, "0", "items", name="items", enforcement=Enforcement.SHADOW)

    answers = [await ask(metering, descriptor(organization_id)) for _ in range(3)]
    assert [answer.overall_code for answer in answers] == [OK] * 3
    assert counted(reader) == {"requests": 1}

    for _ in range(2):
        await allocate(metering, organization_id, {"requests": "1", "items": "1"}, "once")
    assert counted(reader) == {"requests": 2, "items": 1}
    await allocate(metering, organization_id, {"requests": "1"}, mode=CHECK_ONLY)
    await allocate(metering, organization_id, {"requests": "1"}, mode=ADJUST_ONLY)
    # What a hard limit refuses is not counted as what a shadow limit would have refused.
    assert (await ask(metering, descriptor(organization_id, 3))).overall_code == OVER_LIMIT
    assert counted(reader) == {"requests": 2, "items": 1}
