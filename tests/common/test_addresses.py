"""IP addresses and ranges: every spelling has the same canonical form and meaning."""

import pytest

from libs.common.addresses import AddressList, covers, network_text, parse_network, site_of


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_each_range_has_one_canonical_form(text: str, form: str) -> None:
    assert network_text(parse_network(text)) == form


@pytest.mark.parametrize("text", ["", "10", "192.0.2.1/24", "192.0.2.0/33", "2001:db8::1/64", "fe80::1%eth0", "a.test"])
def test_invalid_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_network(text)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::9", True),
        ("2001:db9::9", False),
        ("2001:db8::9%eth0", True),
        ("", False),
        ("nonsense", False),
    ],
)
def test_list_allows_only_addresses_in_its_ranges(address: str, allowed: bool) -> None:
    assert AddressList(["10.0.0.0/8", "2001:db8::/32"]).allows(address) is allowed


def test_range_covers_ranges_within_it_of_the_same_ip_version() -> None:
    wide, narrow, other = map(parse_network, ("10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"))
    assert covers(wide, narrow)
    assert not covers(narrow, wide)
    assert not covers(wide, other)
    assert covers(other, parse_network("2001:db8:1::/48"))


def test_site_is_the_ipv4_address_or_the_ipv6_network_of_one_customer() -> None:
    assert site_of("192.0.2.7") == site_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert site_of("2001:db8::1") == site_of("2001:db8::2") != site_of("2001:db8:0:1::1")
    assert site_of("nonsense") == ""
