"""The configuration says what descriptors stand for, and is refused with a reason where it makes no sense."""

import json

import pytest

from libs.common.ids import new_id
from services.metering.quota.domain import Call
from services.metering.rate_limit.descriptors import Described, InvalidDescriptors, read_descriptors

ORGANIZATION = new_id()
OWN = "019a0000-0000-7000-8000-00000000000a"


def rule(*entries: dict[str, str], **fields: str) -> dict[str, object]:
    return {"domain": "edge", "entries": list(entries), **fields}


OF_ORGANIZATION = {"key": "organization", "field": "organization_id"}


def read(*rules: dict[str, object]) -> str:
    return json.dumps({"unknown": "DENY", "rules": rules})


def test_descriptor_becomes_what_the_first_rule_with_its_keys_and_values_says() -> None:
    descriptors = read_descriptors(
        read(
            rule(OF_ORGANIZATION, {"key": "kind", "value": "tokens"}, metric="total_tokens"),
            rule(OF_ORGANIZATION, {"key": "kind", "value": "money"}, metric="spend", currency_code="USD"),
            rule(OF_ORGANIZATION, {"key": "kind"}),
            rule(OF_ORGANIZATION, {"key": "team", "field": "labels.team"}, {"key": "m", "field": "model"}),
            rule({"key": "kind"}, organization_id=OWN),
        )
    )

    def found(*entries: tuple[str, str], domain: str = "edge") -> Described | None:
        return descriptors.described(domain, entries)

    mine = ("organization", ORGANIZATION.upper())
    assert found(mine, ("kind", "tokens")) == (ORGANIZATION, Call(labels={}), "total_tokens", "")
    assert found(mine, ("kind", "money")) == (ORGANIZATION, Call(labels={}), "spend", "USD")
    assert found(("kind", "else"), mine) == (ORGANIZATION, Call(labels={}), "requests", "")
    assert found(("kind", "else")) == (OWN, Call(labels={}), "requests", "")
    call = Call(model="gpt-4o", labels={"team": "red"})
    assert found(("m", "gpt-4o"), mine, ("team", "red")) == (ORGANIZATION, call, "requests", "")
    for entries in (
        (),
        (mine,),
        (mine, ("kind", "x"), ("more", "x")),
        (mine, mine, ("kind", "x")),
        (mine, ("kind", "x"), ("kind", "y")),
        (("organization", "acme"), ("kind", "x")),
        (("organization", ""), ("kind", "x")),
        (mine, ("kind", "x" * 257)),
    ):
        assert found(*entries) is None
    assert found(mine, ("kind", "x"), domain="other") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ("[]", "it: Input should be an object"),
        ('{"rules": []}', "unknown: Field required"),
        ('{"unknown": "PERHAPS", "rules": []}', "'ALLOW' or 'DENY'"),
        ('{"unknown": "DENY", "rules": [], "more": 1}', "more: Extra inputs"),
        (read(rule()), "rules.0.entries"),
        (read(rule(OF_ORGANIZATION, metric="Requests")), "rules.0.metric"),
        (read(rule(OF_ORGANIZATION, metric="concurrent_calls")), "does not say when a request has ended"),
        (read(rule(OF_ORGANIZATION, metric="spend")), "spend needs a currency_code"),
        (read(rule(OF_ORGANIZATION, currency_code="USD")), "spend needs a currency_code"),
        (read(rule({"key": "organization"})), "the organization must be said"),
        (read(rule(OF_ORGANIZATION, organization_id=OWN)), "the organization must be said"),
        (read(rule({"key": "a"}, organization_id="acme")), "rules.0.organization_id"),
        (read(rule(OF_ORGANIZATION, {"key": "a", "field": "planet"})), "planet is no field of a call"),
        (read(rule(OF_ORGANIZATION, {"key": "a", "field": "labels."})), "labels. is no field of a call"),
        (read(rule(OF_ORGANIZATION, {"key": "organization"})), "a key is there twice"),
        (read(rule(OF_ORGANIZATION, {"key": "other", "field": "organization_id"})), "a field is there twice"),
    ],
)
def test_configuration_that_makes_no_sense_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(InvalidDescriptors) as refused:
        read_descriptors(text)
    assert reason in str(refused.value)
