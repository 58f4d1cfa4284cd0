"""Runs a plan: reuse or run each step, then publish its result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.app.forecast import forecast
from orchestrator.app.make_plan import ExecutorName, PlacedStep, Plan
from orchestrator.app.memory_guard import Kernel, MemoryGuard, guard_for
from orchestrator.app.needs import HINT, needs_of
from orchestrator.app.outcome import check_exit, check_outputs
from orchestrator.errors import (
    ArtifactCorruptError,
    MachineError,
    OrchestratorError,
    StepTimeLimitError,
    machine_faults,
)
from orchestrator.events import (
    Checked,
    Event,
    Failure,
    Observer,
    Publishing,
    Spent,
    StepDone,
    StepReached,
    StepReused,
    StepStarted,
    StepStopped,
    Waiting,
    Warned,
)
from orchestrator.executors.job import Executor, Job, Outcome
from orchestrator.steps.step import Step
from orchestrator.store.artifact import Artifact, list_files
from orchestrator.store.cost import Cost, write_cost
from orchestrator.store.space import require_space
from orchestrator.store.store import Attempt, Store
from orchestrator.values import frozen


@frozen
class StepResult:
    """The result of one step."""

    name: str
    reused: bool
    seconds: float
    bytes_in: int
    artifact: Artifact


@frozen
class _Task:
    """One step of a run, with the results that it reads."""

    plan: Plan
    placed: PlacedStep
    key: str
    inputs: Mapping[str, Artifact]
    forced: bool
    """Run it even if its result is cached."""

    @property
    def step(self) -> Step:
        return self.placed.step

    def job(self, attempt: Attempt, scratch: Path | None = None) -> Job:
        """Make its job in the folder of an attempt."""
        return self.plan.binder.job(
            self.step,
            self.placed.executor,
            self.key,
            {name: artifact.folder for name, artifact in self.inputs.items()},
            attempt.folder,
            digests={name: artifact.digest for name, artifact in self.inputs.items()},
            scratch=scratch,
        )


@frozen
class Runner:
    """Runs plans against one store."""

    store: Store
    executors: Mapping[ExecutorName, Callable[[], Executor]]
    """Created when the first step needs them, so that Docker is not needed if no step runs in a container."""
    observer: Observer
    kernel: Kernel = field(default_factory=Kernel)
    """The source of this machine's memory figures while a step runs."""
    dist: Path | None = None
    """The folder of the deployment after all steps; None if none is written."""
    limit: float | None = None
    """Seconds of one step; None: as long as it takes."""
    _created: dict[ExecutorName, Executor] = field(default_factory=dict)

    def run(self, plan: Plan, *, first: str | None = None, last: str | None = None) -> tuple[StepResult, ...]:
        """Run a plan.

        Args:
            plan: The plan.
            first: Run this step and all later ones even if the store has their results.
            last: Stop after this step.

        Raises:
            OrchestratorError: Of its kind. Finished steps stay published.
        """
        plan.raise_refusals()
        placed_steps = plan.between(first, last)
        names = [placed.step.name for placed in placed_steps]
        forced = set(names[names.index(first) :]) if first in names else set()
        self.store.make()
        self._check_machine(plan, names, forced, self.dist if last is None else None)
        artifacts: dict[str, Artifact] = {}
        results = []
        with self.store.use() as note:
            for placed in placed_steps:
                task = _task(plan, placed, artifacts, forced)
                note(task.key)
                result = self._finish(task)
                artifacts[result.name] = result.artifact
                results.append(result)
        return tuple(results)

    def _check_machine(self, plan: Plan, names: list[str], forced: set[str], dist: Path | None) -> None:
        """Check every step's requirements before the first download, so that no step fails hours later."""
        found = [each for each in forecast(plan, self.store, Path("unused")) if each.placed.step.name in names]
        pending = [each for each in found if each.decision != "reuse" or each.placed.step.name in forced]
        for each in pending:
            self._executor(each.placed.executor).check(each.job)
        keys = {each.placed.step.name: each.job.key for each in pending}
        images = {
            need for each in pending for need in self._executor(each.placed.executor).needs(each.job)
        }  # steps share them
        require_space((*sorted(images, key=lambda need: need.what), *needs_of(plan, self.store, keys, dist)), HINT)

    def _finish(self, task: _Task) -> StepResult:
        started = time.monotonic()
        name = task.step.name
        self.observer(StepReached(name, task.key))
        try:
            cached, artifact = self._reuse_or_run(task)
        except BaseException as error:
            is_interrupt = isinstance(error, KeyboardInterrupt)
            self.observer(StepStopped(name, str(error), time.monotonic() - started, is_interrupt))
            raise
        seconds = time.monotonic() - started
        bytes_in = sum(read.size for read in task.inputs.values())
        kind = StepReused if cached else StepDone
        self.observer(kind(name, task.key, bytes_in, artifact.size, seconds))
        return StepResult(name, cached, seconds, bytes_in, artifact)

    def _reuse_or_run(self, task: _Task) -> tuple[bool, Artifact]:
        """Return whether the store had the result, and the result."""
        name = task.step.name
        with self.store.lock(task.key, lambda: self.observer(Waiting(name, "another build is making the same"))):
            cached = None if task.forced else self._find(task.key)
            if cached and self.store.has_leftovers(task.key):
                self._clean_up_killed_build(task)
            return cached is not None, cached or self._run(task)

    def _find(self, key: str) -> Artifact | None:
        """Find an artifact. One that changed on disk is set aside and counts as missing."""
        try:
            return self.store.find(key)
        except ArtifactCorruptError as error:
            place = self.store.set_aside(key)
            self.observer(Warned(f"{error.message}; set aside as {place}, and created again"))
            return None

    def _clean_up_killed_build(self, task: _Task) -> None:
        """Remove the files and the container of a build that was killed after publishing. The key is locked."""
        try:
            self._remove_leftovers(task, task.job(Attempt(self.store.root / "attempts" / task.key)))
            self.store.drop_scratch(task.key)
        except MachineError as error:
            name = task.step.name
            self.observer(Warned(f"files or a container of an earlier build of {name} stay for now: {error.message}"))

    def _run(self, task: _Task) -> Artifact:
        """Run a step and publish its result. If an earlier build left an unpublished result, publish that."""
        if task.forced:
            self.store.drop_scratch(task.key)
        elif unpublished := self.store.sealed(task.key):
            return self._publish(task, task.job(unpublished), unpublished)
        self.store.sweep(task.key, "process")  # a process ended with its orchestrator, and its disk space is needed
        attempt = self.store.attempt(task.key, task.placed.executor)
        job = task.job(attempt, self.store.scratch(task.key) if task.step.resumable else None)
        listener = _Listener(self.observer)
        self._prepare(task, job, attempt)
        outcome = self._execute(task, job, attempt, listener)
        attempt = Attempt.of_output(outcome.output)
        self._check_result(task, job, attempt, outcome, listener)
        attempt.seal()
        checked = listener.checked if task.step.network else {}  # other steps run foreign code
        return self._publish(task, job, attempt, checked=checked)

    def _prepare(self, task: _Task, job: Job, attempt: Attempt) -> None:
        executor = self._executor(task.placed.executor)
        self.observer(StepStarted(task.step.name, executor.name))
        try:
            with machine_faults(f"preparing {task.step.name}"):
                _write_files(task.step, attempt.folder)
            executor.check(job)
        except MachineError:
            attempt.discard()
            raise

    def _execute(self, task: _Task, job: Job, attempt: Attempt, listener: _Listener) -> Outcome:
        started = time.monotonic()
        guard = listener.guard = guard_for(task.plan.target, task.step.name, self.kernel, self.observer)

        def abort_check() -> None:
            guard()
            if self.limit is not None and time.monotonic() - started > self.limit:
                message = f"{task.step.name} was stopped after {self.limit:.0f} s"
                raise StepTimeLimitError(message, hint="see the step's log for its last lines")

        try:
            outcome = self._executor(task.placed.executor).run(job, listener, abort_check)
        except MachineError:  # Docker stopped answering: its container may still run, and the next build adopts it
            self._keep_log(task, attempt)
            if task.placed.executor == "process":  # the process has ended, and may have left the disk full
                self._remove_leftovers(task, job)
            raise
        except BaseException:
            self._keep_log(task, attempt)
            self._remove_leftovers(task, job)
            raise
        finally:
            guard.send()
        listener.seconds = None if outcome.adopted else time.monotonic() - started
        return outcome

    def _check_result(self, task: _Task, job: Job, attempt: Attempt, outcome: Outcome, listener: _Listener) -> None:
        executor = self._executor(task.placed.executor)
        try:
            check_exit(task.step, outcome, listener.failure, attempt.folder / "log.txt")
            check_outputs(task.step, attempt.out)
            list_files(attempt.out)
            with machine_faults(f"writing the cost of {task.step.name}"):
                finished = datetime.now(UTC).isoformat(timespec="seconds")
                curve = listener.guard.series.curve if listener.guard else None
                write_cost(attempt.folder, Cost(executor.name, finished, listener.seconds, listener.spent, curve))
        except (OrchestratorError, OSError):
            self._keep_log(task, attempt)
            self._remove_leftovers(task, job)
            raise

    def _publish(
        self, task: _Task, job: Job, attempt: Attempt, *, checked: Mapping[str, Checked] | None = None
    ) -> Artifact:
        """Publish a successful result. If this is interrupted, the next build continues from there.

        Without `checked`, an unpublished result was found.
        """
        self.observer(Publishing(task.step.name, checked is None))
        self.store.mark_leftovers(task.key)
        artifact = self.store.publish(attempt, task.key, task.step.name, checked or {})
        self.store.drop_scratch(task.key)
        self._remove_leftovers(task, job)
        return artifact

    def _remove_leftovers(self, task: _Task, job: Job) -> None:
        """Remove what a job leaves besides its artifact. The caller holds the key's lock."""
        self._executor(task.placed.executor).forget(job)
        self.store.sweep(job.key)

    def _keep_log(self, task: _Task, attempt: Attempt) -> None:
        log = attempt.folder / "log.txt"
        if log.is_file():
            with suppress(OSError):  # on a full disk, the reason why the step failed matters more
                shutil.copyfile(log, failed_log(self.store.root, task.plan.binder.recipe, task.step.name))

    def _executor(self, name: ExecutorName) -> Executor:
        if name not in self._created:
            self._created[name] = self.executors[name]()
        return self._created[name]


def _task(plan: Plan, placed: PlacedStep, artifacts: Mapping[str, Artifact], forced: set[str]) -> _Task:
    inputs = {mount.step: artifacts[mount.step] for mount in placed.step.inputs}
    key = plan.binder.key(placed.step, placed.executor, inputs)
    return _Task(plan, placed, key, inputs, placed.step.name in forced)


def _write_files(step: Step, attempt: Path) -> None:
    """Write a step's small files into its job's folder."""
    for name, text in step.files.items():
        file = attempt / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def failed_log(root: Path, recipe: str, step: str) -> Path:
    """Return the path of the log of a recipe's last failed attempt at a step."""
    place = root / "logs" / recipe / f"{step}.log"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@dataclass
class _Listener:
    """Forwards events, and keeps a payload's messages for the runner."""

    observer: Observer
    failure: Failure | None = None
    """The error that it reported."""
    checked: dict[str, Checked] = field(default_factory=dict)
    """The files that it hashed while they arrived."""
    spent: Spent | None = None
    """The cost of its work."""
    seconds: float | None = None
    """How long it took; None if an earlier build had started it."""
    guard: MemoryGuard | None = None
    """Has the curve of the machine's memory."""

    def __call__(self, event: Event) -> None:
        match event:
            case Failure():
                self.failure = event
            case Checked():
                self.checked[event.path] = event
            case Spent():
                self.spent = event
            case _:
                self.observer(event)
