from __future__ import annotations

import os

from orchestrator.store import owner


def test_this_process_lives() -> None:
    assert owner.is_running(owner.this_process())


def test_a_process_of_an_earlier_boot_is_gone() -> None:
    _, _, rest = owner.this_process().partition(":")
    assert not owner.is_running(f"00000000-0000-0000-0000-000000000000:{rest}")


def test_a_process_whose_number_was_given_to_another_is_gone() -> None:
    boot, _, _ = owner.this_process().partition(":")
    assert not owner.is_running(f"{boot}:{os.getpid()}:1")


def test_an_owner_that_is_not_known_counts_as_living() -> None:
    assert owner.is_running("")


def test_a_process_of_another_host_counts_as_living_because_this_one_cannot_know() -> None:
    _, _, rest = owner.this_process().partition(":")
    assert owner.is_running(f"00000000-0000-0000-0000-000000000000@another:{rest}")


def test_a_process_of_an_earlier_boot_of_this_host_is_gone() -> None:
    place, _, rest = owner.this_process().partition(":")
    _, _, host = place.partition("@")
    assert not owner.is_running(f"00000000-0000-0000-0000-000000000000@{host}:{rest}")
