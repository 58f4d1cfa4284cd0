"""Makes the page of builds: steps, time, memory, quality, speed, deployment and digests. It reloads while one runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.pages.charts import Picture, Stack, over_time, stacks
from orchestrator.pages.page import Chart, Key, render
from orchestrator.store.cost import MemoryCurve
from orchestrator.units import in_bytes, in_time
from orchestrator.values import frozen

RELOAD_SECONDS = 2
"""Between two looks of a browser at the page of a running build."""
_DIGITS = 12
"""Of a digest; the whole one is in the table's cell as its title."""
_LEAST = 3
"""Points of a curve that is drawn."""
_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_GB = 1e9
_HOUR = 3600.0


@frozen
class StepStory:
    """One step of a build."""

    name: str
    state: str
    """`waiting`, `running`, `done`, `reused`, `failed`, `interrupted` or `abandoned`."""
    seconds: float
    made: str = ""
    """The UTC time at which its result was made, in ISO 8601, be it by an earlier build."""
    took: float | None = None
    """Seconds of making the result."""
    size: int | None = None
    """Bytes of the result."""
    peak_memory: int | None = None
    """Bytes; None where its command did not tell."""
    digest: str = ""
    error: str = ""
    gpus: int = 0
    memory: MemoryCurve | None = None
    """Of the machine while it ran."""
    predicted_memory: float | None = None
    """Bytes of the step's own planned peak; None if they lie in a GPU's memory, or are not known."""


@frozen
class BuildStory:
    """The newest build of one recipe."""

    recipe: str
    description: str
    """Empty if the recipe is not there any more."""
    started: str
    """The UTC time."""
    is_running: bool
    is_finished: bool
    steps: tuple[StepStory, ...]
    memory: float | None
    """Bytes that the target offers; None if the recipe is not there any more."""
    verdict: str
    """Of the plan; empty as above."""
    quality: Mapping[str, Any] | None
    """quality.json; None before the checks."""
    levels: Sequence[Mapping[str, Any]]
    """Measured beside predicted speed, see `prediction.beside_measured`."""
    bundle: str
    """The folder of the deployment; empty if there is none."""
    error: str = ""
    """The error with which it ended outside of a step."""
    planned: str = ""
    """How long the steps that were not reused are planned to take, in words."""

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def gpu_hours(self) -> float:
        """The hours of its steps, times the GPUs of each; a reused result costs none."""
        return sum(step.seconds * step.gpus for step in self.steps if step.state != "reused") / _HOUR

    @property
    def outcome(self) -> tuple[str, str]:
        """Say how it ended or what it does, and the style of the words."""
        for number, step in enumerate(self.steps, start=1):
            where = f"{step.name}, step {number} of {len(self.steps)}"
            if step.state == "failed":
                return f"{step.name} failed: {step.error}", "no"
            if step.state in ("interrupted", "abandoned"):
                return f"Ended in {where}; the next build continues", "maybe"
            if step.state == "running":
                return f"Now: {where}", "maybe"
        if self.is_finished:
            return f"Every step is done: {in_time(self.seconds)}", "yes"
        return (f"Ended: {self.error}", "no") if self.error else ("Between two steps", "maybe")


def build_page(builds: Sequence[BuildStory], *, follows: bool = False, waiting: Sequence[str] = ()) -> str:
    """Write the page of one or more builds.

    Args:
        builds: At least one.
        follows: More will happen, even if none of them runs at this moment.
        waiting: The recipes whose builds have not begun.
    """
    running = follows or any(build.is_running for build in builds)
    one = len(builds) == 1 and not waiting
    return render(
        "build.html.j2",
        title=f"{builds[0].recipe}: build" if one else f"Builds of {len(builds) + len(waiting)} recipes",
        reload=RELOAD_SECONDS if running else None,
        one=one,
        builds=[(build, *build.outcome, list(_charts(build)), list(_rows(build))) for build in builds],
        overview=[_overview(build) for build in builds],
        waiting=", ".join(waiting),
    )


def _overview(build: BuildStory) -> tuple[str, ...]:
    words, style = build.outcome
    speed = next((level["measured"] for level in build.levels if level["measured"] is not None), None)
    checks = "" if build.quality is None else "passed" if build.quality["passed"] else "failed"
    hours = f"{build.gpu_hours:.2f}" if build.gpu_hours else ""
    figures = (in_time(build.seconds), build.planned, hours, checks, "" if speed is None else f"{speed:.1f}")
    return build.recipe, style, words, *figures


def _rows(build: BuildStory) -> Iterator[tuple[StepStory, tuple[str, ...]]]:
    for step in build.steps:
        yield (
            step,
            (
                in_time(step.seconds) if step.seconds else "",
                "" if step.took is None else in_time(step.took),
                step.made[:16].replace("T", " "),
                "" if step.size is None else in_bytes(step.size),
                "" if step.peak_memory is None else in_bytes(step.peak_memory),
                step.digest[:_DIGITS],
            ),
        )


def _charts(build: BuildStory) -> Iterator[Chart]:
    yield from _time(build)
    yield from _memory(build)
    for step in build.steps:
        if step.memory and len(step.memory.used) >= _LEAST:
            yield _memory_over_time(build.recipe, step, step.memory)


def _time(build: BuildStory) -> Iterator[Chart]:
    """Draw how long each step took in this build."""
    ran = [step for step in build.steps if step.seconds]
    if not ran:
        return
    whole = build.seconds
    size, unit = _unit(whole)
    title = "Time of each step"
    longest = max(ran, key=lambda step: step.seconds)
    said = f"{len(ran)} steps took {in_time(whole)}; the longest is {longest.name} with {in_time(longest.seconds)}."
    bars = [Stack(step.name, (step.seconds / size,), in_time(step.seconds)) for step in ran]
    svg = stacks(Picture(f"time-{build.recipe}", title, said), bars, whole / size, f"all: {in_time(whole)}", unit)
    yield Chart(title, svg, (Key("in this build", "series-0"), Key("all steps", "limit", "mark")), "")


def _memory(build: BuildStory) -> Iterator[Chart]:
    """Draw the memory that each step's command reported, against the machine's."""
    told = [(step.name, step.peak_memory / _GB) for step in build.steps if step.peak_memory]
    if not told or build.memory is None:
        return
    title = "Peak memory of each step"
    most, size = max(told, key=lambda each: each[1])
    said = f"The most is {in_bytes(size * _GB)} in {most}; the machine has {in_bytes(build.memory)}."
    bars = [Stack(name, (size,), in_bytes(size * _GB)) for name, size in told]
    limit = build.memory / _GB
    svg = stacks(Picture(f"memory-{build.recipe}", title, said), bars, limit, in_bytes(build.memory), "GB")
    keys = (Key("measured when the result was made", "series-0"), Key("memory of the target", "limit", "mark"))
    yield Chart(title, svg, keys, "")


def _memory_over_time(recipe: str, step: StepStory, memory: MemoryCurve) -> Chart:
    """Draw the memory that was in use on the machine during a step, below its limit and the planned peak."""
    size, unit = _unit(len(memory.used) * memory.every)
    most, before = max(memory.used), memory.before
    title = f"Memory during {step.name}"
    said = (
        f"The machine had {in_bytes(before)} in use when {step.name} began and {in_bytes(most)} at most,"
        f" {in_time(memory.used.index(most) * memory.every)} later; the limit is {in_bytes(memory.limit)}."
    )
    levels = [(memory.limit / _GB, "limit", "")]
    keys = [
        Key(f"in use by all programs, at most {in_bytes(most)}", "series-0"),
        Key(f"limit: {in_bytes(memory.limit)}", "limit", "mark"),
    ]
    if step.predicted_memory:
        planned = before + step.predicted_memory
        said += f" Planned were {in_bytes(step.predicted_memory)} more than before."
        levels.append((planned / _GB, "series-1", "6 3"))
        keys.append(Key(f"planned: {in_bytes(planned)}, with what was in use before", "series-1", "mark"))
    points = [(number * memory.every / size, used / _GB) for number, used in enumerate(memory.used)]
    svg = over_time(Picture(f"memory-{recipe}-{step.name}", title, said), points, levels, unit, "GB")
    return Chart(title, svg, tuple(keys), "")


def _unit(seconds: float) -> tuple[float, str]:
    return next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
