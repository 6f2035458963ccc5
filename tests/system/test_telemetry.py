"""Telemetry of the services: traces that span several services, and logs without secrets."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.traces.population import import_missing_models, make_population
from libs.common.ports import free_port
from tests.support.secrecy import WATCH
from tests.system.installation import Installation, running, until
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc
from tollhouse.metering.v1 import admission_pb2, admission_pb2_grpc, usage_pb2, usage_pb2_grpc

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = (("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01"),)
EXPORTED_WITHIN_S = 20
SECRETS = re.compile(r"th_(live|test)_\w{12,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|BEGIN [A-Z ]*PRIVATE KEY")


class Spans(trace_service_pb2_grpc.TraceServiceServicer):
    """Records for each trace which services sent spans of it."""

    def __init__(self) -> None:
        self.services_by_trace: dict[str, set[str]] = {}

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        WATCH.scan("the spans", str(request))
        for sent in request.resource_spans:
            names = {one.value.string_value for one in sent.resource.attributes if one.key == "service.name"}
            for scope in sent.scope_spans:
                for span in scope.spans:
                    self.services_by_trace.setdefault(span.trace_id.hex(), set()).update(names)
        return trace_service_pb2.ExportTraceServiceResponse()


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Records the names of the metrics that were sent."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    async def Export(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.aio.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        WATCH.scan("the metrics", str(request))
        for sent in request.resource_metrics:
            self.names.update(metric.name for scope in sent.scope_metrics for metric in scope.metrics)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@asynccontextmanager
async def receiver(spans: Spans, metrics: Metrics) -> AsyncIterator[str]:
    """An OTLP endpoint."""
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(spans, server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(metrics, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(f"127.0.0.1:{free_port()}")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(1)


async def test_trace_crosses_from_metering_to_billing_and_identity(tmp_path: Path) -> None:
    spans, metrics = Spans(), Metrics()
    async with receiver(spans, metrics) as endpoint:
        environment = {f"TOLLHOUSE_{context.upper()}_OTLP_ENDPOINT": endpoint for context in CONTEXTS}
        environment |= {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
        async with running(Installation(tmp_path, environment=environment, prepared=True)) as installation:
            await _authorize_and_settle(installation)

            async def has_crossed() -> bool:
                return spans.services_by_trace.get(TRACE_ID, set()) >= {
                    "tollhouse-metering",
                    "tollhouse-billing",
                    "tollhouse-identity",
                }

            await until(has_crossed, EXPORTED_WITHIN_S, f"crossed, only {spans.services_by_trace.get(TRACE_ID)}")

            async def has_metrics() -> bool:
                return "rpc.server.call.duration" in metrics.names

            await until(has_metrics, EXPORTED_WITHIN_S, "metrics arrive")


async def _authorize_and_settle(installation: Installation) -> None:
    async with installation.connection().open() as channels:
        await import_missing_models(channels)
        population = await make_population(channels)
        seat = population.organizations[0].seats[0]
        stub = admission_pb2_grpc.AdmissionServiceStub(channels.metering)
        authorize = admission_pb2.AuthorizeRequest(
            operation_id="traced", api_key=seat.secret, model="gpt-4o", input_tokens=10, max_output_tokens=5
        )
        await stub.Authorize(authorize, metadata=TRACEPARENT)
        settle = admission_pb2.SettleRequest(
            operation_id="traced", organization_id=seat.organization_id, model="gpt-4o"
        )
        settle.tokens.input = 10
        await stub.Settle(settle, metadata=TRACEPARENT)


async def test_no_secret_appears_in_any_log(installation: Installation) -> None:
    """This includes calls that succeed, and calls with a secret in a field where none belongs."""
    ready = installation.ready()
    async with installation.connection().open() as channels:
        population = await make_population(channels)
        seat = population.organizations[0].seats[0]
        keys = api_key_pb2_grpc.ApiKeyServiceStub(channels.identity)
        created = await keys.CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(
                organization_id=seat.organization_id, user_id=seat.user_id, name="not to be seen"
            )
        )
        await keys.VerifyApiKey(api_key_pb2.VerifyApiKeyRequest(key=created.secret))
        usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
        token = str(ready["operator_token"])
        with pytest.raises(grpc.aio.AioRpcError):
            await keys.GetApiKey(api_key_pb2.GetApiKeyRequest(organization_id=created.secret, api_key_id=token))
        with pytest.raises(grpc.aio.AioRpcError):
            await usage.GetUsage(
                usage_pb2.GetUsageRequest(organization_id=seat.organization_id, operation_id=created.secret)
            )
        with pytest.raises(grpc.aio.AioRpcError):
            await usage.RecordUsage(usage_pb2.RecordUsageRequest(operation_id="x", model=created.secret))
    passwords = installation.data.passwords().values()
    for context in CONTEXTS:
        log = installation.log(context)
        assert '"event": "serving"' in log
        assert [found.group()[:12] for found in SECRETS.finditer(log)] == []
        assert [password for password in passwords if password in log] == []
    assert SECRETS.search(installation.output()) is None
