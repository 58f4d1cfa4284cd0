"""What decides the bytes of a step is in its key: each field is needed, and nothing else is in it.

For each field of a key there is a pair of cases that differ in this field alone. The pair has two keys, and a build of
the second runs the step again. Without the field the two keys would be one: that shows that the pair would tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest

from orchestrator.app import key as keys
from orchestrator.app.key import NOT_IN_KEY, key_of
from orchestrator.app.make_plan import ExecutorName, PlacedStep, Plan, make_plan
from orchestrator.app.runner import Runner, StepResult
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.executors.job import Inside
from orchestrator.payloads.revisions import REVISIONS
from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.step import Folder, Input, Output, Step
from orchestrator.store.store import Store
from tests.support.fake import FakeExecutor, FakeRun
from tests.support.leavings import RECIPE

ROOT = Path(__file__).resolve().parents[3]
CATALOG = Catalog(Project(ROOT))
PLAN = make_plan(RecipeBook(ROOT / "recipes").load(RECIPE, ()).recipe, CATALOG, None)
IMAGE, OTHER_IMAGE = "tensorrt-llm-1.2.1", "quantizer-0.46.0"
VERIFY = ("python3", "-m", "orchestrator.payloads.verify", "--checkpoint", Inside("/in"))

BASE = Step(
    name="work",
    argv=VERIFY,
    outputs=(Output("x"),),
    image=IMAGE,
    portable=True,
    inputs=(Input("before", "/in"),),
    folders=(Folder("{folder}", "/source"),),
    files={"config.yaml": "a: 1"},
    environment={"MODE": "slow"},
    gpus=1,
    libraries=("torch",),
    identity={"gpu": "GB10"},
)


@dataclass(frozen=True)
class Case:
    """A step and what it meets."""

    step: Step = BASE
    executor: ExecutorName = "process"
    read: str = "one"
    """What the step before it leaves."""
    kept: str = "one"
    """What is in the folder that it reads."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of this machine's Python and libraries, where they are not 1.0."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of images, as a lock has them."""
    format: int = keys.FORMAT
    revisions: Mapping[str, int] = field(default_factory=dict)
    """Of payloads, where they are not what they are."""


CASE = Case()
IN_CONTAINER = Case(executor="docker")


def with_step(**changes: object) -> Case:
    return Case(replace(BASE, **changes))  # type: ignore[arg-type]


PAIRS: Mapping[str, tuple[Case, ...]] = {
    "format": (CASE, Case(format=keys.FORMAT + 1)),
    "step": (CASE, with_step(name="other")),
    "argv": (CASE, with_step(argv=(*VERIFY, "--no-chat-template")), with_step(argv=(*VERIFY[:-1], Inside("/in", "a")))),
    "payloads": (CASE, Case(revisions={"verify": REVISIONS["verify"] + 1})),
    "environment": (CASE, with_step(environment={"MODE": "fast"}), with_step(environment={"MODE": Inside("/in")})),
    "inputs": (CASE, Case(read="two"), with_step(inputs=(Input("before", "/elsewhere"),))),
    "folders": (CASE, Case(kept="two")),
    "files": (CASE, with_step(files={"config.yaml": "a: 2"}), with_step(files={"other.yaml": "a: 1"})),
    "gpus": (CASE, with_step(gpus=2)),
    "identity": (CASE, with_step(identity={"gpu": "H100"})),
    "image": (
        IN_CONTAINER,
        Case(replace(BASE, image=OTHER_IMAGE), "docker"),
        Case(executor="docker", digests={IMAGE: f"sha256:{'0' * 64}"}),
    ),
    "python": (CASE, *(Case(versions={name: "2.0"}) for name in ("python", "numpy", "ml_dtypes", "tokenizers"))),
    "libraries": (CASE, Case(versions={"torch": "2.0"}), with_step(libraries=("torch", "transformers"))),
}
"""By the field of the key: cases of which no two are the same."""


@dataclass
class World:
    """A store, an executor, and a machine that is as a case says."""

    root: Path
    monkeypatch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        """Let each step leave what its arguments say."""
        self.executor = FakeExecutor(dict.fromkeys(("before", "work", "other"), leave))
        self.store = Store(self.root / "store")

    def plan(self, case: Case) -> Plan:
        """Make the machine as the case says, and plan two steps: one before it, and that of the case."""
        self.monkeypatch.setattr(keys, "FORMAT", case.format)
        self.monkeypatch.setattr(keys, "REVISIONS", {**REVISIONS, **case.revisions})
        folder = self.root / "kept"
        folder.mkdir(exist_ok=True)
        (folder / "file").write_text(case.kept)
        before = Step("before", ("leave", case.read), (Output("x"),))
        step = replace(case.step, folders=tuple(replace(one, path=str(folder)) for one in case.step.folders))
        versions = {"python": "1.0", **case.versions}
        binder = replace(PLAN.binder, image_digests=case.digests, versions=lambda library: versions.get(library, "1.0"))
        return replace(PLAN, steps=(PlacedStep(before, "process"), PlacedStep(step, case.executor)), binder=binder)

    def build(self, plan: Plan, last: str | None = None) -> tuple[StepResult, ...]:
        runner = Runner(self.store, {"process": lambda: self.executor, "docker": lambda: self.executor}, lambda _: None)
        return runner.run(plan, last=last)

    def fields(self, case: Case) -> dict[str, object]:
        """Return the fields of the key of the case's step."""
        plan = self.plan(case)
        (before,) = self.build(plan, last="before")
        return plan.binder.key_fields(plan.steps[1].step, case.executor, {"before": before.artifact})

    def ran(self, case: Case) -> bool:
        """Build, and tell whether the case's step ran."""
        self.executor.jobs.clear()
        self.build(self.plan(case))
        return case.step.name in self.executor.steps


def leave(run: FakeRun) -> None:
    (run.output / "x").write_text(str(run.job.argv[1]))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def without(fields: Mapping[str, object], name: str) -> dict[str, object]:
    return {field: value for field, value in fields.items() if field != name}


def test_every_field_of_a_key_has_cases_that_differ_in_it(world: World) -> None:
    assert PAIRS.keys() == world.fields(CASE).keys()


@pytest.mark.parametrize("name", PAIRS)
def test_another_value_is_another_key(world: World, name: str) -> None:
    found = [key_of(world.fields(case)) for case in PAIRS[name]]
    assert len(set(found)) == len(PAIRS[name])
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in found)


@pytest.mark.parametrize("name", PAIRS)
def test_a_key_that_lacked_a_field_would_be_one_for_all_values(world: World, name: str) -> None:
    assert len({key_of(without(world.fields(case), name)) for case in PAIRS[name]}) == 1


@pytest.mark.parametrize("name", PAIRS)
def test_another_value_makes_the_step_run_and_the_same_value_does_not(world: World, name: str) -> None:
    assert [world.ran(case) for case in PAIRS[name]] == [True] * len(PAIRS[name])
    assert [world.ran(case) for case in PAIRS[name]] == [False] * len(PAIRS[name])


CHANGED: Mapping[str, Case] = {
    "name": with_step(name="other"),
    "argv": with_step(argv=("python3",)),
    "outputs": with_step(outputs=(Output("*"),)),
    "image": Case(replace(BASE, image=OTHER_IMAGE), "docker"),
    "portable": with_step(portable=False),
    "inputs": with_step(inputs=()),
    "folders": with_step(folders=()),
    "files": with_step(files={}),
    "provenance": with_step(provenance=True),
    "needs_code": with_step(needs_code=True),
    "environment": with_step(environment={}),
    "limits": with_step(limits={"ORCHESTRATOR_THREADS": "2"}),
    "secrets": with_step(secrets=("HF_TOKEN",)),
    "network": with_step(network=True),
    "gpus": with_step(gpus=0),
    "resumable": with_step(resumable=True),
    "libraries": with_step(libraries=()),
    "identity": with_step(identity={}),
}
"""By the field of a step: a case in which the step differs from the usual one in this field alone."""


def test_of_every_field_of_a_step_it_is_decided_whether_the_key_holds_it() -> None:
    assert {field.name for field in fields(Step)} == CHANGED.keys()
    assert NOT_IN_KEY.keys() <= CHANGED.keys()
    for name, case in CHANGED.items():
        assert [
            field.name for field in fields(Step) if getattr(BASE, field.name) != getattr(case.step, field.name)
        ] == [name]


@pytest.mark.parametrize("name", CHANGED)
def test_a_field_of_a_step_changes_the_key_unless_a_reason_is_given(world: World, name: str) -> None:
    usual = IN_CONTAINER if CHANGED[name].executor == "docker" else CASE
    changed = key_of(world.fields(CHANGED[name])) != key_of(world.fields(usual))
    assert changed == (name not in NOT_IN_KEY)


def test_the_recipe_s_name_and_the_machine_s_secrets_are_not_in_a_key(world: World) -> None:
    plan = world.plan(CASE)
    (before,) = world.build(plan, last="before")
    inputs = {"before": before.artifact}
    step = plan.steps[1].step
    other = replace(plan.binder, recipe="other", secrets={"HF_TOKEN": "hf_canary"})
    assert other.key(step, "process", inputs) == plan.binder.key(step, "process", inputs)


def test_a_step_in_a_container_does_not_depend_on_this_machine_s_python(world: World) -> None:
    other = replace(IN_CONTAINER, versions={"python": "2.0", "numpy": "2.0", "torch": "2.0"})
    assert world.fields(IN_CONTAINER) == world.fields(other)


def test_a_step_of_another_tool_has_no_revision(world: World) -> None:
    assert world.fields(with_step(argv=("trtllm-build", "-m", "orchestrator.cli")))["payloads"] == {}


def test_a_payload_of_ours_without_a_revision_has_no_key(world: World) -> None:
    with pytest.raises(KeyError, match="unheard_of"):
        world.fields(with_step(argv=("python3", "-m", "orchestrator.payloads.unheard_of")))


def test_a_value_that_looks_like_a_payload_is_none(world: World) -> None:
    excluded = ("--exclude", "orchestrator.payloads.generate")
    assert world.fields(with_step(argv=(*VERIFY, *excluded)))["payloads"] == world.fields(CASE)["payloads"]
