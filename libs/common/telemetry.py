"""Traces and metrics through OpenTelemetry; off, at no cost, unless an OTLP endpoint is set."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

TRACEPARENT: Final = "traceparent"

# The trace context a call came with, passed on as it is while this process makes no spans of its own.
_inbound: ContextVar[str] = ContextVar("inbound_traceparent", default="")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The tracer and the call-duration histogram of one process."""

    tracer: trace.Tracer
    call_duration: Histogram
    tracer_provider: "TracerProvider"
    meter_provider: "MeterProvider"

    def shutdown(self) -> None:
        """Export what is still buffered, and stop."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def start_telemetry(service_name: str, endpoint: str | None) -> Telemetry | None:
    """Export traces and metrics to the OTLP/gRPC endpoint, or return None where there is none.

    The sampler is the SDK's own: `OTEL_TRACES_SAMPLER` sets it, and by default a caller's decision is kept.
    """
    if not endpoint:
        return None
    # The SDK is imported here, since it takes longer to import than a command of `tollhouse` takes to run.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    insecure = not endpoint.startswith("https://")
    resource = Resource.create({"service.name": service_name})
    tracer_provider = TracerProvider(resource=resource)
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=insecure)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint, insecure=insecure))
    meter_provider = MeterProvider(resource=resource, metric_readers=[reader])
    histogram = meter_provider.get_meter("tollhouse").create_histogram(
        "rpc.server.call.duration", unit="s", description="Time from a call's arrival to its answer."
    )
    return Telemetry(tracer_provider.get_tracer("tollhouse"), histogram, tracer_provider, meter_provider)


def start_process_telemetry(service_name: str, endpoint: str | None) -> Telemetry | None:
    """Start telemetry and make its providers the process's own, so that library instruments report too."""
    telemetry = start_telemetry(service_name, endpoint)
    if telemetry is not None:
        trace.set_tracer_provider(telemetry.tracer_provider)
        metrics.set_meter_provider(telemetry.meter_provider)
    return telemetry


def inbound_context(traceparent: str) -> Context | None:
    """Remember the trace context a call came with, and return it for a span of our own."""
    if not traceparent:
        return None
    _inbound.set(traceparent)
    return propagate.extract({TRACEPARENT: traceparent})


def remember_inbound(traceparent: str) -> None:
    """Remember the trace context a call came with, to be passed on unread."""
    _inbound.set(traceparent)


def outbound_traceparent() -> str:
    """Return the trace context to send to a peer: our span's where there is one, else the caller's; may be empty."""
    if trace.get_current_span().get_span_context().is_valid:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier.get(TRACEPARENT, "")
    return _inbound.get()
