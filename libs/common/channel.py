"""Channels to peers: credentials, deadline and trace context are added to every call, and safe calls are retried."""

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import grpc
import structlog

from libs.common.authentication import TokenSource
from libs.common.deadline import leave_deadline, time_for_peer_s
from libs.common.telemetry import TRACEPARENT, outbound_traceparent

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_log = structlog.get_logger("channel")
_STREAM_AGAIN_AFTER_S: Final = 0.2
_STREAM_AGAIN_AFTER_MAX_S: Final = 5.0
_RECEIVE_MAX_BYTES: Final = 4 * 1024 * 1024

# Every RPC of ours is either a read or carries an id that makes it safe to send again, so all may be retried.
# UNAVAILABLE says that waiting helps (AIP-194); CANCELLED, from a server, is a call that a closing or overrun transport
# dropped. Amplification is capped by the throttle.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files for mutual TLS towards a peer."""

    certificate_file: Path
    key_file: Path
    server_ca_file: Path


def open_channel(
    target: str,
    *,
    caller: TokenSource,
    audience: str,
    longest_call_s: float = 5.0,
    tls: ClientTls | None = None,
) -> grpc.aio.Channel:
    """Open a channel on which this process calls a peer in its own name.

    A call ends when the call being handled would, and after `longest_call_s` at the latest; streams from the peer may
    last. Connecting happens on first use, so that services start in any order.
    """
    options = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_receive_message_length", _RECEIVE_MAX_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        # A peer that has started again is called again after at most half a second.
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    outbound = _Outbound(caller, audience, longest_call_s)
    interceptors = [_UnaryUnary(outbound), _UnaryStream(outbound)]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.server_ca_file.read_bytes(),
        private_key=tls.key_file.read_bytes(),
        certificate_chain=tls.certificate_file.read_bytes(),
    )
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)


async def follow_stream(
    open_stream: Callable[[], AsyncIterable[_Response]], take: Callable[[_Response], None], about: str
) -> NoReturn:
    """Take every message of a peer's stream until cancelled, and open the next one when it has ended.

    `open_stream` asks to go on after the last message that was taken. After a stream that broke, or that ended at once,
    the next one is opened after a delay, which grows to 5 s until a message comes. `about` names it in the log.
    """
    leave_deadline()
    delay_s = _STREAM_AGAIN_AFTER_S
    while True:
        opened_s = time.monotonic()
        try:
            async for message in open_stream():
                take(message)
                delay_s = _STREAM_AGAIN_AFTER_S
            if time.monotonic() >= opened_s + _STREAM_AGAIN_AFTER_S:
                continue  # The peer ends every stream after some minutes.
        except grpc.aio.AioRpcError as error:
            _log.warning(f"the stream of {about} broke", code=error.code().name, again_in_s=delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _STREAM_AGAIN_AFTER_MAX_S)


@dataclass(frozen=True, slots=True)
class _Outbound:
    caller: TokenSource
    audience: str
    longest_call_s: float

    def details(self, details: grpc.aio.ClientCallDetails, longest_s: float | None) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self.caller.token_for(self.audience)}")
        traceparent = outbound_traceparent()
        if traceparent:
            metadata.add(TRACEPARENT, traceparent)
        timeout_s = (
            details.timeout if longest_s is None else time_for_peer_s(min(details.timeout or longest_s, longest_s))
        )
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=timeout_s,
            metadata=metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, outbound: _Outbound) -> None:
        self._outbound = outbound

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryUnaryCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> grpc.aio.UnaryUnaryCall[_Request, _Response] | _Response:
        return await continuation(self._outbound.details(client_call_details, self._outbound.longest_call_s), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, outbound: _Outbound) -> None:
        self._outbound = outbound

    async def intercept_unary_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryStreamCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> AsyncIterator[_Response] | grpc.aio.UnaryStreamCall[_Request, _Response]:
        return await continuation(self._outbound.details(client_call_details, None), request)
