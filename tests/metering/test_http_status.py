"""What a denial is over HTTP."""

from services.metering.admission.hints import http_status_of
from tollhouse.metering.v1 import admission_pb2

STATUSES = {
    401: {"KEY_NOT_FOUND", "KEY_DISABLED", "KEY_REVOKED", "KEY_EXPIRED"},
    402: {"INSUFFICIENT_BALANCE"},
    403: {
        *("KEY_OWNER_INACTIVE", "KEY_INSUFFICIENT_SCOPE", "KEY_MODEL_NOT_ALLOWED", "KEY_ADDRESS_NOT_ALLOWED"),
        *("MODEL_UNKNOWN", "MODEL_INACTIVE", "PRICE_UNKNOWN", "CURRENCY_MISMATCH", "ACCOUNT_CLOSED"),
        *("AUTHORIZATION_ENDED", "SUBSCRIPTION_NOT_LIVE"),
    },
    429: {"LIMIT_EXCEEDED"},
}


def test_every_reason_has_the_status_that_the_page_names() -> None:
    reasons = {name.removeprefix("DENIAL_REASON_") for name in admission_pb2.DenialReason.keys()} - {"UNSPECIFIED"}
    found = {status: {reason for reason in reasons if http_status_of(reason) == status} for status in STATUSES}
    assert found == STATUSES
