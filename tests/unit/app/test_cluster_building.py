"""Builds on a cluster: which jobs are submitted in which order, and what becomes of them when one fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import cluster_chains
from orchestrator.app.cluster_building import ClusterBuild
from orchestrator.app.cluster_chains import cancel_chain, chains_of
from orchestrator.app.cluster_jobs import Site, recipe_text
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.catalog.cluster import Cluster
from orchestrator.errors import (
    CheckFailedError,
    ClusterInvalidError,
    OutputMissingError,
    SlurmUnavailableError,
    StepFailedError,
    StepKilledError,
    StepOutOfMemoryError,
    StepTimeLimitError,
)
from orchestrator.events import Event, LogLine, StepDone, StepReused, Warned
from orchestrator.executors.job import Job, Outcome
from orchestrator.executors.scheduler import Scheduler
from orchestrator.recipe.lock import pin_commits
from tests.support.leavings import RECIPE

ROOT = Path(__file__).resolve().parents[3]
CALIBRATED = "tiny-llama-nvfp4"
"""Its quantization saves its state."""
SETTINGS = Settings({}, ROOT)


@dataclass
class FakeSlurm:
    """Stands in for the executor: remembers what it is told, and ends jobs as it is told."""

    scheduler: Scheduler = field(init=False)

    calls: list[tuple[str, ...]] = field(default_factory=list)
    endings: dict[str, list[Outcome | BaseException | list[str]]] = field(default_factory=dict)

    def made_of(self, scheduler: Scheduler, **_: object) -> FakeSlurm:
        self.scheduler = scheduler
        return self

    def submit(self, job: Job, after: str | None = None) -> str:
        self.calls.append(("submit", job.step, after or ""))
        return job.step

    def follow(
        self, _submitted: str, job: Job, observer: Callable[[Event], None], _abort_check: Callable[[], None]
    ) -> Outcome:
        ending = self.endings.get(job.step, [Outcome(0, job.output)]).pop(0)
        if isinstance(ending, BaseException):
            raise ending
        if isinstance(ending, Outcome):
            return ending
        *lines, status = ending
        for line in lines:
            observer(LogLine(line))
        return Outcome(int(status), job.output)

    def discard(self, job: Job) -> None:
        self.calls.append(("discard", job.step))

    def check(self, job: Job) -> None:
        self.calls.append(("check", job.step))

    def sweep(self, jobs: tuple[Job, ...]) -> None:
        pass


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm()
    monkeypatch.setattr(cluster_chains, "ClusterExecutor", fake.made_of)
    return fake


def cluster(**settings: Any) -> Cluster:  # noqa: ANN401 - values of cluster.yaml
    base = {"schema_version": 1, "slurm": {"containers": "none"}}
    return Cluster.model_validate_json(json.dumps({**base, **settings}))


def prepare(folder: Path, recipe: str = RECIPE, **settings: Any) -> ClusterBuild:  # noqa: ANN401 - as above
    here = Settings({}, ROOT, folder / "store", folder / "dist")
    return ClusterBuild.prepare(here, RecipeName(recipe), (), Site("slurm", cluster(**settings)), offline=True)


def test_all_jobs_are_submitted_before_the_first_is_followed(tmp_path: Path, slurm: FakeSlurm) -> None:
    with pytest.raises(OutputMissingError, match="the job of generate succeeded, but its result is not in"):
        prepare(tmp_path).run()
    assert slurm.calls[:3] == [
        ("submit", "generate", ""),
        ("submit", "quantize", "generate"),
        ("submit", "verify", "quantize"),
    ]


def test_a_resumable_step_goes_on_in_the_next_job_after_a_time_limit(tmp_path: Path, slurm: FakeSlurm) -> None:
    limit = StepTimeLimitError("too long")
    slurm.endings["quantize"] = [limit, limit, Outcome(0, tmp_path)]
    events: list[Event] = []
    with pytest.raises(OutputMissingError):
        prepare(tmp_path, CALIBRATED).run(events.append)
    steps = [step for word, step, *_ in slurm.calls if word == "submit"]
    every = list(dict.fromkeys(steps))
    later = every[every.index("quantize") :]
    assert steps == [*every, *later, *later]
    assert slurm.calls.count(("submit", "quantize", "")) == 2, "what it waited for has ended"
    assert slurm.calls.count(("discard", "quantize")) == 3, "before each job that follows, and at the end"
    warned = [event for event in events if isinstance(event, Warned)]
    assert warned == [Warned("too long; it continues in the next job")] * 2


def test_a_resumable_step_has_only_so_many_jobs(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.endings["quantize"] = [StepTimeLimitError("too long") for _ in range(2)]
    with pytest.raises(StepTimeLimitError):
        prepare(tmp_path, CALIBRATED, jobs_of_a_step=2).run()
    assert slurm.calls.count(("submit", "quantize", "")) == 1, "the first one waits for generate"


def test_a_step_that_cannot_resume_ends_at_its_time_limit(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.endings["generate"] = [StepTimeLimitError("too long")]
    with pytest.raises(StepTimeLimitError):
        prepare(tmp_path).run()
    assert slurm.calls[3:] == [("discard", "verify"), ("discard", "quantize"), ("discard", "generate")]
    assert list((tmp_path / "store" / "jobs").iterdir()) == []


ENDED = {"event": "ended", "status": 7, "code": "CHECK_FAILED", "message": "verify: too bad", "hint": "do it"}


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ([json.dumps(ENDED), "7"], CheckFailedError),
        ([json.dumps({**ENDED, "code": ""}), "7"], StepFailedError),
        (["no JSON", '{"event": "unknown"}', "[1]", "9"], StepFailedError),
        (Outcome(137, Path(), out_of_memory=True), StepOutOfMemoryError),
        (Outcome(143, Path(), killed=True), StepKilledError),
    ],
)
def test_a_job_s_error_is_that_of_its_build(
    tmp_path: Path, slurm: FakeSlurm, ending: Outcome | list[str], kind: type[Exception]
) -> None:
    slurm.endings["verify"] = [ending]
    with pytest.raises(kind):
        prepare(tmp_path).run()


def test_events_of_earlier_steps_are_shown_once(tmp_path: Path, slurm: FakeSlurm) -> None:
    reused = {"event": "reused", "step": "generate", "key": "k", "bytes_in": 0, "bytes_out": 1, "seconds": 0.1}
    done = {**reused, "event": "done", "step": "quantize"}
    slurm.endings["quantize"] = [[json.dumps(reused), json.dumps(done), "other", "0"]]
    events: list[Event] = []
    with pytest.raises(OutputMissingError):
        prepare(tmp_path).run(events.append)
    assert not [event for event in events if isinstance(event, StepReused)]
    assert StepDone("quantize", "k", 0, 1, 0.1) in events
    assert LogLine("other") in events


def test_jobs_stay_if_slurm_does_not_answer(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.endings["generate"] = [SlurmUnavailableError("silence")]
    build = prepare(tmp_path)
    with pytest.raises(SlurmUnavailableError):
        build.run()
    assert ("discard", "generate") not in slurm.calls
    (chain,) = chains_of(build.plan.settings, RECIPE)
    assert [job.step for job in chain.jobs] == ["generate", "quantize", "verify"]


@pytest.mark.parametrize("left", [True, False])
def test_an_interrupt_leaves_or_removes_the_jobs(tmp_path: Path, slurm: FakeSlurm, left: bool) -> None:
    slurm.endings["generate"] = [KeyboardInterrupt()]
    build = prepare(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build.run(leaves=lambda: left)
    assert (("discard", "generate") in slurm.calls) is not left
    chains = chains_of(build.plan.settings, RECIPE)
    assert bool(chains) is left
    for chain in chains:
        cancel_chain(build.plan.settings, chain)
    assert chains_of(build.plan.settings, RECIPE) == ()


def test_a_chain_has_one_folder_whichever_steps_are_left(tmp_path: Path) -> None:
    build = prepare(tmp_path)
    chain = build.plan.chain(build.plan.folder(build.steps, frozenset()), build.steps, frozenset())
    assert chain.folder == build.plan.folder(prepare(tmp_path).steps, frozenset())
    assert chain.folder != build.plan.folder(build.steps[:2], frozenset())
    assert chain.folder != build.plan.folder(build.steps, frozenset({"verify"}))


def test_a_job_requests_the_plan_s_figures_with_the_site_s_margins(tmp_path: Path) -> None:
    build = prepare(tmp_path, margins={"time": 2.0, "memory": 2.0, "shortest_minutes": 3, "longest_minutes": 100})
    (quantize,) = [job for job in build.plan.chain(tmp_path, build.steps, frozenset()).jobs if job.step == "quantize"]
    found = build.plan.resources(quantize)
    stage = build.plan.resolved.estimate.stage("quantize")
    assert stage is not None
    assert found.memory == max(int(2 * stage.peak.total), 4_000_000_000)
    assert found.minutes == 3
    assert (
        prepare(tmp_path, margins={"longest_minutes": 1, "shortest_minutes": 1}).plan.resources(quantize).minutes == 1
    )


def test_a_step_that_needs_a_container_is_refused_without_containers(tmp_path: Path) -> None:
    with pytest.raises(ClusterInvalidError, match="containers: none"):
        prepare(tmp_path, "llama3-8b-nvfp4-published-engine")


@pytest.mark.parametrize("name", SETTINGS.book.names)
def test_the_copy_of_a_recipe_for_the_jobs_says_the_same(tmp_path: Path, name: str) -> None:
    recipe = pin_commits(SETTINGS.load(RecipeName(name)).recipe, {})
    file = tmp_path / f"{name}.yaml"
    file.write_text(recipe_text(recipe))
    assert SETTINGS.load(RecipeName(name, file)).recipe == recipe
