"""Plans many recipes together, and builds each in a process of its own."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.app.forecast import forecast
from orchestrator.app.make_plan import ExecutorName, PlacedStep, Plan
from orchestrator.app.needs import HINT
from orchestrator.app.planning import Planned, plan, unexpected_refusals
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Ended, error_of, read_line
from orchestrator.app.settings import Settings
from orchestrator.errors import OrchestratorError, PlanRefusedError, Refusal, StepKilledError
from orchestrator.events import Event, StepDone, StepReused
from orchestrator.planner.duration import Span
from orchestrator.steps.sources import sources
from orchestrator.store.space import Need, require_space
from orchestrator.units import in_bytes

State = Literal["built", "failed", "refused", "interrupted", "not started"]

_SERVING = ("load", "serve")
"""The phases that run only if the build asks its server something."""
_HOUR = 3600.0


@dataclass(frozen=True)
class Member:
    """One recipe of a batch."""

    recipe: RecipeName
    planned: Planned | None = None
    """None if it has no plan."""
    error: OrchestratorError | None = None
    """Why it cannot be built."""
    pending: tuple[PlacedStep, ...] = ()
    """The steps that have no result yet."""

    @property
    def plan(self) -> Plan:
        """Its plan, if it can be built."""
        assert self.planned is not None  # noqa: S101 - see above
        return self.planned.plan

    @cached_property
    def memory(self) -> float:
        """The most bytes of memory that one of its phases needs at once."""
        recipe, stages = self.plan.recipe, self.plan.estimate.stages
        serves = self.plan.target.gpu and (recipe.checks.serve or recipe.benchmark is not None)
        return max((stage.peak.total for stage in stages if serves or stage.phase not in _SERVING), default=0.0)

    @property
    def time(self) -> Span | None:
        """How long the phases of its pending steps are planned to take; None if that is not known."""
        names = {placed.step.name for placed in self.pending}
        found = None
        for stage in self.plan.estimate.stages:
            if stage.time and _runs(stage.phase, names):
                found = found.plus(stage.time) if found else stage.time
        return found

    @property
    def gpus(self) -> Mapping[str, int]:
        """The number of GPUs of each step."""
        return {placed.step.name: placed.step.gpus for placed in self.planned.plan.steps} if self.planned else {}


def _runs(phase: str, steps: set[str]) -> bool:
    return phase in steps or (phase == "download" and bool(steps & {"download", "generate", "import"}))


@dataclass(frozen=True)
class Batch:
    """Recipes that are built together: those that can be, the smallest peak of memory first, and the others."""

    settings: Settings
    ready: tuple[Member, ...]
    refused: tuple[Member, ...]
    expected: tuple[Member, ...] = ()
    """Recipes that say themselves that they are refused, if all recipes were asked for."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the builds will write. What several of them download is counted once."""
        found: dict[object, Need] = {}
        for member in self.ready:
            recipe = member.plan.recipe
            downloads = sources(recipe)
            for placed in member.pending:
                if placed.disk and placed.disk.most:
                    name = placed.step.name
                    source = downloads.get(name)
                    what = source.repo if source else f"{recipe.name}: {placed.disk.what}"
                    place = self.settings.store.root
                    found.setdefault(source or (recipe.name, name), Need(place, placed.disk.most, what))
        return tuple(found.values())

    def check(self, jobs: int, *, shares_memory: bool, skips: bool) -> None:
        """Refuse before the first step what cannot work.

        Args:
            jobs: How many builds run at once.
            shares_memory: They run on one machine, and share its memory.
            skips: Recipes that are refused are left out.

        Raises:
            OrchestratorError: The error of a recipe, without `skips`.
            PlanRefusedError: The builds do not fit into memory together.
            DiskFullError: The results do not fit on the disk.
        """
        for member in self.refused:
            assert member.error is not None  # noqa: S101 - it is refused
            if not skips:
                raise member.error
        if shares_memory:
            self._check_memory(jobs)
        require_space(self.needs, HINT)

    def _check_memory(self, jobs: int) -> None:
        largest = sorted(self.ready, key=lambda member: member.memory)[-jobs:]
        if len(largest) < 2:  # noqa: PLR2004 - the plan of one has been checked
            return
        available = min(_available(member) for member in largest)
        wanted = sum(member.memory for member in largest)
        if wanted > available:
            names = ", ".join(f"{member.recipe.name} {in_bytes(member.memory)}" for member in reversed(largest))
            message = (
                f"{len(largest)} builds at once may need {in_bytes(wanted)} of memory, and {in_bytes(available)}"
                f" are available: {names}"
            )
            raise PlanRefusedError((Refusal("DOES_NOT_FIT", message, f"use --jobs {self._most_jobs(available)}"),))

    def _most_jobs(self, available: float) -> int:
        sizes = sorted((member.memory for member in self.ready), reverse=True)
        fitting = (count for count in range(len(sizes), 1, -1) if sum(sizes[:count]) <= available)
        return next(fitting, 1)


def _available(member: Member) -> float:
    return min(stage.peak.available for stage in member.plan.estimate.stages)


def plan_batch(
    settings: Settings,
    recipes: Sequence[RecipeName],
    overrides: Sequence[str] = (),
    executor: ExecutorName | None = None,
    *,
    last: str | None = None,
    locked: bool = False,
) -> Batch:
    """Plan recipes by arithmetic, without a network.

    Args:
        settings: The environment and the folders.
        recipes: The recipes; all that there are if none is named.
        overrides: `KEY=VALUE` each, for every recipe.
        executor: Where to run the steps that can run in more than one place.
        last: The builds stop after this step.
        locked: Use only what the locks list.
    """
    asked = recipes or tuple(RecipeName(name) for name in settings.book.names)
    members = [_member(settings, recipe, overrides, executor, last=last, locked=locked) for recipe in asked]
    ready = sorted((member for member in members if member.error is None), key=lambda member: member.memory)
    expected = [member for member in members if not recipes and _is_expected(member)]
    refused = (member for member in members if member.error is not None and member not in expected)
    return Batch(settings, tuple(ready), tuple(refused), tuple(expected))


def _is_expected(member: Member) -> bool:
    return member.planned is not None and member.error is not None and not unexpected_refusals(member.planned.plan)


def _member(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str],
    executor: ExecutorName | None,
    *,
    last: str | None,
    locked: bool,
) -> Member:
    try:
        planned = plan(settings.at(recipe), recipe, overrides, executor, locked=locked)
    except OrchestratorError as error:
        return Member(recipe, error=error)
    try:
        planned.plan.raise_refusals()
        wanted = {placed.step.name for placed in planned.plan.between(None, last)}
    except OrchestratorError as error:
        return Member(recipe, planned, error)
    found = forecast(planned.plan, settings.store, Path("unused"))
    pending = (one.placed for one in found if one.decision != "reuse" and one.placed.step.name in wanted)
    return Member(recipe, planned, pending=tuple(pending))


@dataclass(frozen=True)
class StepTime:
    """One step of a build."""

    name: str
    reused: bool
    seconds: float
    gpus: int


@dataclass
class Result:
    """How the build of one recipe ended."""

    member: Member
    state: State = "not started"
    error: OrchestratorError | None = None
    seconds: float = 0.0
    steps: list[StepTime] = field(default_factory=list)

    @property
    def gpu_hours(self) -> float:
        """The hours of its steps, times the GPUs of each."""
        return sum(step.seconds * step.gpus for step in self.steps if not step.reused) / _HOUR

    def take(self, event: Event) -> None:
        """Note the time of a step that has ended."""
        if isinstance(event, (StepDone, StepReused)):
            gpus = self.member.gpus.get(event.step, 0)
            self.steps.append(StepTime(event.step, isinstance(event, StepReused), event.seconds, gpus))


class Process(Protocol):
    """A build in another process, which writes its events to its standard output."""

    @property
    def stdout(self) -> Iterable[bytes] | None:
        """Its lines."""

    def wait(self) -> int:
        """Wait for its end, and return its exit status."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""


Start = Callable[[Member], Process]
Show = Callable[[Member, Event], None]


def start_builds(settings: Settings, command: Sequence[str]) -> Start:
    """Return what starts a build in a session of its own, so that a signal reaches it only from here.

    Args:
        settings: The settings with the store, which keeps what a build writes to standard error.
        command: The command without the recipe and `--events`.
    """

    def start(member: Member) -> Process:
        log = log_file(settings, member)
        log.parent.mkdir(parents=True, exist_ok=True)
        name = str(member.recipe.file or member.recipe.name)
        with log.open("wb") as stream:
            return subprocess.Popen(
                [*command, name, "--events"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )

    return start


def log_file(settings: Settings, member: Member) -> Path:
    """Return the file of what a build of a batch wrote to standard error."""
    return settings.store.root / "runs" / f"{member.recipe.name}.log"


@dataclass
class _Running:
    result: Result
    process: Process
    began: float
    reader: threading.Thread
    ended: Ended | None = None


@dataclass
class BatchRun:
    """Builds the recipes of a batch, several at once."""

    start: Start
    show: Show
    jobs: int
    keeps_going: bool
    """Start further builds after one has failed."""
    results: dict[RecipeName, Result] = field(default_factory=dict)
    _running: dict[RecipeName, _Running] = field(default_factory=dict)
    _interrupted: bool = False
    _lines: queue.Queue[tuple[RecipeName, bytes]] = field(default_factory=queue.Queue)

    def run(self, members: Sequence[Member]) -> tuple[Result, ...]:
        """Build them in this order, and return their results in the same order.

        An interrupt reaches every build that runs, and is raised when all have ended.
        """
        self.results = {member.recipe: Result(member) for member in members}
        waiting = list(members)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs and self._may_start:
                    self._begin(waiting.pop(0))
                if not self._running:
                    break
                self._take(*self._lines.get())
        except KeyboardInterrupt:
            self._interrupt()
            raise
        return tuple(self.results.values())

    @property
    def _may_start(self) -> bool:
        return self.keeps_going or not any(result.state == "failed" for result in self.results.values())

    def _begin(self, member: Member) -> None:
        process = self.start(member)
        reader = threading.Thread(target=self._read, args=(member.recipe, process), daemon=True)
        self._running[member.recipe] = _Running(self.results[member.recipe], process, time.monotonic(), reader)
        reader.start()

    def _read(self, recipe: RecipeName, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe
        for line in process.stdout:
            self._lines.put((recipe, line))
        self._lines.put((recipe, b""))

    def _take(self, recipe: RecipeName, line: bytes) -> None:
        """Take a line of a build; an empty one is its end."""
        running = self._running[recipe]
        if not line:
            self._end(recipe, running)
            return
        match read_line(line.decode("utf-8", "replace")):
            case Ended() as ended:
                running.ended = ended
            case None:
                pass
            case event:
                running.result.take(event)
                self.show(running.result.member, event)

    def _end(self, recipe: RecipeName, running: _Running) -> None:
        status = running.process.wait()
        result, ended = running.result, running.ended
        result.seconds = time.monotonic() - running.began
        if status == 0:
            result.state = "built"
        elif ended and ended.code:
            result.state, result.error = "failed", error_of(ended)
        elif ended or self._interrupted:
            result.state = "interrupted"
        else:
            message = f"the build of {recipe.name} ended with exit status {status} and said nothing"
            result.state, result.error = "failed", StepKilledError(message, hint="build it alone to see why")
        del self._running[recipe]

    def _interrupt(self) -> None:
        self._interrupted = True
        for running in self._running.values():
            with suppress(ProcessLookupError):
                running.process.send_signal(signal.SIGINT)
        while self._running:
            self._take(*self._lines.get())


def document_of(results: Iterable[Result]) -> list[dict[str, object]]:
    """Convert results to JSON."""
    return [
        {
            "recipe": result.member.recipe.name,
            "state": result.state,
            "seconds": round(result.seconds, 3),
            "planned_seconds": _span(result.member),
            "gpu_hours": round(result.gpu_hours, 4),
            "steps": [vars(step) for step in result.steps],
            "error": result.error and {"code": result.error.code, "message": result.error.message},
        }
        for result in results
    ]


def _span(member: Member) -> list[float] | None:
    time_of = member.time if member.planned and not member.error else None
    return [time_of.least, time_of.most] if time_of else None


def refused_results(batch: Batch) -> Iterator[Result]:
    """Yield results of the recipes that cannot be built."""
    for member in (*batch.expected, *batch.refused):
        yield Result(member, "refused", member.error)
