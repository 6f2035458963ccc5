"""A fake of Lemon Squeezy: what of its API is used here, the life of its objects, and its webhooks."""

import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.common.clock import Clock
from tests.support.providers.http import FakeApi, Reply, Request

API_KEY = "eyJ_" + "of_the_fake"
WEBHOOK_SECRET = "lemon_" + "secret_of_the_fake"
STORE = 7
Object = dict[str, Any]


def lemon_signature(body: bytes, secret: str) -> str:
    """Sign as docs.lemonsqueezy.com/help/webhooks/signing-requests describes it."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@dataclass
class FakeLemonSqueezy(FakeApi):
    """Lemon Squeezy with one store."""

    clock: Clock = field(kw_only=True)
    test_mode: bool = False
    tax_percent: int = 0
    discount: int = 0
    """What is taken off each price from now on, in cents."""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    webhooks: list[Object] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _custom: dict[tuple[str, str], Object] = field(default_factory=dict)
    _last: datetime = datetime(2000, 1, 1, tzinfo=UTC)

    def webhook(self, document: Object, secret: str = WEBHOOK_SECRET) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body with which a webhook is sent."""
        body = json.dumps(document).encode()
        return {"x-signature": lemon_signature(body, secret), "x-event-name": document["meta"]["event_name"]}, body

    def answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {API_KEY}":
            return 401, {"errors": [{"status": "401", "title": "Unauthorized"}]}
        assert request.headers["accept"] == request.headers["content-type"] == "application/vnd.api+json"
        parts = request.path.strip("/").split("/")[1:]
        if request.method == "POST":
            return self._post(parts, json.loads(request.body)["data"])
        if request.method == "DELETE":
            self.cancel(parts[1])
        if request.method == "PATCH":
            assert json.loads(request.body)["data"]["attributes"] == {"cancelled": False}
            self.resume(parts[1])
        if len(parts) == 1:
            return self._list(parts[0], request.query)
        found = self.objects.get((parts[0], parts[1]))
        return (200, {"data": found}) if found else (404, {"errors": [{"status": "404", "title": "Not Found"}]})

    def pay(self, checkout_id: str, *, renews: bool = False) -> Object:
        """The payer pays a checkout; return the order, or with `renews` the subscription."""
        checkout = self.objects["checkouts", checkout_id]["attributes"]
        custom = checkout["checkout_data"]["custom"]
        customer = self._add(
            "customers", {"urls": {"customer_portal": "https://store.lemonsqueezy.com/billing?s=1"}}, {}
        )
        sold = {"variant_id": checkout["variant_id"], "product_name": checkout["product_options"]["name"]}
        paid = self._paid(checkout["custom_price"])
        order = self._add(
            "orders",
            {
                **paid,
                "customer_id": int(customer["id"]),
                "status": "paid",
                "first_order_item": {**sold, "price": checkout["custom_price"]},
                "urls": {"receipt": "https://app.lemonsqueezy.com/my-orders/1"},
            },
            custom,
        )
        if not renews:
            self._tell("order_created", order)
            return order
        subscription = self._add(
            "subscriptions",
            {
                **sold,
                "customer_id": int(customer["id"]),
                "order_id": int(order["id"]),
                "status": "active",
                "renews_at": _text(self.clock.now() + timedelta(days=30)),
                "ends_at": None,
                "_price": checkout["custom_price"],
            },
            custom,
        )
        self._tell("order_created", order)
        self._tell("subscription_created", subscription)
        self.bill(subscription["id"], "initial")
        return subscription

    def bill(self, subscription_id: str, reason: str = "renewal", *, fails: bool = False) -> Object:
        """Make the invoice of a period, and try to collect it."""
        subscription = self.objects["subscriptions", subscription_id]
        attributes = subscription["attributes"]
        invoice = self._add(
            "subscription-invoices",
            {
                **self._paid(attributes["_price"]),
                "subscription_id": int(subscription_id),
                "customer_id": attributes["customer_id"],
                "billing_reason": reason,
                "card_brand": "visa",
                "status": "pending" if fails else "paid",
                "urls": {"invoice_url": "https://app.lemonsqueezy.com/my-orders/1/subscription-invoice/1"},
            },
            self._custom["subscriptions", subscription_id],
        )
        self._tell("subscription_payment_failed" if fails else "subscription_payment_success", invoice)
        if reason == "renewal":
            self._change_subscription("subscription_updated", subscription, status="past_due" if fails else "active")
        return invoice

    def recover(self, invoice_id: str) -> None:
        """A failed invoice is paid after all."""
        invoice = self.objects["subscription-invoices", invoice_id]
        invoice["attributes"]["status"] = "paid"
        self._tell("subscription_payment_success", invoice)
        self._tell("subscription_payment_recovered", invoice)
        subscription = self.objects["subscriptions", str(invoice["attributes"]["subscription_id"])]
        self._change_subscription("subscription_updated", subscription, status="active")

    def cancel(self, subscription_id: str) -> None:
        subscription = self.objects["subscriptions", subscription_id]
        ends = subscription["attributes"]["renews_at"]
        self._change_subscription("subscription_cancelled", subscription, status="cancelled", ends_at=ends)

    def resume(self, subscription_id: str) -> None:
        """Take a cancellation or a pause back."""
        subscription = self.objects["subscriptions", subscription_id]
        self._change_subscription("subscription_resumed", subscription, status="active", ends_at=None)

    def expire(self, subscription_id: str) -> None:
        self._change_subscription(
            "subscription_expired", self.objects["subscriptions", subscription_id], status="expired"
        )

    def pause(self, subscription_id: str) -> None:
        self._change_subscription(
            "subscription_paused", self.objects["subscriptions", subscription_id], status="paused"
        )

    def refund(self, kind: str, object_id: str, amount: int) -> Object:
        """Refund an order or a subscription invoice."""
        found = self.objects[kind, object_id]
        attributes = found["attributes"]
        if amount > attributes["total"] - attributes["refunded_amount"]:
            raise ValueError(object_id)
        attributes["refunded_amount"] += amount
        attributes["refunded"] = attributes["refunded_amount"] == attributes["total"]
        attributes["status"] = "refunded" if attributes["refunded"] else "partial_refund"
        self._tell("order_refunded" if kind == "orders" else "subscription_payment_refunded", found)
        return found

    def find_fraud(self, order_id: str) -> None:
        """Lemon Squeezy takes an order for fraud, of which it sends no webhook."""
        order = self.objects["orders", order_id]
        order["attributes"]["status"] = "fraudulent"
        self._touch(order)

    def _post(self, parts: list[str], data: Object) -> Reply:
        if parts == ["checkouts"]:
            attributes, related = data["attributes"], data["relationships"]
            attributes["variant_id"] = int(related["variant"]["data"]["id"])
            made = self._add("checkouts", attributes, {})
            made["attributes"]["url"] = f"https://store.lemonsqueezy.com/checkout/custom/{made['id']}"
            return 201, {"data": made}
        if len(parts) == 3 and parts[2] == "refund":
            try:
                return 200, {"data": self.refund(parts[0], parts[1], data["attributes"]["amount"])}
            except ValueError:
                return 422, {"errors": [{"status": "422", "title": "Unprocessable Entity"}]}
        return 404, {"errors": [{"status": "404", "title": "Not Found"}]}

    def _list(self, kind: str, query: Mapping[str, str]) -> Reply:
        assert query["filter[store_id]"] == str(STORE)
        found = [one for (of, _), one in self.objects.items() if of == kind]
        found.sort(key=lambda one: str(one["attributes"]["created_at"]), reverse=True)
        number, size = int(query["page[number]"]), int(query["page[size]"])
        links = {"next": "there is one"} if number * size < len(found) else {}
        return 200, {"data": found[(number - 1) * size : number * size], "links": links}

    def _paid(self, price: int) -> Object:
        left = price - self.discount
        tax = left * self.tax_percent // 100
        amounts = {"subtotal": price, "discount_total": self.discount, "tax": tax, "total": left + tax}
        return {**amounts, "refunded_amount": 0, "tax_inclusive": False, "currency": "USD", "refunded": False}

    def _add(self, kind: str, attributes: Mapping[str, object], custom: Object) -> Object:
        number, now = str(next(self._numbers)), _text(self.clock.now())
        of = {"store_id": STORE, "test_mode": self.test_mode, "created_at": now, "updated_at": now}
        made = {"type": kind, "id": number, "attributes": {**of, **attributes}}
        self.objects[kind, number], self._custom[kind, number] = made, custom
        return made

    def _change_subscription(self, event: str, subscription: Object, **changes: object) -> None:
        subscription["attributes"] |= changes
        self._tell(event, subscription)

    def _touch(self, what: Object) -> None:
        # Each change has a second of its own.
        self._last = max(self._last + timedelta(seconds=1), self.clock.now().replace(microsecond=0))
        what["attributes"]["updated_at"] = _text(self._last)

    def _tell(self, event: str, what: Object) -> None:
        self._touch(what)
        meta = {
            "event_name": event,
            "test_mode": self.test_mode,
            "custom_data": self._custom[what["type"], what["id"]],
        }
        self.webhooks.append({"meta": meta, "data": json.loads(json.dumps(what))})


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
