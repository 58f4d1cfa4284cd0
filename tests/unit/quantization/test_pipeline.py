from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from orchestrator.quantization.pipeline import Buffers, BuffersClosedError, ReadAhead, WriteBehind


def test_everything_comes_in_order() -> None:
    with ReadAhead(range(100), 3) as ahead:
        assert list(ahead) == list(range(100))


def test_no_more_is_read_ahead_than_allowed() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    with ReadAhead(source(), 2) as ahead:
        assert next(iter(ahead)) == 0
        time.sleep(0.3)
        assert len(read) <= 5  # taken, waiting twice, one that finds no room, one in the making
    assert len(read) <= 6


def test_what_goes_wrong_while_reading_is_raised_where_items_are_taken() -> None:
    def source() -> Iterator[int]:
        yield 1
        message = "torn"
        raise OSError(message)

    with ReadAhead(source(), 3) as ahead:
        coming = iter(ahead)
        assert next(coming) == 1
        with pytest.raises(OSError, match="torn"):
            next(coming)


def test_whoever_stops_taking_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with ReadAhead(iter(range(10**9)), 2) as ahead:
        assert next(iter(ahead)) == 0
    assert threading.active_count() == before


def test_calls_are_made_in_order_and_waited_for() -> None:
    done: list[int] = []

    def call(number: int) -> Callable[[], None]:
        return lambda: done.append(number)

    with WriteBehind(2) as behind:
        for number in range(50):
            behind.do(call(number))
    assert done == list(range(50))


def test_after_a_call_failed_no_other_is_made_and_the_error_is_raised() -> None:
    done: list[int] = []

    def fail() -> None:
        message = "full"
        raise OSError(message)

    def ask() -> None:
        with WriteBehind(2) as behind:
            behind.do(fail)
            for number in range(100):
                behind.do(lambda: done.append(1))
                time.sleep(0.01)
                assert number < 90

    with pytest.raises(OSError, match="full"):
        ask()
    assert done == []


def test_the_error_of_the_last_call_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise OSError

    with pytest.raises(OSError, match=r"^$"), WriteBehind(5) as behind:
        behind.do(fail)


def test_an_error_elsewhere_wins() -> None:
    def fail() -> None:
        raise OSError

    def ask() -> None:
        with WriteBehind(5) as behind:
            behind.do(fail)
            raise KeyError

    with pytest.raises(KeyError):
        ask()


def test_what_follows_each_call_is_done_even_where_the_call_is_not_made() -> None:
    followed: list[int] = []

    def fail() -> None:
        raise ValueError

    def ask() -> None:
        with WriteBehind(4) as behind:
            for number in range(3):
                behind.do(fail, finally_=partial(followed.append, number))

    with pytest.raises(ValueError, match=r"^$"):
        ask()
    assert followed == list(range(len(followed)))
    assert followed


def test_no_more_buffers_are_lent_than_there_are() -> None:
    with Buffers(2, 100) as buffers:
        first = buffers.lend(100)
        buffers.lend(1)
        waiting = threading.Thread(target=buffers.lend, args=(1,), daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        first.give_back()
        waiting.join(10)
        assert not waiting.is_alive()


def test_every_buffer_is_used_before_one_is_used_again() -> None:
    with Buffers(3, 64) as buffers:
        places = []
        for _ in range(6):
            lent = buffers.lend(64)
            places.append(lent.memory.ctypes.data)
            lent.give_back()
    assert len(set(places)) == 3
    assert places[:3] == places[3:]


def test_what_is_larger_than_a_buffer_has_memory_of_its_own_and_does_not_wait() -> None:
    with Buffers(1, 64) as buffers:
        buffers.lend(64)
        assert len(buffers.lend(1000).memory) == 1000


def test_whoever_waits_for_a_buffer_is_sent_away_at_the_end() -> None:
    ended: list[type[BaseException]] = []

    def wait(buffers: Buffers) -> None:
        try:
            buffers.lend(1)
        except BuffersClosedError as error:
            ended.append(type(error))

    with Buffers(1, 64) as buffers:
        buffers.lend(1)
        waiting = [threading.Thread(target=wait, args=(buffers,), daemon=True) for _ in range(2)]
        for thread in waiting:
            thread.start()
    for thread in waiting:
        thread.join(10)
    assert ended == [BuffersClosedError] * 2


def test_arrays_of_one_buffer_do_not_overlap() -> None:
    lent = Buffers(1, 64).lend(64)
    codes, scales = lent.empty((3, 5), np.uint8), lent.empty((3,), np.float32)
    codes[:], scales[:] = 7, 1.5
    assert (codes == 7).all()
    assert (scales == 1.5).all()
    with pytest.raises(ValueError, match="64 bytes were lent"):
        lent.empty((10,), np.float64)
