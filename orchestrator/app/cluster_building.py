"""Builds a recipe on a cluster: submits the jobs of its steps, follows them, then takes their results from the store.

The scheduler decides when and where a job runs. Each job is a build up to its step, so it publishes its result once,
even if it runs twice. This process only follows. If it is killed, the jobs continue, and the next build follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.app.access import require_token
from orchestrator.app.building import Build, executors_of, render_bundle
from orchestrator.app.cluster_chains import Reader, executor_of, job_error
from orchestrator.app.cluster_jobs import Chain, ClusterPlan, Site, check_containers, executor_on, remove_chain
from orchestrator.app.forecast import Forecast, forecast
from orchestrator.app.make_plan import PlacedStep
from orchestrator.app.planning import Planned, plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import recorded
from orchestrator.app.resolving import resolve
from orchestrator.app.runner import Runner
from orchestrator.app.settings import Settings
from orchestrator.errors import (
    MachineError,
    OutputMissingError,
    SchedulerUnavailableError,
    StepTimeLimitError,
    machine_faults,
)
from orchestrator.events import Event, Observer, StepReused, Waiting, Warned, silence
from orchestrator.executors.cluster import ClusterExecutor
from orchestrator.executors.job import AbortCheck, Job, never_abort
from orchestrator.executors.job_follower import SubmittedJob
from orchestrator.store.mounts import local_locks
from orchestrator.values import frozen

Leaves = Callable[[], bool]
"""Decides after an interrupt whether the jobs continue."""


@dataclass
class _Decision:
    """Asks once whether the jobs continue."""

    ask: Leaves
    answer: bool | None = None

    def __call__(self) -> bool:
        if self.answer is None:
            self.answer = False  # if the question is interrupted, too
            self.answer = self.ask()
        return self.answer


@frozen
class ClusterBuild:
    """One build on a cluster."""

    plan: ClusterPlan
    steps: tuple[PlacedStep, ...]
    """The steps up to the last one."""
    first: str | None = None
    last: str | None = None

    @classmethod
    def prepare(
        cls,
        settings: Settings,
        recipe: RecipeName,
        overrides: Sequence[str],
        site: Site,
        *,
        first: str | None = None,
        last: str | None = None,
        locked: bool = False,
        offline: bool = False,
    ) -> ClusterBuild:
        """Plan a recipe for a cluster. The arguments are those of `build`.

        Raises:
            PlanRefusedError: The recipe cannot work on its target or image.
            ClusterInvalidError: A step needs a container, and the cluster has none.
        """
        planned = plan(settings, recipe, overrides, executor_on(site), locked=locked)
        return cls.of(settings, planned, site, first=first, last=last, offline=offline)

    @classmethod
    def of(
        cls,
        settings: Settings,
        planned: Planned,
        site: Site,
        *,
        first: str | None = None,
        last: str | None = None,
        offline: bool = False,
    ) -> ClusterBuild:
        """Prepare a build of a plan that was made for this cluster; see `prepare`."""
        planned.plan.raise_refusals()
        planned.plan.between(first, last)
        check_containers(planned.plan, site, last)
        if not (offline or site.has_token):
            require_token(settings, planned.plan)
        resolved = resolve(settings, planned, offline=offline)
        prepared = ClusterPlan(settings, planned, resolved, site, offline)
        return cls(prepared, resolved.between(first, last), first, last)

    def run(
        self,
        observer: Observer = silence,
        leaves: Leaves = lambda: False,
        abort_check: AbortCheck = never_abort,
    ) -> Build:
        """Submit the jobs of all steps without a result, follow them, and return the build.

        Args:
            observer: Gets the events of the jobs.
            leaves: Decides after an interrupt whether the jobs continue.
            abort_check: Called often. It may raise KeyboardInterrupt, which works as Ctrl-C does.

        Raises:
            OrchestratorError: Of the same kind as without a cluster. Finished steps stay in the store.
        """
        settings = self.plan.settings
        settings.store.make()
        if kind := local_locks(settings.store.root):
            observer(Warned(f"{settings.store.root} is on {kind}: its locks do not reach other nodes{_LOCAL}"))
        place = self.plan.folder(self.steps, self._forced())
        chain = self.plan.chain(place, self._pending(), self._forced())
        every = self.plan.chain(place, self.steps, self._forced()).jobs
        done = tuple(job for job in every if job not in chain.jobs)
        run = _Run(self.plan, chain, self.steps, observer, _Decision(leaves), abort_check, done)
        with settings.store.lock(place.name, lambda: observer(_WAITING), abort_check):
            if chain.jobs:
                run.to_the_end()
            remove_chain(chain)
        run.executor.sweep(every)
        return self._collect(observer, run.made, run.reused)

    def render(self, folder: Path) -> Chain:
        """Write the requests of all steps without a result into a folder, for a person to submit.

        Raises:
            MachineError: The folder cannot be written.
        """
        chain = self.plan.chain(folder, self._pending() or self.steps, self._forced())
        executor = executor_of(self.plan.settings, chain, self.plan.resources)
        self.plan.write(chain)
        with machine_faults("writing the requests"):
            for job in chain.jobs:
                job.output.mkdir(parents=True, exist_ok=True)
                (job.output.parent / executor.scheduler.request_name).write_text(executor.request(job), "utf-8")
            for name, text in executor.scheduler.by_hand(chain.jobs).items():
                (folder / name).write_text(text, encoding="utf-8")
            (folder / "submit.sh").chmod(0o755)
        return chain

    @property
    def request_name(self) -> str:
        """The name of the file that describes a job to the scheduler."""
        return self.plan.site.scheduler(self.plan.resources, {}).request_name

    def _forced(self) -> frozenset[str]:
        names = [placed.step.name for placed in self.steps]
        return frozenset(names[names.index(self.first) :]) if self.first in names else frozenset()

    def _pending(self) -> tuple[PlacedStep, ...]:
        """Return the steps from the first one without a result, because a later result depends on it."""
        forced = self._forced()
        found = {one.placed.step.name: one for one in self._forecast()}
        pending = [placed for placed in self.steps if _is_pending(found[placed.step.name].decision, placed, forced)]
        return tuple(pending)

    def _forecast(self) -> Iterator[Forecast]:
        yield from forecast(self.plan.resolved, self.plan.settings.store, Path("unused"))

    def _collect(self, observer: Observer, made: Mapping[str, float], reused: set[str]) -> Build:
        """Read all results from the store, and write the deployment.

        Args:
            observer: Gets the events, except those of steps that the jobs made.
            made: The steps that the jobs made, with their seconds.
            reused: The steps whose results the jobs found.

        Raises:
            OutputMissingError: A job has succeeded, and its result is not in the store.
        """
        settings, resolved = self.plan.settings, self.plan.resolved
        names = {placed.step.name for placed in self.steps}
        missing = [
            one.placed.step.name
            for one in self._forecast()
            if one.placed.step.name in names and one.decision != "reuse"
        ]
        if missing:
            message = f"the job of {missing[0]} succeeded, but its result is not in {settings.store.root}"
            hint = "the store must be on a file system that all nodes share, at the same path"
            raise OutputMissingError(message, hint=hint)

        reported = {*made, *reused}

        def report(event: Event) -> None:
            if not (isinstance(event, StepReused) and event.step in reported):
                observer(event)

        steps = [placed.step.name for placed in resolved.between(None, self.last)]
        with recorded(settings.store.root, resolved.recipe.name, steps, report) as recorder:
            runner = Runner(settings.store, executors_of(settings), recorder, dist=settings.dist)
            results = runner.run(resolved, last=self.last)
            artifacts = {result.name: result.artifact for result in results}
            bundle = None if self.last else render_bundle(settings, resolved, artifacts, recorder)
        told = (
            replace(result, reused=False, seconds=made[result.name]) if result.name in made else result
            for result in results
        )
        return Build(resolved, tuple(told), bundle)


_LOCAL = ". Two jobs may do the same work twice, and one of them may fail; mount it with the locks of its server"
_WAITING = Waiting("jobs", "another process follows the same jobs")


@dataclass
class _Run:
    """Submits and follows the jobs of one chain."""

    plan: ClusterPlan
    chain: Chain
    steps: tuple[PlacedStep, ...]
    observer: Observer
    leaves: _Decision
    abort_check: AbortCheck
    done: tuple[Job, ...] = ()
    """The jobs of steps that have a result. Slurm may show them again after its controller was killed."""
    made: dict[str, float] = field(default_factory=dict)
    """The steps that the jobs made, with their seconds."""
    reused: set[str] = field(default_factory=set)
    """The steps whose results the jobs found, and reported."""
    executor: ClusterExecutor = field(init=False)
    _submitted: dict[str, SubmittedJob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.executor = executor_of(self.plan.settings, self.chain, self.plan.resources, self.leaves)

    def to_the_end(self) -> None:
        """Follow every job. If one fails, the later ones are removed."""
        with self._cleaned_up():
            self.plan.write(self.chain)
            self._submit_from(0)
            self.executor.sweep(self.done)
            for number in range(len(self.chain.jobs)):
                self._follow(number)

    @contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        """Remove the jobs and their folder at the end, unless they are to continue."""
        try:
            yield
        except SchedulerUnavailableError:  # the jobs may run, and the next build adopts them
            raise
        except KeyboardInterrupt:
            if not self.leaves():
                self._remove()
            raise
        except BaseException:
            self._remove()
            raise
        self._remove()

    def _submit_from(self, number: int) -> None:
        """Submit a job and all later ones. Each waits for the success of the one before.

        A scheduler without such a dependency gets the later ones one by one.
        """
        before, most = None, None if self.executor.scheduler.chains else 1
        for job in self.chain.jobs[number:][:most]:
            self.abort_check()
            before = self._submitted[job.step] = self.executor.submit(job, before)

    def _follow(self, number: int) -> None:
        """Follow a job to its end. A resumable step continues in the next job after a time limit."""
        job = self.chain.jobs[number]
        if job.step not in self._submitted:
            self._submit_from(number)
        resumable = next(placed.step.resumable for placed in self.steps if placed.step.name == job.step)
        for left in reversed(range(self.plan.site.cluster.jobs_of_a_step)):
            reader = Reader(job.step, self.observer)
            try:
                outcome = self.executor.follow(self._submitted[job.step], job, reader, self.abort_check)
            except StepTimeLimitError as error:
                if not (resumable and left):
                    raise
                self.observer(Warned(f"{error.message}; it continues in the next job"))
            else:
                if outcome.exit_status:
                    raise job_error(job, outcome, reader.ended)
                if reader.seconds is not None:
                    self.made[job.step] = reader.seconds
                if reader.is_reused:
                    self.reused.add(job.step)
                return
            for later in self.chain.jobs[number:]:
                self.executor.discard(later)
            self._submit_from(number)

    def _remove(self) -> None:
        try:
            for job in reversed(self.chain.jobs):
                self.executor.discard(job)
        except MachineError as error:
            self.observer(Warned(f"jobs may be left in the queue: {error.message}"))
        remove_chain(self.chain)


def _is_pending(decision: str, placed: PlacedStep, forced: frozenset[str]) -> bool:
    return decision != "reuse" or placed.step.name in forced
