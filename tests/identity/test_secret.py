"""The format of secrets, and the peppers of their digests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.api_key.secret import (
    SECRET_LENGTH,
    InvalidPeppers,
    Peppers,
    is_well_formed,
    new_secret,
)

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("live", "prefix"), [(True, "th_live_"), (False, "th_test_")])
def test_new_secrets_are_well_formed_and_differ(live: bool, prefix: str) -> None:
    made = {new_secret(live=live) for _ in range(200)}

    assert len(made) == 200
    assert all(is_well_formed(secret) and secret.startswith(prefix) for secret in made)
    assert {len(secret) for secret in made} == {SECRET_LENGTH}


@given(position=st.integers(0, SECRET_LENGTH - 1), replacement=st.sampled_from(BASE62))
def test_any_single_wrong_character_is_noticed(position: int, replacement: str) -> None:
    secret = new_secret(live=True)
    changed = secret[:position] + replacement + secret[position + 1 :]

    assert is_well_formed(changed) == (changed == secret)


@given(st.text(max_size=80))
def test_arbitrary_text_is_no_secret(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda secret: "",
        lambda secret: secret[:-1],
        lambda secret: secret + "0",
        lambda secret: " " + secret[1:],
        lambda secret: secret.upper(),
        lambda secret: secret.replace("th_live_", "th_prod_"),
        lambda secret: secret[:20] + "\x00" + secret[21:],
        lambda secret: secret[:20] + "\N{FULLWIDTH DIGIT ONE}" + secret[21:],
        lambda secret: secret + "\n",
    ],
)
def test_spoilt_secrets_are_turned_away(spoil: Callable[[str], str]) -> None:
    assert not is_well_formed(spoil(new_secret(live=True)))


def test_digest_is_of_the_exact_bytes_and_of_the_highest_version() -> None:
    old, new = bytes(32), bytes([1] * 32)
    both = Peppers({1: old, 2: new})
    secret = new_secret(live=True)

    assert both.current_version == 2
    assert len(both.digest(secret)) == 32
    assert both.digest(secret) == Peppers({2: new}).digest(secret)
    assert both.older_digests(secret) == {Peppers({1: old}).digest(secret): 1}
    assert both.digest(secret) != both.digest(secret[:-1])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"1": "zz"}', '{"one": "00"}', json.dumps({"1": "ab" * 31}), json.dumps({"0": "ab" * 32})],
)
def test_unusable_pepper_file_is_refused_without_repeating_it(content: str, tmp_path: Path) -> None:
    path = tmp_path / "peppers.json"
    path.write_text(content)

    with pytest.raises(InvalidPeppers) as refused:
        Peppers.read(path)

    assert "abab" not in str(refused.value)
