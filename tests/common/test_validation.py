"""Violations of a request: all are reported at once, each field once, in plain sentences."""

import pytest
from buf.validate import validate_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common import validation
from libs.common.errors import FieldViolation, InvalidArgument, PermissionDenied
from libs.common.ids import new_id
from libs.common.violation_messages import PATTERN_WORDS
from tests.contract import contract
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.common.v1 import amount_pb2
from tollhouse.identity.v1 import api_key_pb2, organization_pb2
from tollhouse.metering.v1 import usage_pb2


def problems(request: Message, read: validation.Reader | None = None) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as raised:
        validation.check(request, read)
    found = raised.value.violations
    assert len({violation.field for violation in found}) == len(found)
    return {violation.field: violation.description for violation in found}


def refusing(*fields: str) -> validation.Reader:
    def read(request: Message) -> None:
        raise InvalidArgument([FieldViolation(field, "read") for field in fields])

    return read


BROKEN = ledger_pb2.DebitRequest(organization_id=new_id(), operation_id="x", amount=None)


def test_reader_is_not_called_for_a_valid_request() -> None:
    amount = amount_pb2.Amount(currency_code="USD", value="1")

    validation.check(
        ledger_pb2.DebitRequest(organization_id=new_id(), operation_id="x", amount=amount), refusing("amount")
    )


def test_violations_of_reader_and_annotations_are_reported_together() -> None:
    assert problems(BROKEN, refusing("description", "metadata")) == {
        "amount": "is required",
        "description": "read",
        "metadata": "read",
    }


def test_invalid_field_is_reported_once_and_without_its_parts() -> None:
    assert problems(BROKEN, refusing("amount", "amount.value", "amount[0]", "amounts")) == {
        "amount": "is required",
        "amounts": "read",
    }


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), ArithmeticError, RecursionError, PermissionDenied()])
def test_failing_reader_hides_no_violation(error: Exception) -> None:
    def read(request: Message) -> None:
        raise error

    assert problems(BROKEN, read) == {"amount": "is required"}


def test_times_at_any_depth_are_checked_together_with_the_annotations() -> None:
    request = usage_pb2.QueryUsageRequest(organization_id="x", start_time=Timestamp(seconds=-1))
    request.end_time.seconds = 2**62
    nested = api_key_pb2.ImportApiKeysRequest(
        api_keys=[api_key_pb2.ImportedApiKey(), api_key_pb2.ImportedApiKey(expire_time=Timestamp(nanos=-1))]
    )

    assert problems(request).keys() == {"organization_id", "start_time", "end_time"}
    assert "api_keys[1].expire_time" in problems(nested)


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (ledger_pb2.DebitRequest(), "organization_id", "must be a UUID"),
        (ledger_pb2.DebitRequest(organization_id="acme"), "organization_id", "must be a UUID"),
        (ledger_pb2.DebitRequest(), "operation_id", "must be 1 to 255 visible ASCII characters, without spaces"),
        (ledger_pb2.DebitRequest(), "amount", "is required"),
        (ledger_pb2.ListHoldsRequest(page_token="x" * 5_000), "page_token", "must have at most 2048 characters"),
        (ledger_pb2.DebitRequest(mode=99), "mode", "must be one of the values that the enum names"),  # type: ignore[arg-type]
        (
            ledger_pb2.DebitRequest(amount=amount_pb2.Amount(value="1e5")),
            "amount.value",
            "must be a plain decimal of at most 15 integer and 9 fraction digits",
        ),
        (
            ledger_pb2.DebitRequest(amount=amount_pb2.Amount(currency_code="usd")),
            "amount.currency_code",
            "must be a code of 2 to 12 upper-case letters and digits, such as USD or CREDIT",
        ),
        (ledger_pb2.DebitRequest(metadata={str(n): "" for n in range(99)}), "metadata", "must have at most 16 entries"),
        (ledger_pb2.DebitRequest(metadata={"": ""}), "metadata[]", "the key must not be empty"),
        (ledger_pb2.BatchDebitRequest(), "requests", "must not be empty"),
        (ledger_pb2.ListHoldsRequest(page_size=-1), "page_size", "must be at least 0 and at most 1000"),
        (ledger_pb2.ListHoldsRequest(page_size=1_001), "page_size", "must be at least 0 and at most 1000"),
        (
            ledger_pb2.ExtendHoldRequest(ttl=Duration(seconds=10**9)),
            "ttl",
            "must be greater than 0s and at most 86400s",
        ),
        (
            organization_pb2.CreateOrganizationRequest(name="   "),
            "name",
            "must not be blank, nor hold control characters or line breaks",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_violations_are_plain_sentences(request_: Message, field: str, words: str) -> None:
    assert problems(request_)[field] == words


def test_every_pattern_of_the_contract_has_a_message() -> None:
    patterns = {rules.string.pattern for rules in _all_rules() if rules.string.pattern}

    assert patterns
    assert patterns - PATTERN_WORDS.keys() == set()


def test_no_message_repeats_a_regular_expression_or_is_too_long() -> None:
    assert [words for words in PATTERN_WORDS.values() if "^" in words or "\\" in words or len(words) > 120] == []


@pytest.mark.parametrize("count", [0, 1, 16, 17, 5_000])
def test_refusal_of_any_number_of_fields_fits_into_a_response(count: int) -> None:
    refusal = InvalidArgument(
        [FieldViolation(f"requests[{n}].amount.value", "must not be negative") for n in range(count)]
    )

    assert len(refusal.violations) == count
    assert len(refusal.shown) <= 17
    assert len(refusal.message.encode()) < 2_000
    if count > 17:
        assert refusal.shown[-1] == FieldViolation("", f"and {count - 16} more")
        assert refusal.message.endswith(f"; and {count - 16} more.")


def test_refusal_of_very_long_fields_fits_into_a_response() -> None:
    refusal = InvalidArgument([FieldViolation("€" * 80 + str(n), "€" * 100) for n in range(20)])

    assert 1 < len(refusal.shown) < 5
    assert len(refusal.message.encode()) < 2_000


def _all_rules() -> list[validate_pb2.FieldRules]:
    found: list[validate_pb2.FieldRules] = []
    for _, field in contract.fields():
        rules = field.options.Extensions[validate_pb2.field]
        found += [rules, rules.repeated.items, rules.map.keys, rules.map.values]
    return found
