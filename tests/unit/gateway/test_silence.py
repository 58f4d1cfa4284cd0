"""When trtllm-serve counts as hung, by a clock of the test."""

from __future__ import annotations

from contextlib import suppress

import pytest

from orchestrator.bundle.gateway.silence import Silence, default_limit


class Clock:
    """Tells the time that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_streamed_answer_without_a_next_part_is_silence(clock: Clock) -> None:
    silence = Silence(60, 8, clock)
    with silence.awaited() as answer:
        for seconds in (30, 50, 59):
            with answer:
                clock.now += seconds
                assert not silence.is_too_long
            assert silence.seconds == 0
        with answer:
            clock.now += 60
            assert silence.is_too_long


def test_an_answer_that_is_not_streamed_may_take_any_time(clock: Clock) -> None:
    silence = Silence(60, 8, clock)
    with silence.awaited():
        clock.now += 10_000
        assert not silence.is_too_long


def test_a_client_that_does_not_read_is_no_silence(clock: Clock) -> None:
    silence = Silence(60, 8, clock)
    with silence.awaited() as answer:
        with answer:
            clock.now += 1
        clock.now += 10_000  # the part is being written to the client
        assert not silence.is_too_long


def test_a_request_that_waits_for_its_place_is_no_silence(clock: Clock) -> None:
    silence = Silence(60, 1, clock)
    with silence.awaited(), silence.awaited() as second:
        with second:
            clock.now += 10_000
            assert not silence.is_too_long
        with second:  # it has its place since its first part
            clock.now += 60
            assert silence.is_too_long


def test_the_part_of_any_answer_is_a_sign(clock: Clock) -> None:
    silence = Silence(60, 8, clock)
    with silence.awaited() as first, silence.awaited() as second, first:
        clock.now += 50
        with second:
            clock.now += 5
        clock.now += 50
        assert not silence.is_too_long
        clock.now += 10
        assert silence.is_too_long


def test_clients_that_give_up_end_no_silence_and_the_time_between_them_does_not_count(clock: Clock) -> None:
    silence = Silence(60, 8, clock)
    for _ in range(2):
        clock.now += 10_000
        with suppress(ConnectionError), silence.awaited() as answer, answer:
            clock.now += 25
            raise ConnectionError
    assert silence.seconds == 50
    with silence.awaited() as answer, answer:
        clock.now += 10
        assert silence.is_too_long


def test_health_checks_without_an_answer_are_silence(clock: Clock) -> None:
    silence = Silence(60, 8, clock)
    silence.note_health(answered=False)
    clock.now += 59
    assert not silence.is_too_long
    silence.note_health(answered=True)
    clock.now += 1000
    assert silence.seconds == 0
    silence.note_health(answered=False)
    clock.now += 60
    assert silence.is_too_long


def test_without_a_limit_nothing_hangs(clock: Clock) -> None:
    silence = Silence(0, 8, clock)
    silence.note_health(answered=False)
    clock.now += 10_000
    assert not silence.is_too_long


@pytest.mark.parametrize(("tokens", "seconds"), [(4096, 320), (131_072, 955), (1_048_576, 5542), (None, 3600)])
def test_the_default_is_longer_than_the_longest_prefill(tokens: int | None, seconds: float) -> None:
    assert default_limit(tokens) == seconds
    assert tokens is None or seconds > tokens / 481  # the slowest prefill that was published for a DGX Spark
