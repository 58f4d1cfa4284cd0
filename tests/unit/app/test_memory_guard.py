"""The watch over memory: it lets a step be while there is enough, and stops it in time with the curve."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.app.memory_guard import POINTS, Kernel, MemoryGuard, MemorySeries, guard_for
from orchestrator.catalog.target import Target
from orchestrator.errors import HostMemoryError
from orchestrator.events import Event, MemoryUsed

GIB = 1 << 30
SPARK = Target(description="a Spark", architecture="arm64", memory=122 * GIB, reserve=12 * GIB, unified_memory=True)


@dataclass
class Machine:
    """A kernel whose words and clock a test writes."""

    folder: Path
    moment: float = 100.0
    total: int = 122 * GIB

    @property
    def kernel(self) -> Kernel:
        return Kernel(self.folder / "meminfo", self.folder / "pressure", lambda: self.moment)

    def say(self, available: float, stalled: float = 0.0) -> None:
        lines = {"MemTotal": self.total, "MemFree": 1, "MemAvailable": int(available * GIB)}
        (self.folder / "meminfo").write_text("".join(f"{name}: {size // 1024} kB\n" for name, size in lines.items()))
        (self.folder / "pressure").write_text(
            f"some avg10=99.00 avg60=0.00 avg300=0.00 total=0\nfull avg10={stalled} avg60=0.00 avg300=0.00 total=0\n"
        )

    def watch(self) -> MemoryGuard:
        return guard_for(SPARK, "quantize", self.kernel)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.say(100)
    return made


def test_a_step_with_enough_memory_is_let_be(machine: Machine) -> None:
    watch = machine.watch()
    for available in (100, 50, 20, 6.1):
        machine.say(available)
        watch()
        machine.moment += 1


def test_a_step_that_leaves_less_than_half_the_reserve_is_stopped(machine: Machine) -> None:
    watch = machine.watch()
    watch()
    machine.say(5.9)
    machine.moment += 1
    with pytest.raises(HostMemoryError, match=r"5\.9 GiB of memory are available, the machine needs 6 GiB"):
        watch()


def test_the_error_shows_the_curve_of_the_last_minute(machine: Machine) -> None:
    watch = machine.watch()
    for second in range(90):
        machine.say(95 - second)
        watch()
        machine.moment += 1
    machine.say(1)
    with pytest.raises(HostMemoryError) as caught:
        watch()
    curve, values = caught.value.message.splitlines()[1:]
    bars = curve.partition("available over the last 59 s: ")[2]
    assert len(bars) == 60
    assert (bars[0], bars[-1]) == ("█", "▁")
    assert values == "-50 s 55 GiB, -40 s 45 GiB, -30 s 35 GiB, -20 s 25 GiB, -10 s 15 GiB, 0 s 1 GiB"
    assert caught.value.exit_status == 5
    assert caught.value.hint


def test_it_looks_once_a_second_however_often_it_is_asked(machine: Machine) -> None:
    watch = machine.watch()
    watch()
    machine.say(1)
    watch()
    machine.moment += 0.9
    watch()
    machine.moment += 0.1
    with pytest.raises(HostMemoryError):
        watch()


def test_pressure_stops_a_step_only_when_it_lasts(machine: Machine) -> None:
    watch = machine.watch()
    for stalled in [70.0] * 20 + [10.0] + [70.0] * 20:
        machine.say(50, stalled)
        watch()
        machine.moment += 1
    with pytest.raises(HostMemoryError, match="everything waited for memory 70 % of the time, for 20 s"):
        watch()


def test_a_smaller_machine_has_a_smaller_floor(machine: Machine) -> None:
    machine.total = 12 * GIB
    machine.say(1)
    watch = machine.watch()
    watch()
    machine.say(0.5)
    machine.moment += 1
    with pytest.raises(HostMemoryError, match=r"the machine needs 0\.6 GiB"):
        watch()


@pytest.mark.parametrize("unlike", [{"unified_memory": False}, {"reserve": 0}])
def test_a_target_with_memory_of_its_own_is_not_stopped_but_has_a_curve(
    machine: Machine, unlike: dict[str, object]
) -> None:
    watch = guard_for(SPARK.model_copy(update=unlike), "quantize", machine.kernel)
    for available in (100, 0.25):
        machine.say(available, stalled=99)
        for _ in range(30):
            watch()
            machine.moment += 1
    curve = watch.series.curve
    assert curve
    assert (curve.before, max(curve.used), curve.limit) == (22 * GIB, 122 * GIB - GIB // 4, 122 * GIB)


@pytest.mark.parametrize("seconds", [1, 119, 120, 121, 500, 36_000])
def test_a_curve_keeps_its_peak_and_stays_small(machine: Machine, seconds: int) -> None:
    sent: list[Event] = []
    watch = guard_for(SPARK, "quantize", machine.kernel, sent.append)
    peak = seconds * 2 // 3
    for second in range(seconds):
        watch._note(float(second), 90 * GIB if second == peak else 9 * GIB + second, 116 * GIB)  # noqa: SLF001 - quick
    watch.send()
    curve = watch.series.curve
    assert curve
    assert len(curve.used) <= POINTS
    assert len(curve.used) * curve.every >= seconds > (len(curve.used) - 1) * curve.every
    assert (max(curve.used), curve.limit) == (90 * GIB, 116 * GIB)
    assert curve.used.index(90 * GIB) == int(peak / curve.every)
    assert curve.before == (90 if peak == 0 else 9) * GIB
    assert len(sent) <= 2 * POINTS + POINTS // 2 * max(0, math.ceil(math.log2(seconds / POINTS)))
    again = MemorySeries()
    for event in sent:
        assert isinstance(event, MemoryUsed)
        again.add(event.seconds, event.used, event.limit)
    told = again.curve
    assert told is not None
    assert replace(told, used=()) == replace(curve, used=())
    assert max(told.used) == 90 * GIB


def test_a_curve_is_level_where_nothing_was_measured() -> None:
    series = MemorySeries()
    for seconds, used in ((0.0, 5), (4.2, 9), (4.9, 7)):
        series.add(seconds, used, 20)
    assert series.used == [5, 5, 5, 5, 9]


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable:\nMemTotal: x kB\n", "no colon\n"])
def test_a_machine_that_does_not_say_is_let_be(machine: Machine, text: str) -> None:
    (machine.folder / "meminfo").write_text(text)
    (machine.folder / "pressure").unlink()
    machine.watch()()


@pytest.mark.parametrize("text", ["", "full\n", "full avg10=x\n", "some avg10=99\n"])
def test_pressure_that_nobody_counts_is_none(machine: Machine, text: str) -> None:
    (machine.folder / "pressure").write_text(text)
    assert machine.kernel.stalled() == 0
