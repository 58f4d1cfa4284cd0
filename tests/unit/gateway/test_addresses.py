"""Whose address counts behind proxies."""

from __future__ import annotations

import pytest

from orchestrator.bundle.gateway.addresses import client_address, parse_networks
from orchestrator.bundle.gateway.errors import ContradictionError

PROXIES = parse_networks("P", ("10.0.0.0/8", "2001:db8::1"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.7",), "192.0.2.1"),  # nobody asked for its word
        ("10.0.0.1", (), "10.0.0.1"),
        ("::ffff:10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("::ffff:192.0.2.1", ("198.51.100.7",), "::ffff:192.0.2.1"),
        ("10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("1.1.1.1, 198.51.100.7",), "198.51.100.7"),  # what a client wrote itself comes first
        ("10.0.0.1", ("198.51.100.7, 10.0.0.2",), "198.51.100.7"),
        ("10.0.0.1", ("1.1.1.1", "198.51.100.7,10.0.0.2"), "198.51.100.7"),
        ("2001:db8::1", ("2001:db8::7",), "2001:db8::7"),
        ("10.0.0.1", ("nobody",), "10.0.0.1"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        (None, ("198.51.100.7",), None),
    ],
)
def test_only_trusted_proxies_say_who_asks(peer: str | None, forwarded: tuple[str, ...], client: str | None) -> None:
    assert client_address(peer, forwarded, PROXIES) == client


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert client_address("10.0.0.1", ("198.51.100.7",), ()) == "10.0.0.1"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ContradictionError, match=r"P: .*10\.0\.0\.1/8"):
        parse_networks("P", ("10.0.0.1/8",))
