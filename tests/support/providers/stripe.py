"""A fake of Stripe: what of its API version 2024-06-20 is used here, the life of its objects, and its events."""

import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from libs.common.clock import Clock
from tests.support.providers.http import FakeApi, Reply, Request

SECRET_KEY = "sk_" + "test_of_the_fake"
WEBHOOK_SECRET = "whsec_" + "of_the_fake"
Object = dict[str, Any]
_PERIOD_S = 30 * 86_400
_SMALLEST = {"kwd": 10, "ugx": 100}
"""Of what amounts are multiples (docs.stripe.com/currencies), where that is not 1."""
_KEY_KEPT_S = 86_400
"""docs.stripe.com/api/idempotent_requests"""


def stripe_signature(body: bytes, secret: str, at: datetime) -> str:
    """Sign as docs.stripe.com/webhooks#verify-manually describes it."""
    moment = int(at.timestamp())
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest},v0=0000"


@dataclass
class FakeStripe(FakeApi):
    """Stripe with one account."""

    clock: Clock = field(kw_only=True)
    livemode: bool = True
    objects: dict[str, Object] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    tax_percent: int = 0
    """What is added to prices."""
    decline: bool = False
    """Whether charges of saved methods are declined."""
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _done: dict[str, tuple[int, bytes, Reply]] = field(default_factory=dict)
    _last_s: int = 0

    def webhook(self, event: Object, secret: str = WEBHOOK_SECRET) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body with which an event is sent."""
        body = json.dumps(event).encode()
        return {"stripe-signature": stripe_signature(body, secret, self.clock.now())}, body

    def answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {SECRET_KEY}":
            return 401, {"error": {"type": "invalid_request_error"}}
        assert request.headers["stripe-version"] == "2024-06-20"
        if request.method == "GET":
            return self._get(request)
        if request.method == "DELETE":
            self.cancel(request.path.rpartition("/")[2])
            return self._get(request)
        key = request.headers["idempotency-key"]
        done, body, reply = self._done.get(key, (0, b"", (0, {})))
        if done and self._now_s() - done < _KEY_KEPT_S:
            return reply if body == request.body else (400, {"error": {"type": "idempotency_error"}})
        reply = self._post(request.path, request.form)
        self._done[key] = self._now_s(), request.body, reply
        return reply

    def pay(self, session_id: str) -> Object:
        """The payer pays a checkout session."""
        session = self.objects[session_id]
        customer = session["customer"] = (
            session["customer"] or self._add("cus", "customer", {"invoice_settings": {}})["id"]
        )
        if session["mode"] == "payment":
            intent = self._intent(session["amount_total"], session["currency"], customer, session["_of_payment"])
            session["payment_intent"] = intent["id"]
        else:
            session["subscription"] = self.subscribe(customer, session)["id"]
            session["invoice"] = self.objects[session["subscription"]]["latest_invoice"]
        paid = "paid" if session["amount_total"] else "no_payment_required"
        session |= {"payment_status": paid, "status": "complete"}
        self._tell("checkout.session.completed", session)
        return session

    def subscribe(self, customer: str, session: Object) -> Object:
        subscription = self._add(
            "sub",
            "subscription",
            {
                "status": "incomplete",
                "customer": customer,
                "metadata": session["_of_subscription"],
                "cancel_at_period_end": False,
                "cancel_at": None,
                "ended_at": None,
                "pause_collection": None,
                "current_period_end": self._now_s() + _PERIOD_S,
                "items": {"data": [{"price": {"id": session["_price"]}}]},
                "_amount": session["amount_total"],
                "_tax": session["total_details"]["amount_tax"],
                "_currency": session["currency"],
            },
        )
        self._tell("customer.subscription.created", subscription)
        self.bill(subscription["id"], "subscription_create")
        subscription["status"] = "active"
        self._tell("customer.subscription.updated", subscription)
        return subscription

    def bill(self, subscription_id: str, reason: str = "subscription_cycle", *, fails: bool = False) -> Object:
        """Make the invoice of a period, and try to collect it."""
        subscription = self.objects[subscription_id]
        if reason == "subscription_cycle":
            subscription["current_period_end"] += _PERIOD_S
        invoice = self._add(
            "in",
            "invoice",
            {
                "subscription": subscription_id,
                "customer": subscription["customer"],
                "subscription_details": {"metadata": subscription["metadata"]},
                "billing_reason": reason,
                "currency": subscription["_currency"],
                "amount_due": subscription["_amount"],
                "amount_paid": 0,
                "total_tax_amounts": [{"amount": subscription["_tax"], "inclusive": False}],
                "status_transitions": {"paid_at": None},
                "lines": {"data": [{"price": {"id": subscription["items"]["data"][0]["price"]["id"]}}]},
                "hosted_invoice_url": "https://invoice.stripe.com/i/1",
                "charge": None,
                "payment_intent": None,
            },
        )
        subscription["latest_invoice"] = invoice["id"]
        self.collect(invoice["id"], fails=fails)
        return invoice

    def collect(self, invoice_id: str, *, fails: bool = False) -> None:
        """Try to collect an invoice, once more where it failed."""
        invoice = self.objects[invoice_id]
        subscription = self.objects[invoice["subscription"]]
        if fails:
            self._tell("invoice.payment_failed", invoice)
            subscription["status"] = "past_due"
            self._tell("customer.subscription.updated", subscription)
            return
        if invoice["amount_due"]:
            intent = self._intent(invoice["amount_due"], invoice["currency"], invoice["customer"], {}, invoice_id)
            invoice |= {"charge": intent["latest_charge"], "payment_intent": intent["id"]}
        invoice |= {"amount_paid": invoice["amount_due"], "status_transitions": {"paid_at": self._now_s()}}
        self._tell("invoice.paid", invoice)
        if subscription["status"] == "past_due":
            subscription["status"] = "active"
            self._tell("customer.subscription.updated", subscription)

    def cancel(self, subscription_id: str, *, at_period_end: bool = False) -> None:
        subscription = self.objects[subscription_id]
        if at_period_end:
            subscription |= {"cancel_at_period_end": True, "cancel_at": subscription["current_period_end"]}
            self._tell("customer.subscription.updated", subscription)
        else:
            subscription |= {"status": "canceled", "ended_at": self._now_s()}
            self._tell("customer.subscription.deleted", subscription)

    def resume(self, subscription_id: str) -> None:
        """Take a cancellation or a pause back."""
        subscription = self.objects[subscription_id]
        subscription |= {"cancel_at_period_end": False, "cancel_at": None, "pause_collection": None}
        self._tell("customer.subscription.updated", subscription)

    def pause(self, subscription_id: str) -> None:
        subscription = self.objects[subscription_id]
        subscription["pause_collection"] = {"behavior": "void"}
        self._tell("customer.subscription.updated", subscription)

    def refund(self, charge_id: str, amount: int, metadata: Mapping[str, str] | None = None) -> Object:
        charge = self.objects[charge_id]
        if amount > charge["amount"] - charge["amount_refunded"]:
            raise ValueError(charge_id)
        charge["amount_refunded"] += amount
        self._tell("charge.refunded", charge)
        of = {"charge": charge_id, "payment_intent": charge["payment_intent"], "currency": charge["currency"]}
        made = {**of, "amount": amount, "status": "succeeded", "metadata": dict(metadata or {})}
        return self._add("re", "refund", made)

    def fail_refund(self, charge_id: str, refund_id: str) -> None:
        """The bank of the payer does not take a refund of a charge: the money comes back."""
        refund = self.objects[refund_id]
        refund |= {"charge": charge_id, "currency": self.objects[charge_id]["currency"], "status": "failed"}
        self.objects[charge_id]["amount_refunded"] -= refund["amount"]
        for kind in ("refund.updated", "charge.refund.updated", "refund.failed"):
            self._tell(kind, refund)

    def dispute(self, charge_id: str, amount: int | None = None) -> Object:
        """The payer disputes a charge, or an amount of it."""
        charge = self.objects[charge_id]
        of = {"charge": charge_id, "payment_intent": charge["payment_intent"], "amount": amount or charge["amount"]}
        dispute = self._add("dp", "dispute", {**of, "currency": charge["currency"], "status": "needs_response"})
        self._tell("charge.dispute.created", dispute)
        return dispute

    def close_dispute(self, dispute_id: str, status: str) -> None:
        dispute = self.objects[dispute_id]
        dispute["status"] = status
        self._tell("charge.dispute.closed", dispute)

    def _get(self, request: Request) -> Reply:
        if request.path == "/v1/events":
            return self._list_events(request.query)
        if request.path.endswith("/payment_methods"):
            return 200, {"object": "list", "data": [{"id": "pm_saved", "object": "payment_method"}]}
        if request.path == "/v1/refunds":
            return self._list_refunds(request.query)
        found = self.objects.get(request.path.rpartition("/")[2])
        if found is None:
            return 404, {"error": {"type": "invalid_request_error", "code": "resource_missing"}}
        return 200, self._expanded(found, request.query)

    def _expanded(self, found: Object, asked: Mapping[str, str]) -> Object:
        """Put the object in the place of its id where that is asked for (docs.stripe.com/api/expanding_objects)."""
        name = asked.get("expand[]")
        return found if name is None else {**found, name: self.objects[found[name]]}

    def _list_refunds(self, query: Mapping[str, str]) -> Reply:
        of = {name: value for name, value in query.items() if name in ("charge", "payment_intent")}
        made = [one for one in self.objects.values() if one["object"] == "refund" and of.items() <= one.items()]
        return _page(made[::-1], query)

    def _list_events(self, query: Mapping[str, str]) -> Reply:
        types = {value for name, value in query.items() if name.startswith("types")}
        found = [
            event
            for event in reversed(self.events)
            if event["type"] in types and int(query["created[gte]"]) <= event["created"] < int(query["created[lt]"])
        ]
        return _page(found, query)

    def _post(self, path: str, form: Mapping[str, str]) -> Reply:
        match path:
            case "/v1/checkout/sessions":
                return 200, self._session(form)
            case "/v1/billing_portal/sessions":
                return 200, {
                    "object": "billing_portal.session",
                    "url": f"https://billing.stripe.com/{form['customer']}",
                }
            case "/v1/refunds":
                charge = str(form.get("charge") or self.objects[form["payment_intent"]]["latest_charge"])
                metadata = {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")}
                try:
                    if int(form["amount"]) % _SMALLEST.get(self.objects[charge]["currency"], 1):
                        raise ValueError(form["amount"])
                    return 200, self._expanded(self.refund(charge, int(form["amount"]), metadata), form)
                except ValueError:
                    return 400, {"error": {"type": "invalid_request_error", "param": "amount"}}
            case "/v1/payment_intents":
                return self._charge_saved(form)
        name = path.rpartition("/")[2]
        if name in self.objects and form.get("cancel_at_period_end") == "true":
            self.cancel(name, at_period_end=True)
            return 200, self.objects[name]
        if name in self.objects:
            self.resume(name)
            return 200, self.objects[name]
        return 404, {"error": {"type": "invalid_request_error"}}

    def _charge_saved(self, form: Mapping[str, str]) -> Reply:
        metadata = {"checkout_id": form["metadata[checkout_id]"]}
        if not self.decline:
            intent = self._intent(int(form["amount"]), form["currency"], form["customer"], metadata)
            return 200, intent | {"latest_charge": self.objects[intent["latest_charge"]]}
        declined = {"code": "card_declined", "message": "Your card was declined."}
        of = {"amount": int(form["amount"]), "currency": form["currency"], "customer": form["customer"]}
        state = {"status": "requires_payment_method", "last_payment_error": declined, "latest_charge": None}
        intent = self._add("pi", "payment_intent", {**of, **state, "metadata": metadata, "invoice": None})
        self._tell("payment_intent.payment_failed", intent)
        return 402, {"error": {"type": "card_error", **declined, "payment_intent": intent}}

    def _session(self, form: Mapping[str, str]) -> Object:
        price = form.get("line_items[0][price]")
        amount = self.objects[price]["unit_amount"] if price else int(form["line_items[0][price_data][unit_amount]"])
        code = self.objects[price]["currency"] if price else form["line_items[0][price_data][currency]"]
        unit = _SMALLEST.get(code.lower(), 1)
        tax = amount * self.tax_percent // 100 // unit * unit
        session = {
            "mode": form["mode"],
            "client_reference_id": form["client_reference_id"],
            "metadata": {"checkout_id": form["metadata[checkout_id]"]},
            "amount_subtotal": amount,
            "amount_total": amount + tax,
            "total_details": {"amount_discount": 0, "amount_tax": tax},
            "currency": code,
            "payment_status": "unpaid",
            **dict.fromkeys(("customer", "payment_intent", "subscription", "invoice")),
            "_price": price,
            "_of_payment": {"checkout_id": form.get("payment_intent_data[metadata][checkout_id]")},
            "_of_subscription": {"checkout_id": form.get("subscription_data[metadata][checkout_id]")},
        }
        made = self._add("cs", "checkout.session", session)
        made["url"] = f"https://checkout.stripe.com/c/{made['id']}"
        return made

    def add_price(self, amount: int, code: str) -> str:
        return str(self._add("price", "price", {"unit_amount": amount, "currency": code.lower()})["id"])

    def _intent(
        self, amount: int, code: str, customer: str, metadata: Mapping[str, object], invoice: str | None = None
    ) -> Object:
        of = {"amount": amount, "currency": code, "customer": customer, "metadata": metadata, "invoice": invoice}
        intent = self._add("pi", "payment_intent", {**of, "status": "succeeded", "last_payment_error": None})
        charge = self._add("ch", "charge", {**of, "status": "succeeded", "amount_refunded": 0})
        charge |= {"payment_intent": intent["id"], "receipt_url": "https://pay.stripe.com/receipts/1"}
        charge["payment_method_details"] = {"type": "card"}
        intent["latest_charge"] = charge["id"]
        self._tell("payment_intent.succeeded", intent)
        return intent

    def _add(self, prefix: str, kind: str, fields: Mapping[str, object]) -> Object:
        made: Object = {"id": f"{prefix}_{next(self._numbers)}", "object": kind, "created": self._now_s(), **fields}
        if kind not in ("price", "refund", "customer"):
            made["livemode"] = self.livemode
        self.objects[made["id"]] = made
        return made

    def _tell(self, kind: str, what: Object) -> None:
        shown = {name: value for name, value in what.items() if not name.startswith("_")}
        self._last_s = max(self._last_s + 1, self._now_s())
        event = {
            "id": f"evt_{next(self._numbers)}",
            "object": "event",
            "api_version": "2024-06-20",
            "created": self._last_s,
            "type": kind,
            "livemode": self.livemode,
            "pending_webhooks": 1,
            "data": {"object": json.loads(json.dumps(shown))},
        }
        self.events.append(event)

    def _now_s(self) -> int:
        return int(self.clock.now().timestamp())


def _page(found: list[Object], query: Mapping[str, str]) -> Reply:
    """Return a page of a list, of which the newest is the first (docs.stripe.com/api/pagination)."""
    if after := query.get("starting_after"):
        found = found[[one["id"] for one in found].index(after) + 1 :]
    size = int(query["limit"])
    assert 1 <= size <= 100
    return 200, {"object": "list", "data": found[:size], "has_more": len(found) > size}
