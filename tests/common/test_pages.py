"""A page token is valid only for the next page of the same list."""

import base64
import json

import pytest

from libs.common.errors import InvalidArgument
from libs.common.pages import decode_page_token, encode_page_token, page_size


def test_page_token_decodes_to_its_key() -> None:
    token = encode_page_token("2026-01-01", "a|b", fingerprint="q")

    assert decode_page_token(token, "q") == ("2026-01-01", "a|b")


@pytest.mark.parametrize(
    "token",
    [
        encode_page_token("1", fingerprint="another"),
        "",
        "garbage!",
        "é",
        base64.urlsafe_b64encode(b"{}").decode(),
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(json.dumps(["q", 1]).encode()).decode(),
        base64.urlsafe_b64encode(json.dumps(["q", "a\x00"]).encode()).decode(),
        base64.urlsafe_b64encode(json.dumps(["q", "\ud800"]).encode()).decode(),
        base64.urlsafe_b64encode(b"[" * 1500).decode(),
        "A" * 5000,
    ],
)
def test_foreign_or_damaged_token_is_refused_naming_the_field(token: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        decode_page_token(token, "q")

    assert [violation.field for violation in refusal.value.violations] == ["page_token"]


def test_page_size_has_a_default_and_a_maximum() -> None:
    assert page_size(0) == 50
    assert page_size(7) == 7
    assert page_size(100_000) == 1000
    with pytest.raises(InvalidArgument):
        page_size(-1)
