"""Finds faster options for a recipe on this machine: a few runs that are chosen by the plan and by each other."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator import __version__
from orchestrator.app.building import Executors
from orchestrator.app.make_plan import ExecutorName, Plan
from orchestrator.app.measurements import Row
from orchestrator.app.measuring import REQUESTS_OF_EACH, benchmark_of, measure
from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.tuning_ledger import Ledger, Run, identity_of
from orchestrator.deployment.record import remembered
from orchestrator.errors import (
    CheckFailedError,
    ConfigInvalidError,
    HostMemoryError,
    OrchestratorError,
    OutputMissingError,
    ServerRunsError,
    StepFailedError,
    StepOutOfMemoryError,
    StepTimeLimitError,
    StepUnknownError,
)
from orchestrator.events import Observer, silence
from orchestrator.planner.queueing import Targets
from orchestrator.planner.tuning import NOISE, Axis, Crash, Point, Search, Tried
from orchestrator.planner.tuning_space import axes_of, changes_of, point_of, predicted, start_of
from orchestrator.recipe.model import Workload
from orchestrator.steps.shape import Shape
from orchestrator.values import frozen

MOST_RUNS = 12
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|ALLOC_FAILED|cudaErrorMemoryAllocation|No available memory for the cache"
    r"|KV cache is needed, which is larger|insufficient (?:GPU )?memory|Cannot allocate memory",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"unrecognized arguments|invalid choice|no such option|unexpected keyword|extra (?:inputs|fields)|ValidationError"
    r"|not supported|unsupported|NotImplementedError|is not available|must be (?:less|greater|at least|at most)",
    re.IGNORECASE,
)
_HANG = re.compile(r"was not healthy after|timed out|timeout", re.IGNORECASE)


@frozen
class Question:
    """What to tune, and for whom."""

    settings: Settings
    recipe: RecipeName
    overrides: tuple[str, ...]
    """`KEY=VALUE` each, for every run: the workload is among them."""
    targets: Targets
    drafts: bool = False
    """Try other lengths of drafts. Requests are tokens by chance, of which drafts are accepted as chance has it."""
    executor: ExecutorName | None = None
    most: int = MOST_RUNS
    limit: float = 5400.0
    """Seconds of one step, after which the run counts as one that hangs."""


@frozen
class Tuning:
    """The space of a question, its ledger and the search so far."""

    question: Question
    plan: Plan
    fixed: tuple[str, ...]
    """Values that all runs share: those of the question, and the benchmark of its workload."""
    axes: tuple[Axis, ...]
    start: Point
    """The recipe as it is."""
    predicted: Mapping[Point, float]
    ledger: Ledger

    @property
    def search(self) -> Search:
        """The search, with all runs of the ledger."""
        found = {point_of(self.axes, self.start, run.values): run for run in self.ledger.runs}
        tried = tuple(Tried(point, run.speed, run.crash) for point, run in found.items() if point is not None)
        return Search(self.axes, self.predicted, self.start, tried)

    @property
    def spent(self) -> int:
        """Runs that took time. What a plan refuses does not count."""
        return sum(run.crash != "refused option" or run.seconds > 0 for run in self.ledger.runs)

    @property
    def gain(self) -> float | None:
        """The share by which the best run is faster than the recipe; None if one of them has no speed."""
        search = self.search
        own = next((one.speed for one in search.tried if one.point == search.start), None)
        return search.best.speed / own - 1 if own and search.best and search.best.speed else None

    @property
    def patch(self) -> dict[str, object]:
        """The values to write into the recipe: none if the gain may be noise."""
        search, gain = self.search, self.gain
        if search.best is None or (gain is not None and gain < NOISE):
            return {}
        return self.values(search.best.point)

    @property
    def seconds(self) -> tuple[float, float]:
        """The least and the most seconds of a run: the server starts for the checks and for the benchmark."""
        stage = self.plan.estimate.stage("load")
        start = (stage.time.least, stage.time.most) if stage and stage.time else (60.0, 600.0)
        asked = self.ledger.workload
        users = asked["concurrency"]
        tokens = asked["output_tokens"] * REQUESTS_OF_EACH * users
        answers = tokens / self.predicted[self.start]
        return 2 * start[0] + answers / 2, 2 * start[1] + 2 * answers

    def values(self, point: Point) -> dict[str, object]:
        """Return the values by key path in which a point differs from the recipe."""
        return changes_of(self.axes, self.start, point)

    def forecast(self) -> Iterator[tuple[Point, float]]:
        """Yield the runs to come with their predicted speeds, if each is as fast as the plan says."""
        search = self.search
        for _ in range(self.question.most - self.spent):
            point = search.next()
            if point is None:
                return
            yield point, self.predicted[point]
            search = replace(search, tried=(*search.tried, Tried(point, self.predicted[point])))


def tuning_of(question: Question) -> Tuning:
    """Plan a tuning, and read its ledger. Nothing runs.

    Raises:
        PlanRefusedError: The recipe itself cannot work.
        ConfigInvalidError: The model's sizes are not known.
        StepUnknownError: The recipe has no benchmark, or its target has no GPU.
    """
    settings, recipe = question.settings, question.recipe
    planned = plan(settings, recipe, question.overrides, question.executor, asks_hub=True).plan
    planned.raise_refusals()
    if "benchmark" not in [placed.step.name for placed in planned.steps]:
        message = f"{recipe} has no benchmark, or its target has no GPU"
        raise StepUnknownError(message, hint="tune measures with the recipe's benchmark")
    serving = planned.model.asked
    if serving is None:
        message = f"{recipe}: the sizes of its model are not known, so no run can be planned"
        raise ConfigInvalidError(message, hint="orchestrator compare OWNER/NAME asks the Hub for them")
    shape = Shape(planned.recipe, settings.catalog)
    axes = axes_of(planned.recipe, shape.server, shape.runtime, serving.batch, drafts=question.drafts)
    start = start_of(axes, planned.recipe)
    expected = {start: predicted((), serving).get((), 1.0), **predicted(axes, serving)}
    workload = {
        "input_tokens": serving.context - serving.output_tokens,
        "output_tokens": serving.output_tokens,
        "concurrency": serving.batch,
        "ttft": question.targets.first_token,
        "tpot": question.targets.per_token,
    }
    parts = [planned.recipe.model_dump(mode="json"), settings.catalog.image(planned.recipe.image).reference, workload]
    name = f"{recipe.name}-{workload['input_tokens']}-{workload['output_tokens']}-{serving.batch}.json"
    file = settings.measurements / "tuning" / name
    ledger = Ledger.open(file, identity_of(axes, [*parts, __version__]), recipe.name, workload)
    lengths = Workload(
        input_tokens=serving.context - serving.output_tokens,
        output_tokens=serving.output_tokens,
        concurrency=serving.batch,
    )
    fixed = (*question.overrides, *benchmark_of(planned.recipe, lengths))
    return Tuning(question, planned, fixed, axes, start, expected, ledger)


def kept_text(settings: Settings, recipe: RecipeName) -> Path:
    """Return the file that keeps a recipe's text from before a patch."""
    return settings.measurements / "tuning" / f"{recipe.name}.before"


def tune(
    tuning: Tuning,
    *,
    stop_server: bool = False,
    executors: Executors | None = None,
    observer: Observer = silence,
    report: Callable[[Run], None] = lambda _: None,
) -> None:
    """Run until the search is over or all runs are spent. Each run is in the ledger when it ends.

    Args:
        tuning: The tuning.
        stop_server: Stop the deployed servers of this machine meanwhile.
        executors: How to create each executor; None: processes and Docker of this machine.
        observer: Gets the events of the builds.
        report: Gets each run.

    Raises:
        ServerRunsError: A server runs, and `stop_server` is not given.
        OrchestratorError: A run failed for a reason that is not its options'.
    """
    with _alone(tuning, stop_server=stop_server):
        while tuning.spent < tuning.question.most:
            point = tuning.search.next()
            if point is None:
                return
            report(_run(tuning, point, executors, observer))


def crash_of(error: OrchestratorError) -> Crash | None:
    """Tell how a server crashed; None if the error has another reason than the server's options."""
    if isinstance(error, StepOutOfMemoryError | HostMemoryError):
        return "out of memory"
    if isinstance(error, StepTimeLimitError):
        return "hang"
    of_server = type(error) is CheckFailedError and ": the server " in error.message
    if not of_server and not isinstance(error, StepFailedError | OutputMissingError):
        return None
    kinds: tuple[tuple[re.Pattern[str], Crash], ...] = ((_MEMORY, "out of memory"), (_REFUSED, "refused option"))
    for pattern, crash in (*kinds, (_HANG, "hang")):
        if pattern.search(error.message):
            return crash
    return "died"


def _run(tuning: Tuning, point: Point, executors: Executors | None, observer: Observer) -> Run:
    question, values, ledger = tuning.question, tuning.values(point), tuning.ledger
    overrides = [*tuning.fixed, *(f"{name}={json.dumps(value)}" for name, value in values.items())]
    expected = tuning.predicted[point]
    refused = plan(question.settings, question.recipe, overrides, question.executor).plan.refusals
    if refused:
        run = Run(values, expected, None, crash="refused option", message=refused[0].message)
        ledger.end(run)
        return run
    ledger.begin(values)
    began = time.monotonic()
    try:
        row = measure(
            question.settings,
            question.recipe,
            overrides,
            executor=question.executor,
            keep=False,
            limit=question.limit,
            executors=executors,
            observer=observer,
        )
        figures = row.levels[0].model_dump(mode="json")
        run = Run(values, expected, _speed(row, question.targets), figures, seconds=time.monotonic() - began)
    except OrchestratorError as error:
        crash = crash_of(error)
        if crash is None:
            ledger.end(None)
            raise
        run = Run(values, expected, None, crash=crash, message=error.message, seconds=time.monotonic() - began)
    except BaseException:
        ledger.end(None)
        raise
    ledger.end(run)
    return run


def _speed(row: Row, targets: Targets) -> float:
    """Return the tokens per second, lowered by the share by which a time is missed, so that the search turns back."""
    level = row.levels[0]
    more, speed = level.model_extra or {}, level.output_tokens_per_second
    limits = {"time_to_first_token_ms": targets.first_token, "time_per_output_token_ms": targets.per_token}
    for name, limit in limits.items():
        found = (more.get(name) or {}).get("p95")
        if limit is not None and found:
            speed *= min(1.0, 1000 * limit / found)
    return speed


@contextmanager
def _alone(tuning: Tuning, *, stop_server: bool) -> Iterator[None]:
    """Let nothing else use the GPU: refuse while a server of ours runs, or stop it and start it again."""
    ledger, store = tuning.ledger, tuning.question.settings.store.root
    if not remembered(store) and not ledger.stopped:
        yield
        return
    from orchestrator.deployment.pausing import running_servers, start_again, stop_servers  # noqa: PLC0415 - loads slowly
    from orchestrator.executors.docker_client import connect  # noqa: PLC0415 - as above

    with closing(connect()) as client:
        running = running_servers(client)
        if running and not stop_server:
            message = f"these servers use the GPU: {', '.join(running)}"
            raise ServerRunsError(message, hint="--stop-server stops them for the runs, and starts them again")
        ledger.stopped = sorted({*ledger.stopped, *running})
        ledger.save()  # a run may take the machine down
    try:
        with closing(connect()) as client:
            stop_servers(client, running)
        yield
    finally:
        with closing(connect()) as client:
            start_again(client, ledger.stopped)
        ledger.stopped = []
        ledger.save()
