"""Lists of IP addresses and ranges: read, put into one form, and asked.

An IPv4 address inside IPv6 (`::ffff:192.0.2.1`) counts as the IPv4 address it stands for, in lists and in questions:
which of the two a caller shows is up to its sockets.
"""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
_MAPPED_BITS: Final = 96
_SITE_BITS: Final = 64
"""Whoever has an IPv6 address has as a rule all those that share so many bits."""


@lru_cache(maxsize=4_096)
def parse_address(text: str) -> Address | None:
    """Return the address, or None for a text that is none. A zone, which is one machine's own matter, is left out."""
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


def network_text(network: Network) -> str:
    """Return the one form in which a range is written; a range of one is written as the address."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def covers(outer: Network, inner: Network) -> bool:
    """Tell whether all of one range lies within another."""
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def site_of(text: str) -> str:
    """Return what stands for everybody who is likely to be the same caller as this address; empty where it is none."""
    address = parse_address(text)
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), _SITE_BITS), strict=False))


class AddressList:
    """A list of allowed addresses, made quick to ask."""

    __slots__ = ("_networks",)

    def __init__(self, texts: Collection[str]) -> None:
        self._networks = tuple(map(parse_network, texts))

    def allows(self, text: str) -> bool:
        """Tell whether an address is in the list; what is no address is not."""
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)
