"""Which spellings of a value the gateway takes beside the one that answers have, and which it refuses.

docs/rest.md lists them. They are those of the JSON parser in Envoy: an Envoy that takes others fails here.
"""

from collections.abc import Mapping
from typing import Final

import pytest

from tests.gateway.recorder import Recorder
from tests.gateway.test_requests import ORGANIZATION, USAGE, request_of
from tests.support.rest import Rest

QUERY: Final = f"/v1/organizations/{ORGANIZATION}/usage:query"
KEYS: Final = f"/v1/organizations/{ORGANIZATION}/api-keys"
LEASE: Final = f"/v1/organizations/{ORGANIZATION}/leases:acquire"
RECORD: Final = "/v1/usage:batchRecord"
MODEL: Final = "USAGE_DIMENSION_MODEL"
ANY_CASE_TRUE: Final = ("true", "True", "tRUE", "t", "T", "yes", "YES", "y", "1")
ANY_CASE_FALSE: Final = ("false", "FALSE", "f", "no", "No", "n", "0")

Written = tuple[str, str, str, object]
"""A path, the field of its body, the value as it is written, and what the service gets; None where that is nothing."""
TAKEN: Final[tuple[Written, ...]] = (
    *((USAGE, "partial", f'"{text}"', True) for text in ANY_CASE_TRUE),
    *((USAGE, "partial", f'"{text}"', None) for text in ANY_CASE_FALSE),
    *(("/v1/units", "kind", text, "UNIT_KIND_TOKEN") for text in ("1", '"1"', "1.0")),
    ("/v1/units", "kind", "99", 99),
    *((USAGE, "tokens", f'{{"input":{text}}}', {"input": "5"}) for text in ("5", '"5"', '"+05"', "5.0", "5.")),
    (USAGE, "tokens", '{"input":1e2}', {"input": "100"}),
    (USAGE, "tokens", '{"input":9007199254740993}', {"input": "9007199254740993"}),
    # With a point it is a double.
    (USAGE, "tokens", '{"input":9007199254740993.0}', {"input": "9007199254740992"}),
    *((QUERY, "groupBy", text, [MODEL]) for text in (f'"{MODEL}"', f'[["{MODEL}"]]', "1", '["1"]')),
    *((KEYS, "scopes", text, ["a"]) for text in ('"a"', '[["a"]]', '["a",null]')),
    (RECORD, "usages", '{"model":"a"}', [{"model": "a"}]),
    *((USAGE, field, "null", None) for field in ("partial", "tokens", "labels", "occurTime", "model")),
    (USAGE, "labels", '{"a":null}', {"a": ""}),
    (USAGE, "occurTime", '"2026-01-01T01:00:00+01:00"', "2026-01-01T00:00:00Z"),
    (USAGE, "occurTime", '{"seconds":5}', "1970-01-01T00:00:05Z"),
    (USAGE, "occurTime", '"2026-01-01T23:59:60Z"', "2026-01-02T00:00:00Z"),
    *((LEASE, "ttl", text, "60s") for text in ('" 60s"', '"60.s"', '{"seconds":60}')),
    *(("/v1/models:import", "litellmJson", f'"{text}"', "YQ==") for text in ("YQ==", "YQ", "YR==", "Y Q")),
    *(("/v1/models:import", "litellmJson", f'"{text}"', "/+8=") for text in ("/+8=", "_-8")),
)
REFUSED: Final = (
    *((USAGE, "partial", text) for text in ("1", "0", "1.0", '"on"', '"off"', '""', '" true"', '"2"', "[true]", "{}")),
    *(("/v1/units", "kind", text) for text in ('"unit_kind_token"', '"TOKEN"', '""', '"99"', "1.5", "true", '["1"]')),
    *(("/v1/units", "unitId", text) for text in ("5", "true", '["a"]', '{"a":1}')),
    *(
        (USAGE, "tokens", f'{{"input":{text}}}')
        for text in ('"5.0"', '"1e2"', '" 5"', '"0x5"', "05", "1.5", '""', "true", "[5]", "9223372036854775808", ".5")
    ),
    *((USAGE, "tokens", text) for text in ("5", '"a"', '[{"input":5}]')),
    *((KEYS, "scopes", text) for text in ("5", "[5]", '{"a":1}')),
    *((USAGE, "labels", text) for text in ('{"a":5}', '[{"key":"a","value":"b"}]', '"a"')),
    *((USAGE, "occurTime", text) for text in ("5", '"2026-01-01"', '"2026-01-01T00:00:00"', '"2026-01-01 00:00:00Z"')),
    *((LEASE, "ttl", text) for text in ("60", '"60"', '"1m"', '".5s"', '"60S"')),
    *(("/v1/models:import", "litellmJson", text) for text in ('"YQ="', '"Y"', '"!!"', "5")),
)
QUERY_TAKEN: Final = (
    *(("/v1/products", "includeInactive", text, True) for text in ANY_CASE_TRUE),
    *(("/v1/products", "includeInactive", text, None) for text in ANY_CASE_FALSE),
    *(("/v1/units", "kind", text, "UNIT_KIND_TOKEN") for text in ("UNIT_KIND_TOKEN", "1")),
    *(("/v1/units", "pageSize", text, 5) for text in ("5", "05", "+5", "%2B5")),
)
QUERY_REFUSED: Final = (
    *(("/v1/products", "includeInactive", text) for text in ("on", "2", "", "%20true")),
    *(("/v1/units", "kind", text) for text in ("unit_kind_token", "99", "")),
    *(("/v1/units", "pageSize", text) for text in ("5.0", "1e2", "%205", "")),
)


async def test_spelling_that_the_page_lists_is_taken_for_its_value(rest: Rest, recorder: Recorder) -> None:
    got = {one[:3]: await _got(rest, recorder, "POST", one[0], f'{{"{one[1]}":{one[2]}}}', one[1]) for one in TAKEN}
    assert got == {one[:3]: one[3] for one in TAKEN}


async def test_spelling_in_a_query_that_the_page_lists_is_taken_for_its_value(rest: Rest, recorder: Recorder) -> None:
    got = {
        one[:3]: await _got(rest, recorder, "GET", f"{one[0]}?{one[1]}={one[2]}", None, one[1]) for one in QUERY_TAKEN
    }
    assert got == {one[:3]: one[3] for one in QUERY_TAKEN}


@pytest.mark.parametrize(("target", "field", "text"), REFUSED, ids=range(len(REFUSED)))
async def test_any_other_spelling_is_refused(
    rest: Rest, recorder: Recorder, target: str, field: str, text: str
) -> None:
    answer = await rest.call("POST", target, f'{{"{field}":{text}}}')
    assert (answer.status, recorder.take()) == (400, []), answer.body


@pytest.mark.parametrize(("target", "field", "text"), QUERY_REFUSED, ids=range(len(QUERY_REFUSED)))
async def test_any_other_spelling_in_a_query_is_refused(
    rest: Rest, recorder: Recorder, target: str, field: str, text: str
) -> None:
    answer = await rest.call("GET", f"{target}?{field}={text}")
    assert (answer.status, recorder.take()) == (400, []), answer.body


async def _got(rest: Rest, recorder: Recorder, verb: str, target: str, body: str | None, field: str) -> object:
    answer = await rest.call(verb, target, body)
    assert answer.status == 200, (target, body, answer.body)
    call = recorder.take_one()
    request: Mapping[str, object] = request_of(call.method, call.request)
    return request.get(field)
