"""Stripe as a provider of payments, over its API of version 2024-06-20."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import quote

import structlog

from libs.common.clock import Clock
from services.billing.payment.provider import (
    Changes,
    Event,
    Fact,
    FactStatus,
    NewCharge,
    NewCheckout,
    NewRefund,
    Occasion,
    OpenedCheckout,
    Parsed,
    PaymentFact,
    ProviderDeclined,
    ProviderDown,
    ProviderMisconfigured,
    Reference,
    ReferenceKind,
    Renewal,
    Unreadable,
    Version,
)
from services.billing.payment.providers.http import Answer, Api, readable_answers
from services.billing.payment.providers.money import gross_of_refund
from services.billing.payment.providers.reading import (
    Json,
    child,
    currency,
    external_id,
    items,
    optional_child,
    optional_id,
    references,
    seconds,
    text,
    whole,
)
from services.billing.payment.providers.stripe import events, payments, signature
from services.billing.payment.providers.stripe.money import read_amount, smallest, write_amount
from services.billing.payment.providers.stripe.payments import NAME, OUR_FIELD, OUR_REFUND

_log = structlog.get_logger("stripe")

API_VERSION: Final = "2024-06-20"
_EVENTS_KEPT: Final = timedelta(days=30)
"""How long Stripe lists events (docs.stripe.com/api/events)."""
_WINDOW: Final = timedelta(days=1)
_PAGE_SIZE: Final = 100
_PAGES_MAX: Final = 500
_REFUND_PAGES_MAX: Final = 10
"""A thousand refunds of one payment."""


class Stripe:
    """Stripe, with one account."""

    name = NAME
    charges_saved_methods = True

    def __init__(self, secret_key: str, url: str, clock: Clock) -> None:
        """`url` is that of the API, such as `https://api.stripe.com`."""
        self._api = Api(NAME, url, {"authorization": f"Bearer {secret_key}", "stripe-version": API_VERSION})
        self._clock = clock

    def smallest(self, currency_code: str) -> Decimal:
        """Return what it can charge more or less; see Provider.smallest."""
        return smallest(currency_code)

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        """Check the header `Stripe-Signature`; see Provider.verify."""
        signature.check(headers.get(signature.HEADER), body, secrets, now)

    def parse(self, body: bytes) -> Parsed:
        """Read an event; see Provider.parse."""
        return events.parse(body)

    async def create_checkout(self, checkout: NewCheckout) -> OpenedCheckout:
        """Create a Checkout Session (docs.stripe.com/api/checkout/sessions/create)."""
        if checkout.renews and checkout.external_product_id is None:
            raise ProviderMisconfigured("The plan has no price at Stripe.")
        form = _session(checkout)
        with readable_answers(NAME):
            session = _good(await self._api.post_form("/v1/checkout/sessions", form, checkout.checkout_id))
            _require_price(session, checkout)
            named = {
                ReferenceKind.CHECKOUT: external_id(session, "id"),
                ReferenceKind.PAYMENT: optional_id(session, "payment_intent"),
            }
            return OpenedCheckout(text(session, "url"), references(named))

    async def portal_url(self, customer: str) -> str:
        """Create a session of the customer portal (docs.stripe.com/api/customer_portal/sessions/create)."""
        # Each session is new, so the key is one of the moment: it only makes the tries of this call one.
        key = f"portal-{customer}-{self._clock.now().timestamp()}"
        with readable_answers(NAME):
            form = {"customer": customer}
            return text(_good(await self._api.post_form("/v1/billing_portal/sessions", form, key)), "url")

    async def refund(self, refund: NewRefund) -> PaymentFact:
        """Create a refund (docs.stripe.com/api/refunds/create), unless an earlier attempt has created it."""
        of = _paid_by(refund.references)
        with readable_answers(NAME):
            made = await self._made(of, refund.refund_id) if refund.may_be_made else None
            paid = await self._charge_of(of)
            if made is None:
                form = {
                    **of,
                    "amount": str(_gross_units(refund, paid)),
                    f"metadata[{OUR_REFUND}]": refund.refund_id,
                    "metadata[reason]": refund.reason[:500],
                    "expand[]": "charge",
                }
                made = _good(await self._api.post_form("/v1/refunds", form, refund.refund_id))
                paid = child(made, "charge")
            if made.get("status") in ("failed", "canceled"):
                raise ProviderDeclined("Stripe could not make the refund.")
            return payments.charge(paid, seconds(made, "created"), "")

    async def charge_saved(self, charge: NewCharge) -> PaymentFact:
        """Charge the customer's saved method (docs.stripe.com/payments/save-during-payment).

        A card that is declined makes a payment that failed, which is what is returned.
        """
        with readable_answers(NAME):
            return await self._charge(charge)

    async def _charge(self, charge: NewCharge) -> PaymentFact:
        form = {
            "amount": str(write_amount(charge.amount, charge.currency_code)),
            "currency": charge.currency_code.lower(),
            "customer": charge.customer,
            "payment_method": await self._saved_method(charge.customer),
            "off_session": "true",
            "confirm": "true",
            "description": charge.description,
            f"metadata[{OUR_FIELD}]": charge.payment_id,
            "expand[]": "latest_charge",
        }
        answer = await self._api.post_form("/v1/payment_intents", form, charge.payment_id)
        error = optional_child(answer.document, "error")
        if error.get("type") == "idempotency_error":
            # It was asked for before, with the method that was saved then. The webhook says what became of that.
            return _pending(charge, self._clock.now())
        # A declined card is an error of status 402, with the intent in it (docs.stripe.com/api/errors).
        intent = error.get("payment_intent") if answer.status == 402 else _good(answer)
        if not isinstance(intent, dict):
            raise ProviderDeclined("Stripe declined the charge.")
        try:
            return payments.payment_intent(intent, seconds(intent, "created"), "")
        except payments.NotOurs as reason:
            raise ProviderDown(f"Stripe's answer is not what was asked for: {reason}.") from None

    async def set_renewal(self, external_id: str, renewal: Renewal) -> None:
        """Update or cancel a subscription (docs.stripe.com/api/subscriptions/cancel)."""
        path = f"/v1/subscriptions/{quote(external_id, safe='')}"
        with readable_answers(NAME):
            if text(_good(await self._api.get(path)), "status") in ("canceled", "incomplete_expired"):
                if renewal is Renewal.RENEWS:
                    raise ProviderDeclined("The subscription has ended at Stripe.")
                return
            if renewal is Renewal.ENDED:
                _good(await self._api.delete(path))
                return
            form = {"cancel_at_period_end": "true" if renewal is Renewal.ENDS_WITH_PERIOD else "false"}
            # What was said before may be said again later, so the key is one of the moment.
            key = f"renewal-{external_id}-{self._clock.now().timestamp()}"
            _good(await self._api.post_form(path, form, key))

    async def changed_since(self, since: datetime) -> AsyncIterator[Changes]:
        """Yield what the events since then say (docs.stripe.com/webhooks/process-undelivered-events).

        Stripe lists the newest first, and 30 days in all. They are read a day at a time, the oldest first.
        """
        now = self._clock.now()
        begin = max(since, now - _EVENTS_KEPT)
        while begin <= now:
            end = begin + _WINDOW
            async for page in self._pages(begin, end):
                yield page
            begin = end

    async def close(self) -> None:
        """End the connections to Stripe."""
        await self._api.close()

    async def _pages(self, begin: datetime, end: datetime) -> AsyncIterator[Changes]:
        query = {
            "created[gte]": str(int(begin.timestamp())),
            "created[lt]": str(int(end.timestamp())),
            "limit": str(_PAGE_SIZE),
            **{f"types[{number}]": kind for number, kind in enumerate(events.TYPES)},
        }
        pages: list[Changes] = []
        for _ in range(_PAGES_MAX):
            with readable_answers(NAME):
                listed = _good(await self._api.get("/v1/events", query))
                found = items(listed, "data")
                pages.append(Changes(_facts(found)))
                if listed.get("has_more") is not True or not found:
                    break
                query["starting_after"] = external_id(found[-1], "id")
        else:
            raise ProviderDown("Stripe lists more events than are read at a time.")
        for page in reversed(pages):
            yield page

    async def _made(self, of: Mapping[str, str], refund_id: str) -> Json | None:
        """Return a refund of ours that Stripe lists (docs.stripe.com/api/refunds/list); None where it was not made."""
        query = {**of, "limit": str(_PAGE_SIZE)}
        for _ in range(_REFUND_PAGES_MAX):
            listed = _good(await self._api.get("/v1/refunds", query))
            found = items(listed, "data")
            for one in found:
                if optional_child(one, "metadata").get(OUR_REFUND) == refund_id:
                    return one
            if listed.get("has_more") is not True or not found:
                return None
            query["starting_after"] = external_id(found[-1], "id")
        raise ProviderDown("Stripe lists more refunds of the payment than are read.")

    async def _charge_of(self, of: Mapping[str, str]) -> Json:
        """Return the charge that has paid a payment, as it is now."""
        if "charge" in of:
            return _good(await self._api.get(f"/v1/charges/{quote(of['charge'], safe='')}"))
        path = f"/v1/payment_intents/{quote(of['payment_intent'], safe='')}"
        return child(_good(await self._api.get(path, {"expand[]": "latest_charge"})), "latest_charge")

    async def _saved_method(self, customer: str) -> str:
        """Return the method to charge: the one for invoices, else the last one that was saved."""
        path = f"/v1/customers/{quote(customer, safe='')}"
        settings = optional_child(_good(await self._api.get(path)), "invoice_settings")
        chosen = optional_id(settings, "default_payment_method")
        if chosen is None:
            saved = items(_good(await self._api.get(f"{path}/payment_methods", {"limit": "1"})), "data")
            chosen = external_id(saved[0], "id") if saved else None
        if chosen is None:
            raise ProviderDeclined("The customer has no saved method of payment.")
        return chosen


def _paid_by(named: Sequence[Reference]) -> dict[str, str]:
    """Return by what Stripe's refunds name a payment."""
    ids = {reference.kind: reference.external_id for reference in named}
    if ReferenceKind.PAYMENT in ids:
        return {"payment_intent": ids[ReferenceKind.PAYMENT]}
    if ReferenceKind.CHARGE in ids:
        return {"charge": ids[ReferenceKind.CHARGE]}
    raise ProviderDeclined("The payment has no payment intent and no charge at Stripe.")


def _gross_units(refund: NewRefund, paid: Json) -> int:
    """Return what to ask for: what we call the amount is without the taxes that Stripe added, which go back with it."""
    net, before, amount = (
        write_amount(one, refund.currency_code)
        for one in (refund.amount, refund.refunded_before, refund.payment_amount)
    )
    unit = write_amount(smallest(refund.currency_code), refund.currency_code)
    refunded, total = whole(paid, "amount_refunded"), whole(paid, "amount")
    return gross_of_refund(net, before, refunded, amount, total, smallest=unit)


def _session(checkout: NewCheckout) -> dict[str, str]:
    """Return the form of a session. It depends on the checkout alone, so that a repeat is the same request."""
    code = checkout.currency_code
    form = {
        "mode": "subscription" if checkout.renews else "payment",
        "client_reference_id": checkout.checkout_id,
        f"metadata[{OUR_FIELD}]": checkout.checkout_id,
        "success_url": checkout.success_url,
        "cancel_url": checkout.cancel_url,
        "expires_at": str(int(checkout.expire_time.timestamp())),
        "line_items[0][quantity]": "1",
    }
    if checkout.email:
        form["customer_email"] = checkout.email
    if checkout.external_product_id:
        form["line_items[0][price]"] = checkout.external_product_id
    else:
        form["line_items[0][price_data][currency]"] = code.lower()
        form["line_items[0][price_data][unit_amount]"] = str(write_amount(checkout.amount, code))
        form["line_items[0][price_data][product_data][name]"] = checkout.name
    if checkout.renews:
        form[f"subscription_data[metadata][{OUR_FIELD}]"] = checkout.checkout_id
    else:
        form[f"payment_intent_data[metadata][{OUR_FIELD}]"] = checkout.checkout_id
        # So that automatic top-ups can charge it.
        form["payment_intent_data[setup_future_usage]"] = "off_session"
        form["customer_creation"] = "always"
    return form


def _require_price(session: Json, checkout: NewCheckout) -> None:
    """Check that a session asks for what the catalogue says: another payment would be refused, and bring nothing.

    Raises:
        ProviderMisconfigured: the price at Stripe is another one.
    """
    code, units = currency(session), whole(session, "amount_subtotal")
    if code != checkout.currency_code or read_amount(units, code) != checkout.amount:
        _log.error("a price at Stripe differs from the catalogue's", price=checkout.external_product_id)
        raise ProviderMisconfigured("The price at Stripe is not the catalogue's.")


def _good(answer: Answer) -> Json:
    """Return what was asked for, or tell errors apart (docs.stripe.com/api/errors)."""
    if answer.is_good:
        return answer.document
    error = optional_child(answer.document, "error")
    kind, code = error.get("type"), error.get("code")
    named = f"{kind if isinstance(kind, str) else 'an error'}, {code if isinstance(code, str) else answer.status}"[:100]
    if kind == "card_error" or code in ("charge_already_refunded", "charge_disputed"):
        raise ProviderDeclined(f"Stripe declined: {named}.")
    if kind == "invalid_request_error" and error.get("param") == "amount":
        raise ProviderDeclined(f"Stripe refuses the amount: {named}.")
    if kind == "api_error":
        raise ProviderDown(f"Stripe failed: {named}.")
    raise ProviderMisconfigured(f"Stripe refuses the request: {named}.")


def _facts(listed: Sequence[Json]) -> tuple[Fact, ...]:
    """Return the facts of a page of events, the oldest first. What cannot be read is logged, and keeps no other."""
    facts: list[Fact] = []
    for one in reversed(listed):
        try:
            parsed = events.read_event(one)
        except Unreadable as flaw:
            _log.warning("an event cannot be read", flaw=str(flaw))
            continue
        if isinstance(parsed, Event):
            facts += parsed.facts
    return tuple(facts)


def _pending(charge: NewCharge, now: datetime) -> PaymentFact:
    return PaymentFact(
        provider=NAME,
        references=(Reference(ReferenceKind.CUSTOMER, charge.customer),),
        # Whatever Stripe says is newer.
        version=Version(datetime.fromtimestamp(0, UTC)),
        occasion=Occasion.ONE_OFF,
        is_test=charge.is_test,
        store="",
        checkout_id=charge.payment_id,
        status=FactStatus.PENDING,
        amount=charge.amount,
        currency_code=charge.currency_code,
    )
