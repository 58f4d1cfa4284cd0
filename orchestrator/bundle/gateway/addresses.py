"""Finds the address of a client behind trusted proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from .errors import ContradictionError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(name: str, words: Sequence[str]) -> tuple[Network, ...]:
    """Read addresses and networks such as `10.0.0.0/8`.

    Raises:
        ContradictionError: One is neither.
    """
    try:
        return tuple(ipaddress.ip_network(word) for word in words)
    except ValueError as error:
        message = f"{name}: {error}"
        raise ContradictionError(message) from error


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """Return the address of the client.

    Args:
        peer: The other end of the connection.
        forwarded: The values of the headers `X-Forwarded-For`, to which each proxy has added its own peer.
        trusted: The proxies. What others wrote into the header is not believed.
    """
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    address = peer
    while hops and _is_trusted(address, trusted):
        hop = hops.pop()
        try:
            address = str(ipaddress.ip_address(hop))
        except ValueError:
            break
    return address


def _is_trusted(address: str | None, trusted: Sequence[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # of a peer whose socket takes both versions of IP
    return any((mapped or found) in network for network in trusted)
