"""Which names are time zones."""

import pytest

from libs.common.errors import FieldViolation
from libs.common.time_zones import UnknownTimeZone, parse_time_zone, zone_named

NOT_IANA_ZONES = (
    "localtime",
    "posixrules",
    "Factory",
    "posix/Europe/Berlin",
    "right/Europe/Berlin",
    "/usr/share/zoneinfo/Europe/Berlin",
    "../zoneinfo/Europe/Berlin",
    "Europe//Berlin",
    "Europe/",
    "Europe",
    "/",
    ".",
    "Europe/Berlin\n",
    "Europe/Berlin\0",
    "zone.tab",
    "leapseconds",
    "+00:00",
    "Mars/Olympus",
    "Zürich",
)


@pytest.mark.parametrize("name", NOT_IANA_ZONES, ids=repr)
def test_only_iana_names_are_time_zones(name: str) -> None:
    violations: list[FieldViolation] = []

    assert parse_time_zone("zone", name, violations).key == "UTC"
    assert [violation.field for violation in violations] == ["zone"]
    with pytest.raises(UnknownTimeZone):
        zone_named(name)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT-14"])
def test_iana_names_are_time_zones(name: str) -> None:
    assert parse_time_zone("zone", name, []).key == zone_named(name).key == name


def test_no_name_is_utc_in_a_request_and_no_zone_elsewhere() -> None:
    assert parse_time_zone("zone", "", []).key == "UTC"
    with pytest.raises(UnknownTimeZone):
        zone_named("")
