"""Structured logs: one JSON object a line on standard error, with the trace id and without secrets."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from opentelemetry import trace

_HIDDEN: Final = "[hidden]"
# What credentials look like, in any field or message: bearer tokens, JWTs, our keys and tokens, URL passwords.
_SECRETS: Final = re.compile(
    r"(?i:bearer)\s+[\w.~+/=-]+|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|\bth_[a-z]+_\w{12,}|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"
)

Event = MutableMapping[str, Any]  # structlog's own type for an event: values are whatever the call site logs.


def redact(text: str) -> str:
    """Return the text with everything that looks like a credential hidden."""
    return _SECRETS.sub(_HIDDEN, text)


def _redact_event(_logger: object, _method: str, event: Event) -> Event:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


def _add_trace_id(_logger: object, _method: str, event: Event) -> Event:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
    return event


def configure_logs(context: str, level: str) -> None:
    """Send this process's logs, and those of its libraries, to standard error as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        _redact_event,
        structlog.processors.JSONRenderer(),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=context)
