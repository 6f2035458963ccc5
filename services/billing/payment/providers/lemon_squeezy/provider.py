"""Lemon Squeezy as a provider of payments, over its API of version 1."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final
from urllib.parse import quote

import structlog

from libs.common.clock import Clock
from services.billing.payment.provider import (
    Changes,
    Fact,
    NewCharge,
    NewCheckout,
    NewRefund,
    OpenedCheckout,
    Parsed,
    PaymentFact,
    ProviderCannot,
    ProviderDeclined,
    ProviderDown,
    ProviderMisconfigured,
    Reference,
    ReferenceKind,
    Renewal,
    Unreadable,
)
from services.billing.payment.providers.http import Answer, Api, readable_answers
from services.billing.payment.providers.lemon_squeezy import objects, signature, webhooks
from services.billing.payment.providers.lemon_squeezy.objects import DECIMALS, NAME, OUR_FIELD
from services.billing.payment.providers.money import from_minor, gross_of, gross_of_refund, to_minor
from services.billing.payment.providers.reading import (
    Json,
    child,
    external_id,
    items,
    moment,
    optional_child,
    optional_text,
    text,
)

_log = structlog.get_logger("lemon squeezy")

_JSON_API: Final = "application/vnd.api+json"
_PAGE_SIZE: Final = 100
_PAGES_MAX: Final = 200
"""Pages of one kind of object that are read at a time: the API takes 300 requests a minute
(docs.lemonsqueezy.com/api/getting-started/requests#rate-limiting)."""
_LOOK_BACK: Final = 5
"""Lists are ordered by the time of creation alone. So objects are looked through that were created up to five times as
long ago as changes are asked for."""
_FAILED_AFTER: Final = timedelta(hours=1)
"""From which age a listed invoice that waits for payment is taken as one of which a payment failed. If it is paid after
all, it counts."""
_EVERY_SUBSCRIPTION_FROM: Final = timedelta(days=7)
"""From which age of changes on all subscriptions are looked through. They last for years."""


class LemonSqueezy:
    """Lemon Squeezy, with one store."""

    name = NAME
    charges_saved_methods = False

    def __init__(self, api_key: str, store_id: str, top_up_variant_id: str | None, url: str, clock: Clock) -> None:
        """`url` is that of the API, such as `https://api.lemonsqueezy.com`."""
        headers = {"authorization": f"Bearer {api_key}", "accept": _JSON_API, "content-type": _JSON_API}
        self._api = Api(NAME, url, headers)
        self._store_id = store_id
        self._top_up_variant_id = top_up_variant_id
        self._clock = clock

    def smallest(self, currency_code: str) -> Decimal:
        """Return a hundredth, whatever the currency; see Provider.smallest."""
        return from_minor(1, DECIMALS)

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        """Check the header `X-Signature`, which says nothing of time; see Provider.verify."""
        signature.check(headers.get(signature.HEADER), body, secrets)

    def parse(self, body: bytes) -> Parsed:
        """Read a webhook; see Provider.parse."""
        return webhooks.parse(body)

    async def create_checkout(self, checkout: NewCheckout) -> OpenedCheckout:
        """Create a checkout (docs.lemonsqueezy.com/api/checkouts/create-checkout).

        The API has no idempotency keys. A second checkout does no harm: what is paid in either is our one checkout's.
        """
        variant = checkout.external_product_id or self._top_up_variant_id
        if variant is None:
            raise ProviderMisconfigured("What is sold has no variant at Lemon Squeezy, and none for top-ups is set.")
        document = self._new_checkout(checkout, variant)
        with readable_answers(NAME):
            data = child(_good(await self._api.post_json("/v1/checkouts", document, repeatable=True)), "data")
            reference = Reference(ReferenceKind.CHECKOUT, external_id(data, "id"))
            return OpenedCheckout(text(child(data, "attributes"), "url"), (reference,))

    async def portal_url(self, customer: str) -> str:
        """Return the signed address of the customer portal, which is good for 24 hours.

        See docs.lemonsqueezy.com/api/customers/the-customer-object.
        """
        with readable_answers(NAME):
            data = await self._object(f"/v1/customers/{quote(customer, safe='')}")
            url = optional_text(optional_child(child(data, "attributes"), "urls"), "customer_portal")
        if url is None:
            raise ProviderDeclined("The customer has no portal at Lemon Squeezy: it has bought nothing yet.")
        return url

    async def refund(self, refund: NewRefund) -> PaymentFact:
        """Refund an order or a subscription invoice (docs.lemonsqueezy.com/api/orders/issue-refund).

        The API has no idempotency keys, so a refund that may have been made is not asked for again: the object is read
        before, and after a failure. A refund of as much that is made at Lemon Squeezy's own page, between an attempt
        that died and its repeat, is taken for that attempt.
        """
        path, read = _refunded_object(refund)
        with readable_answers(NAME):
            before = await self._object(path)
            amount, total = objects.units_of(child(before, "attributes"))
            # What we call the amount is without the taxes that were added; Lemon Squeezy refunds them, too.
            net, known = to_minor(refund.amount, DECIMALS), to_minor(refund.refunded_before, DECIMALS)
            refunded = _refunded(before, total)
            if refund.may_be_made and refunded >= gross_of(known + net, amount, total):
                return read(before)
            asked = gross_of_refund(net, known, refunded, amount, total)
            if asked > total - refunded:
                raise ProviderDeclined("The refund is more than what is left of the payment.")
            document = {"data": {"type": text(before, "type"), "id": before["id"], "attributes": {"amount": asked}}}
            try:
                answer = _good(await self._api.post_json(f"{path}/refund", document, repeatable=False))
                after = child(answer, "data")
            except (ProviderDown, Unreadable):
                after = await self._object(path)
                if _refunded(after, total) < refunded + asked:
                    raise ProviderDown("Lemon Squeezy did not make the refund.") from None
            try:
                return read(after)
            except objects.NothingPaid:
                raise ProviderDown("Lemon Squeezy's answer is of a free order.") from None

    async def charge_saved(self, charge: NewCharge) -> PaymentFact:
        """Lemon Squeezy charges no saved methods."""
        raise ProviderCannot("Lemon Squeezy charges no saved method of payment.")

    async def set_renewal(self, external_id: str, renewal: Renewal) -> None:
        """Cancel a subscription, which then ends with its period, or take that back.

        See docs.lemonsqueezy.com/api/subscriptions/cancel-subscription.
        """
        path = f"/v1/subscriptions/{quote(external_id, safe='')}"
        with readable_answers(NAME):
            status = text(child(await self._object(path), "attributes"), "status")
            if renewal is Renewal.RENEWS:
                if status == "expired":
                    raise ProviderDeclined("The subscription has ended at Lemon Squeezy.")
                data = {"type": "subscriptions", "id": external_id, "attributes": {"cancelled": False}}
                _good(await self._api.patch_json(path, {"data": data}))
            elif status not in ("cancelled", "expired"):
                _good(await self._api.delete(path))

    async def changed_since(self, since: datetime) -> AsyncIterator[Changes]:
        """Yield what orders, subscriptions and subscription invoices say that changed since.

        Lists are ordered by the time of creation, the newest first (docs.lemonsqueezy.com/api/orders/list-all-orders).
        """
        now = self._clock.now()
        asked_for = now - since
        created_from = since - asked_for * (_LOOK_BACK - 1)
        every = asked_for >= _EVERY_SUBSCRIPTION_FROM
        lists: tuple[tuple[str, Callable[[Json], Fact], datetime | None], ...] = (
            ("orders", _order, created_from),
            ("subscriptions", _subscription, None if every else created_from),
            ("subscription-invoices", partial(_listed_invoice, now), created_from),
        )
        for kind, read, begin in lists:
            for page in reversed([page async for page in self._pages(kind, read, since, begin)]):
                yield page

    async def close(self) -> None:
        """End the connections to Lemon Squeezy."""
        await self._api.close()

    async def _pages(
        self, kind: str, read: Callable[[Json], Fact], since: datetime, created_from: datetime | None
    ) -> AsyncIterator[Changes]:
        for number in range(1, _PAGES_MAX + 1):
            query = {
                "filter[store_id]": self._store_id,
                "page[number]": str(number),
                "page[size]": str(_PAGE_SIZE),
            }
            with readable_answers(NAME):
                listed = _good(await self._api.get(f"/v1/{kind}", query))
                found = items(listed, "data")
                facts = [fact for one in reversed(found) if (fact := _changed(kind, read, one, since)) is not None]
                is_last = "next" not in optional_child(listed, "links") or not found
                is_last |= created_from is not None and bool(found) and _created(found[-1]) < created_from
            if facts:
                yield Changes(tuple(facts))
            if is_last:
                return
        _log.warning("not all objects were looked through", kind=kind, pages=_PAGES_MAX)

    async def _object(self, path: str) -> Json:
        return child(_good(await self._api.get(path)), "data")

    def _new_checkout(self, checkout: NewCheckout, variant: str) -> dict[str, object]:
        attributes = {
            "custom_price": to_minor(checkout.amount, DECIMALS),
            "product_options": {
                "name": objects.marked_name(checkout.name, checkout.checkout_id),
                "redirect_url": checkout.success_url,
                "enabled_variants": [int(variant)] if variant.isdecimal() else [],
            },
            "checkout_options": {"discount": False},
            "checkout_data": {
                "custom": {OUR_FIELD: checkout.checkout_id},
                **({"email": checkout.email} if checkout.email else {}),
            },
            "expires_at": checkout.expire_time.isoformat(),
            "test_mode": checkout.is_test,
        }
        related = {
            "store": {"data": {"type": "stores", "id": self._store_id}},
            "variant": {"data": {"type": "variants", "id": variant}},
        }
        return {"data": {"type": "checkouts", "attributes": attributes, "relationships": related}}


def _refunded_object(refund: NewRefund) -> tuple[str, Callable[[Json], PaymentFact]]:
    """Return the path of what is refunded: the invoice of a renewal, else the order."""
    named = {reference.kind: reference.external_id for reference in refund.references}
    if ReferenceKind.ORDER in named:
        return f"/v1/orders/{quote(named[ReferenceKind.ORDER], safe='')}", _order
    if ReferenceKind.PAYMENT in named:
        return f"/v1/subscription-invoices/{quote(named[ReferenceKind.PAYMENT], safe='')}", _invoice
    raise ProviderDeclined("The payment has no order and no invoice at Lemon Squeezy.")


def _order(data: Json) -> PaymentFact:
    return objects.order(data, {})


def _invoice(data: Json) -> PaymentFact:
    return objects.invoice(data, {}, failed=False)


def _listed_invoice(now: datetime, data: Json) -> PaymentFact:
    """Read an invoice of a list. That a payment has failed only a webhook says: the invoice of it stays pending."""
    return objects.invoice(data, {}, failed=_created(data) <= now - _FAILED_AFTER)


def _subscription(data: Json) -> Fact:
    return objects.subscription(data, {})


def _changed(kind: str, read: Callable[[Json], Fact], data: Json, since: datetime) -> Fact | None:
    """Return what a listed object says, or None where it has not changed. What cannot be read keeps no other."""
    try:
        if moment(child(data, "attributes"), "updated_at") < since:
            return None
        return read(data)
    except objects.NothingPaid:
        return None
    except Unreadable as flaw:
        _log.warning("an object cannot be read", kind=kind, flaw=str(flaw))
        return None


def _created(data: Json) -> datetime:
    return moment(child(data, "attributes"), "created_at")


def _refunded(data: Json, total: int) -> int:
    return objects.refunded_units(optional_child(data, "attributes"), total)


def _good(answer: Answer) -> Json:
    """Return what was asked for, or tell errors apart (docs.lemonsqueezy.com/api/getting-started/errors)."""
    if answer.is_good:
        return answer.document
    listed: Sequence[Json] = items(answer.document, "errors") if isinstance(answer.document.get("errors"), list) else ()
    title = listed[0].get("title") if listed else None
    named = f"status {answer.status}, {title if isinstance(title, str) else 'no title'}"[:100]
    if answer.status == 422:
        raise ProviderDeclined(f"Lemon Squeezy refuses the request: {named}.")
    raise ProviderMisconfigured(f"Lemon Squeezy refuses the request: {named}.")
