"""Headers that HTTP allows and gRPC does not are no reason for a 500."""

import string

import pytest

from tests.gateway.recorder import Recorder
from tests.support.rest import Rest

TOKEN_SIGNS = "!#$%&'*+^`|~"
"""What a name of a header may hold beside letters, digits and `-_.` (RFC 9110, section 5.6.2)."""


@pytest.mark.parametrize("sign", TOKEN_SIGNS)
async def test_header_with_a_name_that_grpc_does_not_know_is_dropped(rest: Rest, recorder: Recorder, sign: str) -> None:
    for name in (sign, f"x-{sign}", f"{sign}-x", f"4b{sign}7"):
        answer = await rest.call("GET", "/v1/units", None, (name, "value"), ("x-kept", "value"))
        assert answer.status == 200, answer
        assert recorder.take_one().all_of("x-kept") == ["value"]


@pytest.mark.parametrize("value", ["a\tb", "é", "\x80", "\xff" * 100, string.printable[:94], "", " "])
async def test_header_with_any_value_is_no_internal_error(rest: Rest, recorder: Recorder, value: str) -> None:
    answer = await rest.call("GET", "/v1/units", None, ("x-odd", value.encode("latin-1")))  # type: ignore[arg-type]
    assert answer.status in (200, 400), answer
    assert len(recorder.take()) == (1 if answer.status == 200 else 0)


async def test_request_that_asks_to_upgrade_is_answered_as_any_other(rest: Rest, recorder: Recorder) -> None:
    for asked in ("websocket", "h2c", "nonsense"):
        answer = await rest.call("POST", "/v1/units", {}, ("connection", "upgrade"), ("upgrade", asked))
        assert answer.status == 200
        assert recorder.take_one().all_of("upgrade") == []
