"""What a person sees of a step that runs: how much, how fast, how long still; on a terminal and in a log."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.cli.build_view import BuildView, RunningStep
from orchestrator.cli.rate import Rate
from orchestrator.events import Progress, Publishing, StepDone, StepStarted

GB = 10**9


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Watched:
    """A download of 100 GB over 100 MB/s, of which two files are under way."""

    clock: Clock = field(default_factory=Clock)

    def running(self, seconds: int = 60) -> RunningStep:
        running = RunningStep("download", self.clock())
        for _ in range(seconds):
            self.clock.now += 1
            done = int((self.clock.now - 1000) * 1e8)
            for number in (1, 2):
                name = f"model-0000{number}-of-00030.safetensors"
                running.see(Progress(done, 100 * GB, "bytes", "", name, done // 2, 5 * GB), self.clock.now)
        return running


def test_a_download_shows_the_whole_and_each_file_with_rate_and_time_left() -> None:
    watched = Watched()
    lines = list(watched.running().lines(watched.clock.now, 100))
    assert lines[0].startswith("download ━")
    assert lines[0].endswith("─ 6.0 GB of 100.0 GB")
    assert lines[1:] == [
        "  6 % · 100.0 MB/s · 16 min left · 1 min so far",
        "  model-00001-of-00030.safetensors  60 %",
        "  model-00002-of-00030.safetensors  60 %",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_what_matters_is_there(width: int) -> None:
    watched = Watched()
    lines = list(watched.running().lines(watched.clock.now, width))
    assert len(lines) == 4
    assert all(len(line) <= max(width, 29) for line in lines), lines
    if width >= 40:
        assert all(len(line) <= width for line in lines), lines
        assert "100.0 MB/s · 16 min left" in lines[1]
        assert "of-00030.safetensors" in lines[2]


def test_a_file_that_is_whole_is_not_shown_any_more() -> None:
    watched = Watched()
    running = watched.running()
    running.see(Progress(7 * GB, 100 * GB, "bytes", "", "model-00001-of-00030.safetensors", 5 * GB, 5 * GB), 1061.0)
    assert [line.split()[0] for line in running.lines(1061.0, 80)][2:] == ["model-00002-of-00030.safetensors"]


def test_no_rate_is_claimed_before_there_is_one_or_when_nothing_comes() -> None:
    pace = Rate()
    assert pace.rate(0.0) is None
    pace.see(0.0, 50)
    pace.see(0.1, 60)
    assert pace.rate(0.2) is None, "too early"
    pace.see(2.0, 150)
    assert pace.rate(2.0) == 50.0
    assert pace.left(2.0, 250) == 2.0
    assert pace.rate(4.0) == 25.0, "it falls while nothing comes"
    pace.see(100.0, 150)
    assert pace.rate(100.0) is None


def test_a_rate_follows_the_last_half_minute_and_begins_anew_when_a_file_does() -> None:
    pace = Rate()
    for second in range(100):
        pace.see(float(second), second * (10 if second < 50 else 30))
    assert pace.rate(99.0) == pytest.approx(30.0)
    pace.see(100.0, 5)
    pace.see(102.0, 45)
    assert pace.rate(102.0) == 20.0


def test_a_log_gets_one_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with BuildView(clock=clock) as view:
        view(StepStarted("download", "process"))
        for second in range(1, 181):
            clock.now = 1000.0 + second
            view(Progress(second * 10**8, 100 * GB, "bytes", "model.safetensors 5 %"))
        view(Publishing("download"))
        view(StepDone("download", "k", 0, 100 * GB, 181.0))
    assert capsys.readouterr().err.splitlines() == [
        "▸ download (process)",
        "  6.0 GB of 100.0 GB, 6 %, 100.0 MB/s, 16 min left: model.safetensors 5 %",
        "  12.0 GB of 100.0 GB, 12 %, 100.0 MB/s, 15 min left: model.safetensors 5 %",
        "  18.0 GB of 100.0 GB, 18 %, 100.0 MB/s, 14 min left: model.safetensors 5 %",
        "✓ download: 100.0 GB in 3 min 1 s",
    ]


def test_what_is_not_bytes_has_time_left_and_no_rate() -> None:
    running = RunningStep("quantize", 0.0)
    for second in range(11):
        running.see(Progress(second, 40, "tensors"), float(second))
    assert list(running.lines(10.0, 60))[1] == "  25 % · 30 s left · 10 s so far"


@pytest.mark.parametrize(("executor", "what"), [("docker", "container"), ("slurm", "job")])
def test_what_an_earlier_build_left_is_called_by_its_name(
    capsys: pytest.CaptureFixture[str], executor: str, what: str
) -> None:
    with BuildView() as view:
        view(StepStarted("quantize", executor, adopted=True))
    assert capsys.readouterr().err == f"… quantize: its {what} was left by an earlier build; adopted\n"
