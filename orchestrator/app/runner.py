"""Runs a plan: reuse or run each step, then publish its result."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from orchestrator.app.binding import Binder
from orchestrator.app.journal import Journal
from orchestrator.app.memory_guard import Kernel, guard_for
from orchestrator.app.needs import HINT, needs_of
from orchestrator.app.plan import ExecutorName, PlacedStep, Plan
from orchestrator.errors import (
    ArtifactCorruptError,
    CheckpointError,
    MachineError,
    OrchestratorError,
    OutputMissingError,
    PlanRefusedError,
    StepFailedError,
    StepKilledError,
    StepOutOfMemoryError,
    by_code,
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
    StepReused,
    StepStarted,
    Waiting,
    Warned,
)
from orchestrator.executors.job import Executor, Job, Outcome, never_abort
from orchestrator.steps.step import Output, Step
from orchestrator.store.artifact import Artifact, list_files
from orchestrator.store.cost import Cost, write_cost
from orchestrator.store.space import require_space
from orchestrator.store.store import Attempt, Store

Decision = Literal["run", "reuse", "later"]
_TAIL = 12
"""Lines of a failed command's log in its error."""


@dataclass(frozen=True)
class Forecast:
    """The state of one step and the job that would run."""

    placed: PlacedStep
    decision: Decision
    """`later`: it depends on the result of an earlier step."""
    job: Job


@dataclass(frozen=True)
class StepResult:
    """The result of one step."""

    name: str
    reused: bool
    seconds: float
    bytes_in: int
    artifact: Artifact


@dataclass(frozen=True)
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
    _made: dict[ExecutorName, Executor] = field(default_factory=dict)

    def run(self, plan: Plan, *, first: str | None = None, last: str | None = None) -> tuple[StepResult, ...]:
        """Run a plan.

        Args:
            plan: The plan.
            first: Run this step and all later ones even if the store has their results.
            last: Stop after this step.

        Raises:
            OrchestratorError: Of its kind. Finished steps stay published.
        """
        plan.insist()
        placed_steps = plan.between(first, last)
        names = [placed.step.name for placed in placed_steps]
        forced = set(names[names.index(first) :]) if first in names else set()
        self.store.make()
        self._check_machine(plan, names, forced, self.dist if last is None else None)
        journal = Journal.start(self.store.root, plan.recipe.name, names)
        artifacts: dict[str, Artifact] = {}
        results = []
        with self.store.use() as note:
            for placed in placed_steps:
                inputs = {mount.step: artifacts[mount.step] for mount in placed.step.inputs}
                key = plan.binder.key(placed.step, placed.executor, inputs)
                note(key)
                with journal.step(placed.step.name, key) as entry:
                    result = self._step(placed, plan, key, inputs, again=placed.step.name in forced)
                    entry.finished(result.artifact.key, reused=result.reused, log=result.artifact.log)
                artifacts[result.name] = result.artifact
                results.append(result)
        journal.done()
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

    def _step(
        self, placed: PlacedStep, plan: Plan, key: str, inputs: Mapping[str, Artifact], *, again: bool
    ) -> StepResult:
        started = time.monotonic()
        step = placed.step
        bytes_in = sum(artifact.size for artifact in inputs.values())
        with self.store.lock(key, lambda: self.observer(Waiting(step.name, "another build is making the same"))):
            artifact = None if again else self._sound(key)
            reused = artifact is not None
            if artifact is None:
                artifact = self._make(placed, plan, key, inputs, again=again)
            elif self.store.has_leftovers(key):
                self._settle(placed, plan.binder, key, inputs)
        seconds = time.monotonic() - started
        kind = StepReused if reused else StepDone
        self.observer(kind(step.name, key, bytes_in, artifact.size, seconds))
        return StepResult(step.name, reused, seconds, bytes_in, artifact)

    def _sound(self, key: str) -> Artifact | None:
        """Find an artifact. One that changed on disk is set aside and counts as missing."""
        try:
            return self.store.find(key)
        except ArtifactCorruptError as error:
            place = self.store.set_aside(key)
            self.observer(Warned(f"{error.message}; set aside as {place} and made again"))
            return None

    def _settle(self, placed: PlacedStep, binder: Binder, key: str, inputs: Mapping[str, Artifact]) -> None:
        """Remove what a build left that was killed after publishing. The caller holds the key's lock."""
        folders = {name: artifact.folder for name, artifact in inputs.items()}
        job = binder.job(placed.step, placed.executor, key, folders, self.store.root / "attempts" / key)
        try:
            self._let_go(self._executor(placed.executor), job)
            self.store.drop_scratch(key)
        except MachineError as error:
            self.observer(Warned(f"what an earlier build left of {placed.step.name} stays for now: {error.message}"))

    def _make(
        self, placed: PlacedStep, plan: Plan, key: str, inputs: Mapping[str, Artifact], *, again: bool
    ) -> Artifact:
        step, binder = placed.step, plan.binder
        executor = self._executor(placed.executor)
        left = None if again else self.store.sealed(key)
        if left is None:  # a process ended with its orchestrator, and its disk space is needed
            self.store.sweep(key, "process")
        attempt = left or self.store.attempt(key, placed.executor)
        folders = {name: artifact.folder for name, artifact in inputs.items()}
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        if again:
            self.store.drop_scratch(key)
        scratch = self.store.scratch(key) if step.resumable else None
        job = binder.job(step, placed.executor, key, folders, attempt.folder, digests=digests, scratch=scratch)
        if left:
            return self._publish(step, executor, job, left)
        self.observer(StepStarted(step.name, executor.name))
        try:
            with machine_faults(f"preparing {step.name}"):
                write_files(step, attempt.folder)
            executor.check(job)
        except MachineError:
            attempt.discard()
            raise
        listener, started = _Listener(self.observer), time.monotonic()
        try:
            abort_check = guard_for(plan.target, step.name, self.kernel) or never_abort
            outcome = executor.run(job, listener, abort_check)
        except MachineError:  # Docker stopped answering: its container may still run, and the next build adopts it
            self._keep_log(step, binder.recipe, attempt)
            if placed.executor == "process":  # the process has ended, and may have left the disk full
                self._let_go(executor, job)
            raise
        except BaseException:
            self._keep_log(step, binder.recipe, attempt)
            self._let_go(executor, job)
            raise
        attempt = Attempt.of_output(outcome.output)
        seconds = None if outcome.adopted else time.monotonic() - started
        try:
            _insist_on_success(step, outcome, listener.failure, attempt)
            _check_outputs(step, attempt.out)
            list_files(attempt.out)
            with machine_faults(f"keeping what {step.name} cost"):
                write_cost(attempt.folder, Cost(executor.name, _now(), seconds, listener.spent))
        except (OrchestratorError, OSError):
            self._keep_log(step, binder.recipe, attempt)
            self._let_go(executor, job)
            raise
        attempt.seal()
        checked = listener.checked if step.network else {}  # other steps run foreign code
        return self._publish(step, executor, job, attempt, checked=checked)

    def _publish(
        self,
        step: Step,
        executor: Executor,
        job: Job,
        attempt: Attempt,
        *,
        checked: Mapping[str, Checked] | None = None,
    ) -> Artifact:
        """Publish a successful result. If this is interrupted, the next build continues from there.

        Without `checked`, an unpublished result was found.
        """
        self.observer(Publishing(step.name, checked is None))
        self.store.mark_leftovers(job.key)
        artifact = self.store.publish(attempt, job.key, step.name, checked or {})
        self.store.drop_scratch(job.key)
        self._let_go(executor, job)
        return artifact

    def _let_go(self, executor: Executor, job: Job) -> None:
        """Remove what a job leaves besides its artifact. The caller holds the key's lock."""
        executor.forget(job)
        self.store.sweep(job.key)

    def _keep_log(self, step: Step, recipe: str, attempt: Attempt) -> None:
        log = attempt.folder / "log.txt"
        if log.is_file():
            with suppress(OSError):  # on a full disk, the reason why the step failed matters more
                shutil.copyfile(log, failed_log(self.store.root, recipe, step.name))

    def _executor(self, name: ExecutorName) -> Executor:
        if name not in self._made:
            self._made[name] = self.executors[name]()
        return self._made[name]


def forecast(plan: Plan, store: Store, work: Path) -> tuple[Forecast, ...]:
    """Describe a run with its exact jobs, without changing anything.

    Args:
        plan: The plan.
        store: The store with results of earlier runs.
        work: Placeholder for the parent of new folders, one folder a step.
    """
    artifacts: dict[str, Artifact] = {}
    forecasts = []
    for placed in plan.steps:
        step = placed.step
        known = all(mount.step in artifacts for mount in step.inputs)
        key = plan.binder.key(step, placed.executor, artifacts) if known else "0" * 64
        artifact = _find_quietly(store, key) if known else None
        if artifact:
            artifacts[step.name] = artifact
        decision: Decision = "reuse" if artifact else "run" if known else "later"
        folders = {
            mount.step: artifacts[mount.step].folder if mount.step in artifacts else work / mount.step / "out"
            for mount in step.inputs
        }
        job = plan.binder.job(step, placed.executor, key, folders, work / step.name)
        forecasts.append(Forecast(placed, decision, job))
    return tuple(forecasts)


def _find_quietly(store: Store, key: str) -> Artifact | None:
    try:
        return store.find(key)
    except ArtifactCorruptError:
        return None


def write_files(step: Step, attempt: Path) -> None:
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


def _insist_on_success(step: Step, outcome: Outcome, failure: Failure | None, attempt: Attempt) -> None:
    if outcome.exit_status == 0:
        return
    if failure:
        kind = by_code(failure.code) or StepFailedError
        if issubclass(kind, PlanRefusedError):  # only the planner refuses plans, never a payload
            kind = StepFailedError
        message = f"{step.name}: {failure.message}"
        raise kind(message, hint=failure.hint)
    tail = _tail(attempt.folder / "log.txt")
    if outcome.out_of_memory:
        message = f"{step.name} was killed for memory (exit status {outcome.exit_status}){tail}"
        raise StepOutOfMemoryError(
            message, hint="free memory (drop the page cache, stop servers), or choose a smaller batch"
        )
    if outcome.killed:
        message = f"{step.name} was ended from outside (exit status {outcome.exit_status}){tail}"
        raise StepKilledError(message, hint="run the same command again; finished steps are kept")
    message = f"{step.name} ended with exit status {outcome.exit_status}{tail}"
    raise StepFailedError(message, hint="`orchestrator logs` shows the whole log")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 8192))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-_TAIL:])


def _check_outputs(step: Step, out: Path) -> None:
    """Check success: exit status 0 and valid outputs, never a log line."""
    with machine_faults(f"checking the result of {step.name}"):
        for output in step.outputs:
            found = sorted(out.glob(output.pattern))
            if not found:
                message = f"{step.name} ended with exit status 0, but left no {output.pattern}"
                raise OutputMissingError(message, hint="`orchestrator logs` shows the whole log")
            for path in found:
                _check_output(step, output, path)


def _check_output(step: Step, output: Output, path: Path) -> None:
    where = f"{step.name} left {path.name}, but"
    if output.kind == "folder":
        if not any(path.iterdir()):
            message = f"{where} the folder is empty"
            raise OutputMissingError(message)
        return
    if path.stat().st_size == 0:
        message = f"{where} it is empty"
        raise OutputMissingError(message)
    if output.kind == "json":
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            message = f"{where} it is not JSON: {error}"
            raise OutputMissingError(message) from error
    elif output.kind == "safetensors":
        from orchestrator.quantization import header  # noqa: PLC0415 - loads NumPy, which a plan does not need

        try:
            header.read(path)
        except CheckpointError as error:
            message = f"{where} it does not parse: {error.message}"
            raise OutputMissingError(message) from error
