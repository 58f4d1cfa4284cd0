"""Many recipes: their plan, their order, what runs at once, and how the builds of a batch end."""

from __future__ import annotations

import json
import queue
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app.batch import Batch, Member, plan_batch
from orchestrator.app.batch_run import BatchRun
from orchestrator.app.batch_threads import start_threads
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import CheckFailedError, DiskFullError, PlanRefusedError, RecipeUnknownError
from orchestrator.events import Event, Observer, StepDone, Warned
from orchestrator.executors.job import AbortCheck

_ROOT = Path(__file__).parents[3]


def names(*texts: str) -> tuple[RecipeName, ...]:
    return tuple(map(RecipeName, texts))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings({}, _ROOT, tmp_path / "store")


def planned(settings: Settings, *texts: str) -> Batch:
    return plan_batch(settings, names(*texts))


def test_the_smallest_peak_of_memory_is_first(settings: Settings) -> None:
    batch = planned(settings, "qwen3-32b-nvfp4", "tiny-llama-w4a16-nvfp4", "qwen3-8b-fp8")
    assert [member.recipe.name for member in batch.ready] == [
        "tiny-llama-w4a16-nvfp4",
        "qwen3-8b-fp8",
        "qwen3-32b-nvfp4",
    ]
    sizes = [member.memory for member in batch.ready]
    assert sizes == sorted(sizes)


def test_what_two_recipes_download_is_counted_once(settings: Settings) -> None:
    alone = planned(settings, "qwen3-8b-fp8").needs
    both = planned(settings, "qwen3-8b-fp8", "qwen3-8b-nvfp4").needs
    assert [need.what for need in both].count("Qwen/Qwen3-8B") == 1
    assert len(both) > len(alone)


def test_a_recipe_without_a_plan_stops_all_or_is_left_out(settings: Settings) -> None:
    batch = planned(settings, "tiny-llama-w4a16-nvfp4", "no-such-recipe", "llama3-70b-bf16")
    assert [member.recipe.name for member in batch.refused] == ["no-such-recipe", "llama3-70b-bf16"]
    with pytest.raises(RecipeUnknownError):
        batch.check(1, shares_memory=True, skips=False)
    batch.check(1, shares_memory=True, skips=True)


def test_a_refusal_that_a_recipe_expects_is_one_of_the_plan_of_all_alone(settings: Settings) -> None:
    every = plan_batch(settings, ())
    assert "llama3-70b-bf16" in {member.recipe.name for member in every.expected}
    assert not every.refused
    assert {member.recipe.name for member in (*every.ready, *every.expected)} == set(settings.book.names)


def test_builds_that_do_not_fit_into_memory_together_are_refused_with_the_number_that_does(settings: Settings) -> None:
    batch = planned(settings, "qwen3-32b-nvfp4", "qwen3-32b-fp8", "tiny-llama-w4a16-nvfp4")
    with pytest.raises(PlanRefusedError) as caught:
        batch.check(2, shares_memory=True, skips=False)
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.hint) == ("DOES_NOT_FIT", "use --jobs 1")


def test_a_cluster_decides_itself_what_fits_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.store.space.free_bytes", lambda _: 10**15)
    planned(settings, "qwen3-32b-nvfp4", "qwen3-32b-fp8").check(2, shares_memory=False, skips=False)


def test_results_that_do_not_fit_on_the_disk_are_refused_together(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = planned(settings, "qwen3-8b-fp8", "qwen3-8b-nvfp4")
    size = sum(need.size for need in batch.needs)
    monkeypatch.setattr("orchestrator.store.space.free_bytes", lambda _: size - 1)
    with pytest.raises(DiskFullError, match="Qwen/Qwen3-8B"):
        batch.check(1, shares_memory=True, skips=False)


# builds in threads


def test_a_build_in_a_thread_ends_as_one_in_a_process() -> None:
    def follow(member: Member, observer: Observer, abort_check: AbortCheck) -> None:
        abort_check()
        observer(StepDone("generate", "a" * 64, 0, 1, 2.0))
        if member.recipe.name == "b":
            message = "too bad"
            raise CheckFailedError(message, hint="do it")

    bench = Bench()
    run = BatchRun(start_threads(follow), bench.show, 2, True)
    good, bad = run.run(members("a", "b"))
    assert (good.state, bad.state) == ("built", "failed")
    assert bad.error is not None
    assert (bad.error.code, bad.error.message, bad.error.hint) == ("CHECK_FAILED", "too bad", "do it")
    assert sorted(name for name, _ in bench.shown) == ["a", "b"]


def test_an_interrupt_reaches_builds_in_threads() -> None:
    def follow(member: Member, observer: Observer, abort_check: AbortCheck) -> None:
        if member.recipe.name == "a":
            observer(Warned("x"))
        while True:
            abort_check()
            time.sleep(0.01)

    def show(*_: object) -> None:
        raise KeyboardInterrupt

    run = BatchRun(start_threads(follow), show, 2, False)
    with pytest.raises(KeyboardInterrupt):
        run.run(members("a", "b", "c"))
    assert [result.state for result in run.results.values()] == ["interrupted", "interrupted", "not started"]


# builds


@dataclass
class Build:
    """A build whose lines the test gives."""

    lines: queue.Queue[bytes | None] = field(default_factory=queue.Queue)
    status: int = 0
    signals: list[int] = field(default_factory=list)

    @property
    def stdout(self) -> Any:  # noqa: ANN401 - whatever can be iterated
        return iter(self.lines.get, None)

    def wait(self) -> int:
        return self.status

    def send_signal(self, number: int, /) -> None:
        self.signals.append(number)
        self.end(130)

    def say(self, **fields: object) -> None:
        self.lines.put(json.dumps(fields).encode() + b"\n")

    def end(self, status: int = 0, code: str = "", message: str = "") -> None:
        self.status = status
        self.say(event="ended", status=status, code=code, message=message, hint="")
        self.lines.put(None)


@dataclass
class Bench:
    """Starts builds that end at once, except those of `scripts`."""

    scripts: Mapping[str, Build] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    shown: list[tuple[str, Event]] = field(default_factory=list)

    def start(self, member: Member) -> Build:
        name = member.recipe.name
        self.started.append(name)
        if name in self.scripts:
            return self.scripts[name]
        build = Build()
        build.say(event="done", step="generate", key="a" * 64, bytes_in=0, bytes_out=1, seconds=2.0)
        build.end()
        return build

    def show(self, member: Member, event: Event) -> None:
        self.shown.append((member.recipe.name, event))

    def run(self, members: tuple[Member, ...], jobs: int = 1, *, keeps_going: bool = False) -> dict[str, str]:
        run = BatchRun(
            self.start, lambda member, event: self.shown.append((member.recipe.name, event)), jobs, keeps_going
        )
        return {result.member.recipe.name: result.state for result in run.run(members)}


def members(*texts: str) -> tuple[Member, ...]:
    return tuple(map(Member, names(*texts)))


def failing(status: int = 5, code: str = "STEP_FAILED") -> Build:
    build = Build()
    build.end(status, code, "quantize ended with exit status 1")
    return build


def test_builds_run_in_their_order_and_their_events_are_shown() -> None:
    bench = Bench()
    assert bench.run(members("a", "b", "c")) == dict.fromkeys("abc", "built")
    assert bench.started == ["a", "b", "c"]
    assert [(name, type(event).__name__) for name, event in bench.shown] == [(name, "StepDone") for name in "abc"]


def test_after_a_failure_nothing_more_is_started() -> None:
    bench = Bench({"b": failing()})
    assert bench.run(members("a", "b", "c")) == {"a": "built", "b": "failed", "c": "not started"}


def test_with_keep_going_the_others_are_built() -> None:
    bench = Bench({"a": failing()})
    run = BatchRun(bench.start, lambda *_: None, 1, True)
    failed, built = run.run(members("a", "b"))
    assert (failed.state, built.state) == ("failed", "built")
    assert failed.error is not None
    assert (failed.error.code, failed.error.exit_status) == ("STEP_FAILED", 5)


def test_a_build_that_dies_without_a_word_has_failed() -> None:
    killed = Build(status=-9)
    killed.lines.put(None)
    assert Bench({"a": killed}).run(members("a", "b")) == {"a": "failed", "b": "not started"}


def test_lines_that_are_no_events_are_passed_over() -> None:
    build = Build()
    build.lines.put(b"not json\n")
    build.lines.put(b"\xff\n")
    build.end()
    assert Bench({"a": build}).run(members("a")) == {"a": "built"}


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_builds_than_asked_run_at_once(jobs: int) -> None:
    running: list[str] = []
    most = []

    class Counted(Build):
        def __init__(self, name: str) -> None:
            super().__init__()
            running.append(name)
            most.append(len(running))
            self.name = name
            self.end()

        def wait(self) -> int:
            running.remove(self.name)
            return 0

    run = BatchRun(lambda member: Counted(member.recipe.name), lambda *_: None, jobs, False)
    run.run(members("a", "b", "c", "d", "e"))
    assert max(most) == jobs


def test_an_interrupt_reaches_every_build_that_runs_and_no_other_is_started() -> None:
    a, b = Build(), Build()
    bench = Bench({"a": a, "b": b})

    def show(*_: object) -> None:
        raise KeyboardInterrupt

    a.say(event="warned", message="x")
    run = BatchRun(bench.start, show, 2, False)
    with pytest.raises(KeyboardInterrupt):
        run.run(members("a", "b", "c"))
    assert (a.signals, b.signals) == ([signal.SIGINT], [signal.SIGINT])
    states = {result.member.recipe.name: result.state for result in run.results.values()}
    assert states == {"a": "interrupted", "b": "interrupted", "c": "not started"}


def test_a_build_that_an_interrupt_kills_before_it_says_a_word_is_interrupted() -> None:
    build = Build()

    def die(number: int) -> None:
        build.status = -number
        build.lines.put(None)

    build.send_signal = die  # type: ignore[method-assign]
    build.say(event="warned", message="x")

    def show(*_: object) -> None:
        raise KeyboardInterrupt

    run = BatchRun(lambda _: build, show, 1, False)
    with pytest.raises(KeyboardInterrupt):
        run.run(members("a"))
    assert [result.state for result in run.results.values()] == ["interrupted"]


def test_a_build_that_cannot_start_ends_the_others() -> None:
    running = Build()

    def start(member: Member) -> Build:
        if member.recipe.name == "a":
            return running
        message = "the disk is full"
        raise DiskFullError(message)

    with pytest.raises(DiskFullError):
        BatchRun(start, lambda *_: None, 2, False).run(members("a", "b"))
    assert running.signals == [signal.SIGINT]


def test_gpu_hours_are_the_seconds_of_steps_that_ran_times_their_gpus(settings: Settings) -> None:
    (member,) = plan_batch(settings, names("qwen3-8b-fp8")).ready
    build = Build()
    for kind, step in (("reused", "download"), ("done", "quantize")):
        build.say(event=kind, step=step, key="a" * 64, bytes_in=0, bytes_out=1, seconds=1800.0)
    build.end()
    (result,) = BatchRun(lambda _: build, lambda *_: None, 1, False).run((member,))
    assert result.gpu_hours == pytest.approx(0.5 * member.gpus["quantize"])
    assert member.gpus["quantize"] == 1
    assert [step.reused for step in result.steps] == [True, False]
