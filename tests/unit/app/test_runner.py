"""The one loop: what is reused, what runs, what is published, and what every kind of failure leaves behind."""

from __future__ import annotations

import shutil
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.app.building import Executors
from orchestrator.app.forecast import forecast
from orchestrator.app.make_plan import PlacedStep, Plan, make_plan
from orchestrator.app.memory_guard import Kernel
from orchestrator.app.record import Record, recorded
from orchestrator.app.runner import Runner, StepResult
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import (
    CheckFailedError,
    DiskFullError,
    DockerUnavailableError,
    HostMemoryError,
    OrchestratorError,
    OutputMissingError,
    PlanRefusedError,
    StepFailedError,
    StepKilledError,
    StepOutOfMemoryError,
    StepUnknownError,
)
from orchestrator.events import (
    Checked,
    Event,
    Failure,
    LogLine,
    MemoryUsed,
    Publishing,
    Spent,
    StepDone,
    StepReused,
    StepStarted,
    Waiting,
    Warned,
    to_line,
)
from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.step import Input, Output, Step
from orchestrator.store import owner
from orchestrator.store.cost import MemoryCurve
from orchestrator.store.fingerprint import fingerprint_of
from orchestrator.store.space import Need
from orchestrator.store.store import Store, remove_tree
from tests.support.fake import FakeExecutor, FakeRun
from tests.support.leavings import RECIPE, STEPS, checked, checkpoint, quantized, safetensors, tiny_executor

ROOT = Path(__file__).resolve().parents[3]
CATALOG = Catalog(Project(ROOT))
"""Read once: nothing changes it."""


@dataclass
class World:
    """A store, an executor and a project that a test may change."""

    root: Path
    project: Path = ROOT
    executor: FakeExecutor = field(default_factory=tiny_executor)
    events: list[Event] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def plan(self, *overrides: str, name: str = RECIPE) -> Plan:
        recipe = RecipeBook(self.project / "recipes").load(name, overrides).recipe
        return make_plan(recipe, CATALOG if self.project == ROOT else Catalog(Project(self.project)), None)

    def build(
        self, *overrides: str, name: str = RECIPE, first: str | None = None, last: str | None = None
    ) -> tuple[StepResult, ...]:
        return self.run(self.plan(*overrides, name=name), first=first, last=last)

    def run(
        self, plan: Plan, *, first: str | None = None, last: str | None = None, kernel: Kernel | None = None
    ) -> tuple[StepResult, ...]:
        steps = [placed.step.name for placed in plan.steps]
        executors: Executors = {"process": lambda: self.executor, "docker": pytest.fail}
        with recorded(self.store.root, plan.recipe.name, steps, self.see) as observer:
            return Runner(self.store, executors, observer, kernel or Kernel()).run(plan, first=first, last=last)

    def see(self, event: Event) -> None:
        self.events.append(event)

    def ran(self, *overrides: str, first: str | None = None, last: str | None = None) -> list[str]:
        """Build, and name the steps that ran."""
        before = len(self.executor.steps)
        self.build(*overrides, first=first, last=last)
        return self.executor.steps[before:]

    def published(self) -> list[str]:
        return sorted(artifact.step for artifact in self.store.artifacts())

    def failed_log(self, step: str) -> str:
        return (self.store.root / "logs" / RECIPE / f"{step}.log").read_text()

    def record(self) -> Record:
        record = Record.read(self.store.root, RECIPE)
        assert record is not None
        return record

    def states(self) -> dict[str, str]:
        return {entry.name: entry.state for entry in self.record().steps}

    def spoil(self, step: str, what: Callable[[Path], object]) -> None:
        """Let a step end with 0 after something was done to its output."""
        command = self.executor.commands[step]

        def spoiled(run: FakeRun) -> None:
            command(run)
            what(run.output)

        self.executor.commands = {**self.executor.commands, step: spoiled}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_build_runs_every_step_in_order(world: World) -> None:
    results = world.build()
    assert world.executor.steps == STEPS
    assert [(result.name, result.reused) for result in results] == [(step, False) for step in STEPS]
    assert world.store.attempts() == ()


def test_the_second_build_reuses_every_step_and_says_so(world: World) -> None:
    first = world.build()
    second = world.build()
    assert world.executor.steps == STEPS
    assert [result.artifact for result in second] == [result.artifact for result in first]
    assert all(result.reused for result in second)
    assert [event.step for event in world.events if isinstance(event, StepReused)] == STEPS


def test_sixty_steps_run_one_after_another_and_are_found_again(world: World) -> None:
    plan = world.plan()
    names = [f"step-{number:03}" for number in range(60)]
    steps = [
        PlacedStep(Step(name, ("command", name), (Output("x"),), inputs=(Input(before, "/before"),)), "process")
        for before, name in pairwise(names)
    ]
    first = PlacedStep(Step(names[0], ("command", names[0]), (Output("x"),)), "process")
    long = replace(plan, steps=(first, *steps))

    def command(run: FakeRun) -> None:
        (run.output / "x").write_text(run.argv[1])

    world.executor = FakeExecutor(dict.fromkeys(names, command))
    assert [result.reused for result in world.run(long)] == [False] * 60
    assert world.executor.steps == names
    assert [result.reused for result in world.run(long)] == [True] * 60
    assert list(world.store.attempts()) == []
    assert set(world.states().values()) == {"reused"}


def test_bytes_in_are_those_of_the_steps_that_are_read(world: World) -> None:
    generate, quantize, verify = world.build()
    assert generate.bytes_in == 0
    assert quantize.bytes_in == generate.artifact.size
    assert verify.bytes_in == generate.artifact.size + quantize.artifact.size


def test_a_step_reads_what_the_steps_before_it_published(world: World) -> None:
    seen: list[str] = []

    def looking(run: FakeRun) -> None:
        seen.append((run.place("/model") / "config.json").read_text())
        quantized(run)

    world.executor.commands = {**world.executor.commands, "quantize": looking}
    world.build()
    assert seen == ["{}"]


@pytest.mark.parametrize(
    ("override", "rerun"),
    [
        ("checks.min_snr_db=18.5", ["verify"]),
        ("quantization.exclude=[lm_head]", ["quantize", "verify"]),
        ("model.generate.seed=1", ["generate", "quantize", "verify"]),
        ("serve.port=9000", []),
    ],
)
def test_a_changed_option_reruns_only_downstream(world: World, override: str, rerun: list[str]) -> None:
    world.build()
    assert world.ran(override) == rerun
    assert world.ran() == []  # what was built before is still there


def test_the_same_bytes_from_a_changed_step_rerun_nothing_downstream(world: World) -> None:
    def same(run: FakeRun) -> None:
        (run.output / "config.json").write_text("{}")
        (run.output / "model.safetensors").write_bytes(safetensors())

    world.executor.commands = {**world.executor.commands, "generate": same}
    world.build()
    assert world.ran("model.generate.seed=1") == ["generate"]


def test_the_store_is_shared_by_recipes_of_other_names(world: World, tmp_path: Path) -> None:
    world.build()
    project = tmp_path / "project"
    for folder in ("recipes", "docker"):
        shutil.copytree(ROOT / folder, project / folder)
    text = (project / "recipes" / f"{RECIPE}.yaml").read_text()
    (project / "recipes" / "another.yaml").write_text(text.replace(f"name: {RECIPE}", "name: another"))
    world.project = project
    world.build(name="another")
    assert world.executor.steps == STEPS


def test_a_key_does_not_depend_on_where_the_store_lies(world: World, tmp_path: Path) -> None:
    elsewhere = World(tmp_path / "elsewhere")
    assert [result.artifact.key for result in world.build()] == [result.artifact.key for result in elsewhere.build()]


def test_from_runs_a_step_and_all_after_it_again(world: World) -> None:
    world.build()
    assert world.ran(first="quantize") == ["quantize", "verify"]
    assert world.ran() == []


def test_until_stops_after_a_step(world: World) -> None:
    assert world.ran(last="quantize") == ["generate", "quantize"]
    assert world.published() == ["generate", "quantize"]


def test_from_and_until_run_one_step_again(world: World) -> None:
    world.build()
    assert world.ran(first="quantize", last="quantize") == ["quantize"]


@pytest.mark.parametrize(("first", "last"), [("engine", None), (None, "engine"), ("verify", "quantize")])
def test_a_step_that_is_not_there_is_refused_before_anything_runs(
    world: World, first: str | None, last: str | None
) -> None:
    with pytest.raises(StepUnknownError) as caught:
        world.build(first=first, last=last)
    assert "generate, quantize, verify" in caught.value.hint
    assert world.executor.steps == []


def test_a_refused_plan_runs_nothing(world: World) -> None:
    with pytest.raises(PlanRefusedError):
        world.build(name="deepseek-coder-v2-lite-bf16")
    assert world.executor.steps == []


@pytest.mark.parametrize("step", STEPS)
def test_a_failed_step_publishes_nothing_and_keeps_its_log(world: World, step: str) -> None:
    world.executor.fail(step, status=3)
    with pytest.raises(StepFailedError, match=f"{step} ended with exit status 3\n  at work: {step}") as caught:
        world.build()
    assert "`orchestrator logs`" in caught.value.hint
    before = STEPS[: STEPS.index(step)]
    assert world.published() == sorted(before)
    assert world.store.attempts() == ()
    assert world.failed_log(step) == f"at work: {step}\n"
    world.executor.mend(step)
    assert world.ran() == STEPS[len(before) :]


@pytest.mark.parametrize("step", STEPS)
def test_exit_status_0_without_output_is_a_failure(world: World, step: str) -> None:
    world.executor.leave_nothing(step)
    with pytest.raises(OutputMissingError, match=f"{step} ended with exit status 0, but left no") as caught:
        world.build()
    assert "`orchestrator logs`" in caught.value.hint
    assert step not in world.published()
    assert world.failed_log(step)


@pytest.mark.parametrize("step", STEPS)
def test_empty_output_is_a_failure(world: World, step: str) -> None:
    world.executor.leave_empty_files(step)
    with pytest.raises(OutputMissingError, match="but it is empty"):
        world.build()
    assert step not in world.published()


@pytest.mark.parametrize(
    "text", [b"{", b"\xff\xfe", b'{"a": 1} trailing', b"[" * 100_000, b"Engine generation completed\n"]
)
def test_broken_json_is_a_failure(world: World, text: bytes) -> None:
    world.spoil("quantize", lambda out: (out / "hf_quant_config.json").write_bytes(text))
    with pytest.raises(OutputMissingError, match=r"hf_quant_config\.json, but it is not JSON"):
        world.build()


@pytest.mark.parametrize(
    "content",
    [
        safetensors()[:-1],
        safetensors()[:20],
        safetensors()[:4],
        safetensors() + b"more",
        b"PK\x03\x04 a zip of pickles, misnamed",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_a_truncated_or_misnamed_safetensors_file_is_a_failure(world: World, content: bytes) -> None:
    world.spoil("quantize", lambda out: (out / "model.safetensors").write_bytes(content))
    with pytest.raises(OutputMissingError, match=r"model\.safetensors, but it does not parse"):
        world.build()
    assert world.published() == ["generate"]


def test_only_a_download_is_believed_what_it_hashed(world: World) -> None:
    def lying(run: FakeRun) -> None:
        checkpoint(run)
        checked = Checked("model.safetensors", "0" * 64, fingerprint_of(run.output / "model.safetensors"))
        run.write(to_line(checked).encode() + b"\n")

    world.executor.commands = {**world.executor.commands, "generate": lying}
    generated = world.build(last="generate")[0].artifact
    assert "0" * 64 not in [file.sha256 for file in generated.files]
    plan = world.plan()
    step = replace(plan.steps[0].step, network=True, argv=(*plan.steps[0].step.argv, "--again"))
    plan = replace(plan, steps=(replace(plan.steps[0], step=step),))
    runner = Runner(world.store, {"process": lambda: world.executor}, world.see)
    [downloaded] = runner.run(plan)
    assert "0" * 64 in [file.sha256 for file in downloaded.artifact.files]


SPENT = Spent({"read": 1.5, "encode": 2.5}, 1000, 300, 70_000_000, 0, 2, "cpu")


def telling(spent: Spent) -> Callable[[FakeRun], None]:
    def run(run: FakeRun) -> None:
        checkpoint(run)
        run.write(to_line(spent).encode() + b"\n")

    return run


def test_what_a_step_cost_is_kept_beside_its_result_for_every_later_build(world: World) -> None:
    world.executor.commands = {**world.executor.commands, "generate": telling(SPENT)}
    made = world.build(last="generate")[0]
    reused = world.build(last="generate")[0]
    assert reused.reused
    kept = world.store.cost(reused.artifact.key)
    assert kept is not None
    assert kept.spent == SPENT
    assert kept.executor == "fake"
    assert kept.seconds is not None
    assert kept.seconds >= 0
    assert "cost.json" not in [file.path for file in made.artifact.files]


def test_what_a_step_cost_changes_nothing_in_its_digest(tmp_path: Path) -> None:
    found = []
    for number, peak in enumerate((1, 2)):
        again = World(tmp_path / str(number))
        again.executor.commands = {
            **again.executor.commands,
            "generate": telling(replace(SPENT, peak_memory=peak)),
        }
        artifact = again.build(last="generate")[0].artifact
        cost = again.store.cost(artifact.key)
        found.append((artifact.digest, cost.spent.peak_memory if cost and cost.spent else None))
    assert found[0][0] == found[1][0]
    assert [peak for _, peak in found] == [1, 2]


def test_what_a_killed_build_had_found_out_of_the_cost_is_published_by_the_next(world: World) -> None:
    world.executor.commands = {**world.executor.commands, "generate": telling(SPENT)}

    def kill(event: Event) -> None:
        if isinstance(event, Publishing):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(world.store, {"process": lambda: world.executor}, kill).run(world.plan(), last="generate")
    result = world.build(last="generate")[0]
    cost = world.store.cost(result.artifact.key)
    assert cost is not None
    assert cost.spent == SPENT


def test_a_cost_that_nobody_noted_or_can_read_is_none(world: World) -> None:
    artifact = world.build(last="generate")[0].artifact
    file = artifact.manifest.with_name("cost.json")
    for text in ("{", "[]", '{"format": 2}', '{"format": 1, "spent": {"more": 1}}'):
        file.write_text(text)
        assert world.store.cost(artifact.key) is None
    file.unlink()
    assert world.store.cost(artifact.key) is None


def test_a_link_among_the_outputs_is_a_failure(world: World) -> None:
    commands = world.executor.commands
    world.spoil("quantize", lambda out: (out / "extra").symlink_to("/etc/passwd"))
    with pytest.raises(OutputMissingError, match="link or special file"):
        world.build()
    assert world.published() == ["generate"]
    assert world.failed_log("quantize")
    world.executor.commands = commands
    assert world.ran() == ["quantize", "verify"], "what failed is not taken up again"


def test_a_step_killed_for_memory_is_told_apart(world: World) -> None:
    world.executor.run_out_of_memory("quantize")
    with pytest.raises(StepOutOfMemoryError, match="quantize was killed for memory"):
        world.build()
    assert world.published() == ["generate"]


def test_a_step_killed_by_somebody_is_told_apart(world: World) -> None:
    world.executor.kill("quantize")
    with pytest.raises(StepKilledError, match="quantize was ended from outside"):
        world.build()
    assert world.published() == ["generate"]


def test_a_machine_that_fails_is_not_the_steps_fault(world: World) -> None:
    world.executor.lose_machine("quantize", DiskFullError("no room is left"))
    with pytest.raises(DiskFullError):
        world.build()
    assert world.published() == ["generate"]
    assert world.store.attempts() == ()
    assert world.failed_log("quantize")
    world.executor.mend("quantize")
    assert world.ran() == ["quantize", "verify"]
    assert world.store.attempts() == ()


def test_a_step_that_cannot_run_here_is_refused_before_anything_runs(world: World) -> None:
    world.executor.refuse("quantize", DockerUnavailableError("no engine"))
    with pytest.raises(DockerUnavailableError):
        world.build()
    assert world.executor.steps == []
    assert world.store.attempts() == ()


def failing(world: World, failure: Failure, status: int = 7) -> None:
    def command(run: FakeRun) -> int:
        run.write(to_line(failure).encode() + b"\n")
        return status

    world.executor.commands = {**world.executor.commands, "verify": command}


def test_an_image_that_does_not_fit_is_refused_with_the_plans_other_needs_before_anything_runs(world: World) -> None:
    much = 1 << 60
    world.executor.images = (Need(world.root, much, "image some/image:1: to pull and unpack, as predicted"),)
    with pytest.raises(DiskFullError, match="the files still to be written need") as caught:
        world.build()
    rows = caught.value.message.splitlines()[1:]
    assert [row.split(":")[0].strip() for row in rows] == ["image some/image", "generate", "quantize"], "counted once"
    assert world.executor.steps == []
    world.executor.images = ()
    world.build()
    world.executor.images = (Need(world.root, much, "image some/image:1: to pull and unpack, as predicted"),)
    world.build()
    assert world.executor.steps == STEPS, "what is kept needs no image"


def test_the_reason_that_a_payload_gives_keeps_its_code(world: World) -> None:
    failing(world, Failure("CHECK_FAILED", "the worst layer has 3 dB", "exclude it"))
    with pytest.raises(CheckFailedError, match="verify: the worst layer has 3 dB") as caught:
        world.build()
    assert (caught.value.exit_status, caught.value.hint) == (7, "exclude it")
    assert world.published() == ["generate", "quantize"]


@pytest.mark.parametrize("code", ["NO_SUCH_CODE", "", "REFUSED"])
def test_a_reason_with_a_code_that_no_payload_has_is_a_failed_step(world: World, code: str) -> None:
    failing(world, Failure(code, "who knows"))
    with pytest.raises(StepFailedError, match="verify: who knows"):
        world.build()


def test_a_reason_does_not_make_a_failure_of_success(world: World) -> None:
    def command(run: FakeRun) -> None:
        run.write(to_line(Failure("CHECK_FAILED", "not really")).encode() + b"\n")
        checked(run)

    world.executor.commands = {**world.executor.commands, "verify": command}
    world.build()
    assert not any(isinstance(event, Failure) for event in world.events)


def test_what_a_step_writes_is_passed_on(world: World) -> None:
    world.build()
    assert [event.text for event in world.events if isinstance(event, LogLine)] == [
        f"at work: {step}" for step in STEPS
    ]


def test_a_corrupt_result_is_set_aside_and_made_again_with_a_warning(world: World) -> None:
    artifact = world.build()[1].artifact
    artifact.folder.chmod(0o755)
    (artifact.folder / "config.json").unlink()
    assert world.ran() == ["quantize"]  # the same bytes again: nothing after it
    warnings = [event.message for event in world.events if isinstance(event, Warned)]
    assert len(warnings) == 1
    assert "set aside as" in warnings[0]
    assert len(list((world.store.root / "aside").iterdir())) == 1
    assert world.ran() == []


def test_a_result_replaced_by_a_link_is_made_again(world: World) -> None:
    artifact = world.build()[0].artifact
    artifact.folder.chmod(0o755)
    (artifact.folder / "config.json").unlink()
    (artifact.folder / "config.json").symlink_to("/dev/null")
    assert world.ran() == ["generate"]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_leaves_the_store_clean_and_the_next_build_goes_on(world: World, step: str) -> None:
    world.executor.interrupt(step)
    with pytest.raises(KeyboardInterrupt):
        world.build()
    assert world.store.attempts() == ()
    assert world.states()[step] == "interrupted"
    assert world.failed_log(step) == f"at work: {step}\n"
    world.executor.mend(step)
    assert world.ran() == STEPS[STEPS.index(step) :]


def test_the_output_of_an_adopted_job_is_published_from_where_it_was_written(world: World) -> None:
    key = world.build(last="generate")[0].artifact.key
    world.store.remove(key)
    left = world.store.attempt(key, "docker")  # by an orchestrator that was killed while the job went on
    (left.out / "config.json").write_text('{"adopted": true}')
    (left.out / "model.safetensors").write_bytes(safetensors())
    world.executor.adopt("generate", left.out)
    result = world.build(last="generate")[0]
    assert (result.artifact.folder / "config.json").read_text() == '{"adopted": true}'
    cost = world.store.cost(result.artifact.key)
    assert cost is not None
    assert cost.seconds is None  # nobody saw when it began
    assert world.store.attempts() == ()


def test_what_a_killed_build_left_is_swept_by_the_next(world: World) -> None:
    key = world.build(last="generate")[0].artifact.key
    world.store.remove(key)
    world.store.attempt(key)
    world.build()
    assert world.store.attempts() == ()


def test_two_builds_of_the_same_at_once_run_each_step_once(world: World) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(run: FakeRun) -> None:
        entered.set()
        assert go_on.wait(30)
        checkpoint(run)

    world.executor.commands = {**world.executor.commands, "generate": slow}
    outcomes: list[tuple[StepResult, ...]] = []

    def build() -> None:
        outcomes.append(world.build())

    def build_and_let_go() -> None:
        runner = Runner(world.store, {"process": lambda: world.executor}, let_go)
        outcomes.append(runner.run(world.plan()))

    def let_go(event: Event) -> None:
        world.events.append(event)
        if isinstance(event, Waiting):
            go_on.set()

    first = threading.Thread(target=build)
    first.start()
    assert entered.wait(30)
    second = threading.Thread(target=build_and_let_go)
    second.start()
    for thread in (first, second):
        thread.join(60)
    assert sorted(world.executor.steps) == sorted(STEPS)
    assert [result.artifact for result in outcomes[0]] == [result.artifact for result in outcomes[1]]
    assert world.published() == sorted(STEPS)
    assert world.store.attempts() == ()


def test_the_record_tells_what_became_of_each_step(world: World) -> None:
    world.executor.fail("quantize")
    with pytest.raises(StepFailedError):
        world.build()
    assert world.states() == {"generate": "done", "quantize": "failed", "verify": "waiting"}
    world.executor.mend("quantize")
    world.build()
    assert world.states() == {"generate": "reused", "quantize": "done", "verify": "done"}


def test_the_record_knows_the_key_and_the_time_of_a_step_that_runs(world: World) -> None:
    seen: list[tuple[str, str]] = []

    def looking(run: FakeRun) -> None:
        record = world.record()
        seen.extend((entry.state, entry.key) for entry in record.steps if entry.name == "quantize")
        assert record.is_running
        assert not record.finished
        quantized(run)

    world.executor.commands = {**world.executor.commands, "quantize": looking}
    results = world.build()
    assert seen == [("running", results[1].artifact.key)]


def test_the_record_has_the_words_of_the_failure(world: World) -> None:
    world.executor.fail("quantize", status=9)
    with pytest.raises(StepFailedError):
        world.build()
    assert "exit status 9" in world.record().steps[1].error


def test_a_forecast_says_what_a_build_will_do(world: World) -> None:
    def decisions() -> list[str]:
        return [found.decision for found in forecast(world.plan(), world.store, Path("/WORK"))]

    assert decisions() == ["run", "later", "later"]
    world.build(last="generate")
    assert decisions() == ["reuse", "run", "later"]
    world.build()
    assert decisions() == ["reuse", "reuse", "reuse"]


def test_a_forecast_touches_nothing(world: World) -> None:
    forecast(world.plan(), world.store, world.root / "work")
    assert list(world.root.iterdir()) == []


def test_a_forecast_makes_the_jobs_that_run(world: World) -> None:
    world.build(last="quantize")
    quantize = forecast(world.plan(), world.store, Path("/WORK"))[1].job
    assert world.executor.jobs[1].argv == quantize.argv
    assert world.executor.jobs[1].key == quantize.key
    assert world.executor.jobs[1].mounts == quantize.mounts


def test_the_events_end_with_every_step_done(world: World) -> None:
    world.build()
    assert [event.step for event in world.events if isinstance(event, StepDone)] == STEPS


def test_what_was_finished_survives_a_failure_of_any_kind(world: World) -> None:
    world.build(last="generate")
    for fail in (world.executor.fail, world.executor.kill, world.executor.leave_nothing, world.executor.interrupt):
        fail("quantize")
        with pytest.raises((OrchestratorError, KeyboardInterrupt)):
            world.build()
    world.executor.mend("quantize")
    assert world.ran() == ["quantize", "verify"]


def test_a_store_that_was_deleted_is_made_anew(world: World) -> None:
    world.build()
    remove_tree(world.store.root)
    assert world.ran() == STEPS


def interrupt_publishing(world: World, patch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with patch.context() as inner:
        inner.setattr(Store, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            world.build()


def test_a_build_interrupted_while_it_publishes_does_not_run_the_step_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_publishing(world, monkeypatch)
    assert world.executor.steps == ["generate"]
    assert Publishing("generate", found=True) not in world.events
    assert world.ran() == ["quantize", "verify"]
    assert Publishing("generate", found=True) in world.events
    assert world.store.attempts() == ()


def test_a_step_that_is_asked_for_again_runs_although_a_result_only_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_publishing(world, monkeypatch)
    assert world.ran(first="generate") == STEPS
    assert world.store.attempts() == ()


def test_what_a_build_killed_after_publishing_left_is_removed_by_the_next(world: World) -> None:
    key = world.build()[0].artifact.key
    world.store.mark_leftovers(key)
    world.store.scratch(key)
    world.executor.forgotten.clear()
    assert world.ran() == []
    assert [job.key for job in world.executor.forgotten] == [key]
    assert world.store.attempts() == ()
    assert not (world.store.root / "scratch" / key).exists()


def test_a_build_interrupted_after_publishing_leaves_a_mark_for_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.executor, "forget", interrupted)
        with pytest.raises(KeyboardInterrupt):
            world.build()
    assert world.published() == ["generate"]
    (key,) = (artifact.key for artifact in world.store.artifacts())
    assert world.store.has_leftovers(key)
    assert world.ran() == STEPS[1:]
    assert key in [job.key for job in world.executor.forgotten]
    assert world.store.attempts() == ()


def test_a_step_that_can_no_longer_run_leaves_nothing(world: World) -> None:
    refusal = DiskFullError("the disk is full by now")
    world.spoil("generate", lambda _: world.executor.refuse("quantize", refusal))
    with pytest.raises(DiskFullError, match="by now"):
        world.build()
    assert world.executor.steps == ["generate"]
    assert StepStarted("quantize", "fake") in world.events
    assert world.store.attempts() == ()


def test_earlier_attempts_of_a_process_are_gone_while_a_step_runs(world: World) -> None:
    seen: list[list[Path]] = []
    left = world.store.attempt(world.build()[0].artifact.key)
    (left.out / "half").write_text("x")
    world.spoil("generate", lambda out: seen.append([out.parent, *world.store.attempts()]))
    world.build(first="generate", last="generate")
    ((own, *found),) = seen
    assert found == [own]
    assert own != left.folder


def test_a_build_removes_what_killed_writers_left(world: World) -> None:
    boot = owner.this_process().partition(":")[0]
    left = world.store.root / "stats" / f".x.json.{boot}:{2**22 + 1}:1-0123abcd"
    left.parent.mkdir(parents=True)
    left.touch()
    world.build()
    assert not left.exists()


def test_a_running_build_names_what_it_reads_until_it_ends(world: World) -> None:
    used: list[frozenset[str]] = []
    world.spoil("verify", lambda _: used.append(world.store.used()))
    results = world.build()
    assert used == [{result.artifact.key for result in results}]
    assert world.store.used() == frozenset()


def test_an_engine_that_is_away_does_not_hinder_what_needs_it_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.build()[0].artifact.key
    world.store.mark_leftovers(key)

    def away(*_: object) -> None:
        message = "no engine"
        raise DockerUnavailableError(message)

    with monkeypatch.context() as patch:
        patch.setattr(world.executor, "forget", away)
        assert world.ran() == []
    assert any(isinstance(event, Warned) and "stay for now" in event.message for event in world.events)
    assert world.store.has_leftovers(key)
    world.build()
    assert not world.store.has_leftovers(key)


def test_a_machine_short_of_memory_stops_the_step(world: World, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 127000000 kB\nMemAvailable: 1000 kB\n")
    plan = world.plan()
    spark = plan.target.model_copy(update={"unified_memory": True})
    kernel = Kernel(tmp_path / "meminfo", tmp_path / "pressure")
    with pytest.raises(HostMemoryError, match="generate was stopped before this machine froze"):
        world.run(replace(plan, model=replace(plan.model, target=spark)), kernel=kernel)
    assert world.store.attempts() == ()
    assert world.states()["generate"] == "failed"
    last = [event for event in world.events if isinstance(event, MemoryUsed)][-1]
    assert (last.step, last.used) == ("generate", 126_999_000 * 1024)  # sent, although the step was stopped
    world.run(plan, kernel=kernel)


def test_a_result_keeps_the_memory_of_the_machine_while_it_was_made(world: World, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 127000000 kB\nMemAvailable: 100000000 kB\n")
    runner = Runner(
        world.store, {"process": lambda: world.executor}, world.see, Kernel(tmp_path / "meminfo", tmp_path / "pressure")
    )
    for _ in range(2):  # the second one uses the result
        made, *_ = runner.run(world.plan(), last="generate")
        cost = world.store.cost(made.artifact.key)
        assert cost
        assert cost.memory == MemoryCurve(1.0, 27_000_000 * 1024, (27_000_000 * 1024,), 127_000_000 * 1024)
        assert cost.document()["memory"]["used"] == (27_000_000 * 1024,)
    assert len([event for event in world.events if isinstance(event, MemoryUsed)]) == 1


@pytest.mark.parametrize("moment", [0.0, 1e9, 3e9])
def test_nothing_depends_on_what_the_clock_says(world: World, monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    keys = [result.artifact.key for result in world.build()]
    monkeypatch.setattr("time.time", lambda: moment)
    assert [result.artifact.key for result in world.build()] == keys
    assert world.ran() == []
