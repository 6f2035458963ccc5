"""Lists of IP addresses and ranges: parsing, normalizing and matching.

An IPv4 address inside IPv6 (`::ffff:192.0.2.1`) counts as the IPv4 address inside it, in lists and in
look-ups: which form a caller has depends on how its socket was opened.
"""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
_MAPPED_BITS: Final = 96
_HOPS_MAX: Final = 16
_SITE_BITS: Final = 64
"""The length of the IPv6 prefix that one customer usually owns."""


@lru_cache(maxsize=4_096)
def parse_address(text: str) -> Address | None:
    """Return the address, or None for other text. An IPv6 zone is left out: it has a meaning on one machine only."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def parse_network(text: str) -> Network:
    """Return the range a text stands for; a single address is a range of one.

    Raises:
        ValueError: it stands for none, or has bits set behind its prefix.
    """
    if "%" in text:
        raise ValueError(text)
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def client_behind(address: Address, forwarded_for: str, proxies: Collection[Network]) -> Address:
    """Return the nearest address of an HTTP header `x-forwarded-for` that is none of our proxies.

    That is the connected address itself where it is no proxy, or where the header tells nothing of it.
    """
    for hop in reversed(forwarded_for.split(",")[-_HOPS_MAX:]):
        if not any(address in network for network in proxies):
            break
        try:
            address = ip_address(hop.strip())
        except ValueError:
            break
    return address


def network_text(network: Network) -> str:
    """Return the one form in which a range is written; a range of one is written as the address."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def covers(outer: Network, inner: Network) -> bool:
    """Tell whether all of one range lies within another."""
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def site_of(text: str) -> str:
    """Return the key under which calls from this address, or its IPv6 network, are counted; empty for no address."""
    address = parse_address(text)
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), _SITE_BITS), strict=False))


class AddressList:
    """A list of allowed addresses, prepared for fast look-ups."""

    __slots__ = ("_networks",)

    def __init__(self, texts: Collection[str]) -> None:
        self._networks = tuple(map(parse_network, texts))

    def allows(self, text: str) -> bool:
        """Tell whether an address is in the list; what is no address is not."""
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)
