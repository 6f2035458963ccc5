"""Stale answers are counted, and each period of stale answers is logged once."""

import logging

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from libs.common.staleness import METRIC, StaleAnswers


def _counted(reader: InMemoryMetricReader) -> int:
    data = reader.get_metrics_data()
    points = [
        point
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == METRIC
        for point in metric.data.data_points
    ]
    return sum(int(getattr(point, "value", 0)) for point in points)


def test_every_stale_answer_is_counted_and_each_stale_period_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    reader = InMemoryMetricReader()
    answers = StaleAnswers("database", MeterProvider(metric_readers=[reader]).get_meter("test"))

    with caplog.at_level(logging.WARNING):
        answers.note_fresh()
        for _ in range(3):
            answers.note_stale()
        answers.note_fresh()
        answers.note_fresh()
        answers.note_stale()

    assert _counted(reader) == answers.count == 4
    assert [record.getMessage().count("beyond their time") for record in caplog.records].count(1) == 2
    assert [record.getMessage().count("fresh again") for record in caplog.records].count(1) == 1
