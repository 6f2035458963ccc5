"""The signatures of webhooks are checked over the raw bytes (acceptance case 17)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.billing.payment.provider import Provider, SignatureRefused
from services.billing.payment.providers.lemon_squeezy.provider import LemonSqueezy
from services.billing.payment.providers.lemon_squeezy.settings import LemonSqueezySettings
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.payment.providers.stripe.settings import StripeSettings
from tests.support.clock import DEFAULT_NOW, FixedClock
from tests.support.providers.lemon_squeezy import lemon_signature
from tests.support.providers.stripe import stripe_signature

# As no serializer writes it: an escape, spaces, and an order of keys of its own.
BODY = b'{ "z":1 ,"name":"caf\\u00e9",  "a": [1,2 ] }\n'
OLD, NEW = "the old secret", "the new secret"


@dataclass(frozen=True)
class Signer:
    """A provider, its header, and how it signs."""

    provider: Provider
    header: str
    sign: Callable[[bytes, str], str]

    def accepts(self, headers: Mapping[str, str], body: bytes, *secrets: str) -> bool:
        try:
            self.provider.verify(headers, body, secrets, DEFAULT_NOW)
        except SignatureRefused:
            return False
        return True


STRIPE = Signer(
    Stripe("", "http://127.0.0.1:1", FixedClock()),
    "stripe-signature",
    lambda body, secret: stripe_signature(body, secret, DEFAULT_NOW),
)
LEMON_SQUEEZY = Signer(LemonSqueezy("", "7", None, "http://127.0.0.1:1", FixedClock()), "x-signature", lemon_signature)
each = pytest.mark.parametrize("signer", [STRIPE, LEMON_SQUEEZY], ids=["stripe", "lemon_squeezy"])


@each
def test_body_is_good_as_it_was_signed_and_not_as_a_parser_would_write_it(signer: Signer) -> None:
    headers = {signer.header: signer.sign(BODY, OLD)}
    assert signer.accepts(headers, BODY, OLD)
    assert not signer.accepts(headers, json.dumps(json.loads(BODY)).encode(), OLD)
    assert not signer.accepts(headers, BODY.strip(), OLD)


@each
def test_both_secrets_are_good_while_one_is_replaced_and_no_other_is(signer: Signer) -> None:
    for secret in (OLD, NEW):
        headers = {signer.header: signer.sign(BODY, secret)}
        assert signer.accepts(headers, BODY, OLD, NEW)
        assert not signer.accepts(headers, BODY, "another")
        assert not signer.accepts(headers, BODY)
    assert not signer.accepts({}, BODY, OLD, NEW)


@each
@given(place=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_one_bit_changed_anywhere_is_refused(signer: Signer, place: int, bit: int) -> None:
    altered = bytearray(BODY)
    altered[place] ^= 1 << bit
    assert not signer.accepts({signer.header: signer.sign(BODY, OLD)}, bytes(altered), OLD)


@each
@given(header=st.text(max_size=200))
def test_any_other_header_is_refused(signer: Signer, header: str) -> None:
    assert not signer.accepts({signer.header: header}, BODY, OLD)


@each
def test_upper_case_hex_is_refused(signer: Signer) -> None:
    signature = signer.sign(BODY, OLD)
    digest = max(signature.replace("=", ",").split(","), key=len)
    assert not signer.accepts({signer.header: signature.replace(digest, digest.upper())}, BODY, OLD)


def test_stripes_time_may_be_five_minutes_off_and_is_part_of_what_is_signed() -> None:
    for seconds, good in ((0, True), (300, True), (-300, True), (301, False), (-301, False), (10**7, False)):
        header = stripe_signature(BODY, OLD, DEFAULT_NOW - timedelta(seconds=seconds))
        assert STRIPE.accepts({"stripe-signature": header}, BODY, OLD) is good, seconds
    late = stripe_signature(BODY, OLD, DEFAULT_NOW - timedelta(hours=1))
    now = int(DEFAULT_NOW.timestamp())
    renewed = f"t={now}" + late[late.index(",") :]
    assert not STRIPE.accepts({"stripe-signature": renewed}, BODY, OLD)


def test_one_good_signature_of_several_is_enough_and_other_schemes_do_not_count() -> None:
    good = STRIPE.sign(BODY, NEW).split(",")[1]
    moment = int(DEFAULT_NOW.timestamp())
    wrong = "v1=" + "0" * 64
    assert STRIPE.accepts({"stripe-signature": f"t={moment},{wrong},{good}"}, BODY, NEW)
    assert not STRIPE.accepts({"stripe-signature": f"t={moment},{good.replace('v1', 'v0')}"}, BODY, NEW)
    assert not STRIPE.accepts({"stripe-signature": f"t={moment},t={moment},{good}"}, BODY, NEW)
    assert not STRIPE.accepts({"stripe-signature": good}, BODY, NEW)


@pytest.mark.parametrize("secrets", [[""], ["whsec_" + "of_the_fake", ""]])
def test_installation_with_an_empty_secret_does_not_start(secrets: list[str]) -> None:
    """Anybody can sign with nothing."""
    for settings, field in (
        (StripeSettings, "stripe_webhook_secrets"),
        (LemonSqueezySettings, "lemon_squeezy_webhook_secrets"),
    ):
        with pytest.raises(ValidationError, match="at least 6"):
            settings.model_validate({field: secrets, "lemon_squeezy_store_id": "7"})
