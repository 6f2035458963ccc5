"""`tollhouse entitlements`: what it prints can be typed again."""

import pytest

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation

USER = "0197c5a8-0000-7000-8000-0000000000bb"
VALUES = ["yes", "no", "3", "-0.5", '"eu"', "50 requests per minute", "unlimited items per call"]


def test_overrides_are_set_listed_and_cleared(installation: Installation) -> None:
    org = new_id()
    why = ("--reason", "as agreed")
    for number, value in enumerate([*VALUES, "20 spend USD per period, soft"]):
        assert len(found(installation, "entitlements", "override", org, f"code_{number}", value, *why)) == 1
    done(installation, "entitlements", "override", org, "code_2", "4", *why, "--user", USER, "--expires", "30d")

    lines = done(installation, "entitlements", "list", org).splitlines()
    printed = [line.split("  ", 1)[1].strip() for line in lines if line.startswith("code_")]
    assert [line.split("  ")[0] for line in printed] == [*VALUES, "20 spend USD per period, soft", "4"]
    assert len(found(installation, "entitlements", "list", org, "--user", USER)) == 1

    for user, seats in (((), "3"), (("--user", USER), "4")):
        (line,) = (
            line
            for line in done(installation, "entitlements", "get", org, *user).splitlines()
            if line.startswith("code_2 ")
        )
        assert line.split()[:3] == ["code_2", seats, "override"]
    answer = made(installation, "entitlements", "get", org, "--model", "gpt-4o")
    assert len(answer["entitlements"]) == 8
    assert answer["revision"]

    assert "no override" in done(installation, "entitlements", "clear", org, "code_2", *why, "--user", USER)
    assert found(installation, "entitlements", "list", org, "--user", USER) == []
    assert "There are more" in installation.command("entitlements", "list", org, "--limit", "2").stderr


@pytest.mark.parametrize("value", ["maybe", "many requests per minute", "5 requests per fortnight", '"', "5 requests"])
def test_a_value_that_allows_nothing_is_refused(installation: Installation, value: str) -> None:
    said = refused(installation, 2, "entitlements", "override", new_id(), "code", value, "--reason", "as agreed")
    assert "50 requests per minute" in said
