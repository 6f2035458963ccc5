"""Webhooks of a payment provider, a third of them sent again and all shuffled, until each is applied."""

import asyncio
import hashlib
import hmac
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs

import asyncpg
import grpc
from google.api import httpbody_pb2

from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure
from libs.common.ids import new_id
from libs.common.sharding import shard_schema
from tollhouse.billing.v1 import payment_pb2, payment_pb2_grpc
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

WEBHOOKS: Final = 10_000
_WANTED_PER_S: Final = 500
_ORGANIZATIONS: Final = 500
_EVENTS_OF_ONE: Final = 3
_SENT_AGAIN: Final = 3
"""One in so many events is sent a second time."""
_IN_FLIGHT: Final = 64
_OPENED_AT_ONCE: Final = 16
_LIMIT_S: Final = 600.0
_LOOK_EVERY_S: Final = 0.05
_SECRET: Final = "whsec_" + "of_the_benchmark"
_SET_PATH: Final = "SELECT set_config('search_path', $1, false)"
_LEFT: Final = "SELECT count(*) FROM billing.webhooks WHERE state <> 'APPLIED'"
_WRONG: Final = """
    SELECT count(*) FILTER (WHERE status <> 'PARTIALLY_REFUNDED' OR refunded_amount <> 3 OR amount <> 10),
        count(*), (SELECT coalesce(sum(posted), 0) FROM accounts WHERE currency_code = 'USD')
    FROM payments
"""


class _Stripe(BaseHTTPRequestHandler):
    """Opens checkouts, as Stripe's API does."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        checkout_id = form["client_reference_id"][0]
        url = f"https://checkout.stripe.com/{checkout_id}"
        session = {"id": f"cs_{checkout_id}", "url": url, "currency": "usd", "amount_subtotal": 1_000}
        body = json.dumps(session).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass(slots=True)
class Run:
    """One run of all webhooks."""

    duration_s: float = 0.0
    answered_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    cpu_us: dict[str, float] = field(default_factory=dict)


def measure_webhooks(webhooks: int, shards: int) -> Figure:
    """Sends the webhooks of checkouts that are paid and refunded in part, and waits until all are applied.

    Raises:
        LoadError: one was missed or applied twice, or a violation was found.
    """
    with _provider() as url:
        environment = {
            "TOLLHOUSE_BILLING_STRIPE_SECRET_KEY": "sk_of_the_benchmark",
            "TOLLHOUSE_BILLING_STRIPE_WEBHOOK_SECRETS": json.dumps([_SECRET]),
            "TOLLHOUSE_BILLING_STRIPE_URL": url,
        }
        with Deployment(shards, {"max_wal_size": "8GB"}, environment) as deployment:
            run = asyncio.run(_measure(deployment, webhooks))
    rate = webhooks / run.duration_s
    run.latencies_s.sort()
    return Figure(
        measured=f"{webhooks:,} webhooks, a third of the events sent again, shuffled: answered in "
        f"{run.answered_s:.1f} s, applied in {run.duration_s:.1f} s",
        against=f"{_WANTED_PER_S:,} a second",
        unit="webhooks",
        target=1,
        ratio=rate / _WANTED_PER_S,
        ratio_low=rate / _WANTED_PER_S,
        ratio_high=rate / _WANTED_PER_S,
        rate_per_s=rate,
        peer_rate_per_s=_WANTED_PER_S,
        p50_ms_at_1=run.latencies_s[len(run.latencies_s) // 2] * 1000,
        p99_ms_at_64=run.latencies_s[len(run.latencies_s) * 99 // 100] * 1000,
        cpu_us=run.cpu_us,
        peer_cpu_us={},
    )


@contextmanager
def _provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stripe)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


async def _measure(deployment: Deployment, webhooks: int) -> Run:
    metadata = (("authorization", f"Bearer {deployment.token}"),)
    async with grpc.aio.insecure_channel(deployment.service("billing")) as channel:
        stub = payment_pb2_grpc.PaymentServiceStub(channel)
        checkouts = webhooks * _SENT_AGAIN // ((_SENT_AGAIN + 1) * _EVENTS_OF_ONE)
        opened = await _open_checkouts(stub, metadata, checkouts)
        bodies = [json.dumps(event).encode() for checkout in opened for event in _events(checkout)]
        bodies += bodies[::_SENT_AGAIN]
        # What is missing through rounding is sent once more.
        bodies += bodies[: webhooks - len(bodies)]
        random.Random(1).shuffle(bodies)
        run = await _send(deployment, stub, bodies)
        await _check(deployment, channel, metadata, checkouts)
    return run


async def _open_checkouts(
    stub: payment_pb2_grpc.PaymentServiceStub, metadata: tuple[tuple[str, str], ...], count: int
) -> list[str]:
    organizations = [new_id() for _ in range(_ORGANIZATIONS)]
    turns = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def open_one(number: int) -> str:
        request = payment_pb2.CreateCheckoutRequest(
            organization_id=organizations[number % _ORGANIZATIONS],
            request_id=f"checkout-{number}",
            provider="stripe",
            top_up_amount=Amount(currency_code="USD", value="10"),
            success_url="https://app.example.com/done",
            cancel_url="https://app.example.com/back",
        )
        async with turns:
            answer = await stub.CreateCheckout(request, metadata=metadata, timeout=_LIMIT_S)
        return answer.payment.payment_id

    return await asyncio.gather(*map(open_one, range(count)))


def _events(checkout_id: str) -> Iterator[dict[str, object]]:
    """Return what Stripe sends for a checkout that is paid, and then refunded in part."""
    created = int(time.time())
    of = {"livemode": True, "currency": "usd", "customer": "cus_1", "metadata": {"checkout_id": checkout_id}}
    intent, charge = f"pi_{checkout_id}", f"ch_{checkout_id}"
    session = {
        "id": f"cs_{checkout_id}",
        "mode": "payment",
        "client_reference_id": checkout_id,
        "payment_status": "paid",
        "payment_intent": intent,
        "amount_subtotal": 1_000,
    }
    paid = {"id": intent, "status": "succeeded", "amount": 1_000, "latest_charge": charge}
    refunded = {
        "id": charge,
        "status": "succeeded",
        "amount": 1_000,
        "amount_refunded": 300,
        "payment_intent": intent,
    }
    kinds = {"payment_intent.succeeded": paid, "checkout.session.completed": session, "charge.refunded": refunded}
    for number, (kind, what) in enumerate(kinds.items()):
        yield {
            "id": f"evt_{number}_{checkout_id}",
            "object": "event",
            "type": kind,
            "created": created + number,
            "livemode": True,
            "data": {"object": {**of, **what}},
        }


async def _send(deployment: Deployment, stub: payment_pb2_grpc.PaymentServiceStub, bodies: list[bytes]) -> Run:
    run, before = Run(), deployment.cpu_seconds()
    turns = asyncio.Semaphore(_IN_FLIGHT)

    async def send(body: bytes) -> None:
        async with turns:
            began_s = time.monotonic()
            request = payment_pb2.ReceiveWebhookRequest(provider="stripe", body=httpbody_pb2.HttpBody(data=body))
            await stub.ReceiveWebhook(request, metadata=(("stripe-signature", _signature(body)),), timeout=_LIMIT_S)
            run.latencies_s.append(time.monotonic() - began_s)

    began_s = time.monotonic()
    await asyncio.gather(*map(send, bodies))
    run.answered_s = time.monotonic() - began_s
    connection = await asyncpg.connect(deployment.database_url)
    try:
        while await connection.fetchval(_LEFT):
            if time.monotonic() - began_s > _LIMIT_S:
                raise LoadError("webhooks are left that were not applied")
            await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        await connection.close()
    run.duration_s = time.monotonic() - began_s
    spent = deployment.cpu_seconds()
    run.cpu_us = {name: (spent[name] - before.get(name, 0)) / len(bodies) * 1e6 for name in ("billing", "postgres")}
    return run


def _signature(body: bytes) -> str:
    moment = int(time.time())
    digest = hmac.new(_SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


async def _check(
    deployment: Deployment, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...], checkouts: int
) -> None:
    """Compare with what the webhooks come to in order, and let billing check what it wrote."""
    connection = await asyncpg.connect(deployment.database_url)
    found = [0, 0, 0]
    try:
        for number in range(deployment.shards):
            await connection.execute(_SET_PATH, f"{shard_schema('billing', number)}, billing")
            row = await connection.fetchrow(_WRONG)
            assert row is not None
            found = [before + int(value) for before, value in zip(found, row, strict=True)]
    finally:
        await connection.close()
    if found != [0, checkouts, checkouts * 7]:
        raise LoadError(f"of {checkouts} payments {found[0]} are wrong; {found[1]} are there, and bring {found[2]}")
    stub = integrity_pb2_grpc.IntegrityServiceStub(channel)
    async for piece in stub.VerifyInvariants(
        integrity_pb2.VerifyInvariantsRequest(), metadata=metadata, timeout=_LIMIT_S
    ):
        if piece.HasField("finding"):
            raise LoadError(f"{piece.finding.invariant}: {piece.finding.resource}: {piece.finding.detail}")
