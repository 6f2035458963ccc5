"""`tollhouse entitlements`: what it prints can be typed again."""

import pytest

from libs.cli.failures import WrongUse
from libs.cli.terminal.entitled import entitlement_text, read_entitlement
from tests.billing.plan_calls import everything
from tests.system.commands import done, found, refused
from tests.system.installation import Installation, create_organization_and_owner

WHY = ("--reason", "as agreed")


async def test_overrides_are_set_listed_and_cleared(installation: Installation) -> None:
    async with installation.connection().open() as channels:
        org, user = await create_organization_and_owner(channels)
    done(installation, "entitlements", "override", org, "budget", "20 spend USD per period, soft", *WHY)
    done(installation, "entitlements", "override", org, "budget", "4", *WHY, "--user", user, "--expires", "30d")
    lines = done(installation, "entitlements", "list", org).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["budget", "20"], ["budget", "4"]]
    assert "20 spend USD per period, soft" in lines[1]
    (line,) = done(installation, "entitlements", "get", org, "--user", user).splitlines()[1:]
    assert line.split()[:3] == ["budget", "4", "override"]
    assert "no override" in done(installation, "entitlements", "clear", org, "budget", *WHY, "--user", user)
    assert len(found(installation, "entitlements", "list", org)) == 1
    said = refused(installation, 2, "entitlements", "override", org, "budget", "many", *WHY)
    assert "50 requests per minute" in said


def test_what_is_printed_is_read_as_what_it_was() -> None:
    for one in everything().entitlements:
        assert read_entitlement(one.entitlement_code, entitlement_text(one)) == one


@pytest.mark.parametrize("value", ["maybe", "many requests per minute", "5 requests per fortnight", '"', "5 requests"])
def test_a_value_that_allows_nothing_is_refused(value: str) -> None:
    with pytest.raises(WrongUse):
        read_entitlement("code", value)
