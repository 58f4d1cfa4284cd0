"""The program as a library: another program plans, builds and verifies a recipe through `orchestrator.app` alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator.app
from orchestrator.app import RecipeName, Settings, build, plan, resolve, verify, write_bundle
from orchestrator.app.building import Executors
from orchestrator.errors import BundleIncompleteError, PlanRefusedError, StepFailedError, StepUnknownError
from orchestrator.events import Event, StepDone, StepReused
from tests.support.fake import FakeExecutor
from tests.support.leavings import QUALITY, RECIPE, STEPS, tiny_executor

ROOT = Path(__file__).resolve().parents[3]
TINY = RecipeName(RECIPE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings({}, ROOT, tmp_path / "store", tmp_path / "dist")


def executors(fake: FakeExecutor) -> Executors:
    return {"process": lambda: fake, "docker": pytest.fail}


def test_a_plan_has_a_verdict_steps_and_figures(settings: Settings) -> None:
    planned = plan(settings, TINY)
    assert planned.plan.verdict == "fits"
    assert [placed.step.name for placed in planned.plan.steps] == STEPS
    assert planned.plan.estimate.disk.value > 0
    assert resolve(settings, planned) == planned.plan  # it has no branch to resolve
    assert not settings.store.root.exists()


def test_a_build_returns_results_and_a_deployment(settings: Settings) -> None:
    events: list[Event] = []
    built = build(settings, TINY, executors=executors(tiny_executor()), observer=events.append)
    assert [result.name for result in built.results] == STEPS
    assert (built.results[1].artifact.folder / "model.safetensors").is_file()
    assert built.bundle is not None
    assert built.bundle.folder == settings.dist / RECIPE
    assert (built.bundle.folder / "README.md").is_file()
    assert [event.step for event in events if isinstance(event, StepDone)] == STEPS


def test_a_second_build_reuses_every_step(settings: Settings) -> None:
    first = build(settings, TINY, executors=executors(tiny_executor()))
    events: list[Event] = []
    second = build(settings, TINY, executors=executors(FakeExecutor({})), observer=events.append)
    assert [event.step for event in events if isinstance(event, StepReused)] == STEPS
    assert [result.artifact for result in second.results] == [result.artifact for result in first.results]


def test_a_build_can_stop_after_a_step(settings: Settings) -> None:
    built = build(settings, TINY, last="quantize", executors=executors(tiny_executor()))
    assert [result.name for result in built.results] == STEPS[:2]
    assert built.bundle is None
    with pytest.raises(BundleIncompleteError, match="verify left to do"):
        write_bundle(settings, TINY)


def test_verify_returns_the_checks(settings: Settings) -> None:
    found = verify(settings, TINY, deep=True, executors=executors(tiny_executor()))
    assert found.quality == QUALITY
    assert [result.name for result in found.results] == STEPS


def test_errors_are_raised_and_not_printed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    failing = tiny_executor()
    failing.fail("quantize", status=3)
    with pytest.raises(StepFailedError, match="exit status 3"):
        build(settings, TINY, executors=executors(failing))
    with pytest.raises(StepUnknownError, match="no step `quantise`"):
        build(settings, TINY, last="quantise", executors=executors(failing))
    with pytest.raises(PlanRefusedError):
        build(settings, RecipeName("jamba-1.5-large-nvfp4"), executors=executors(failing))
    assert capsys.readouterr() == ("", "")


def test_the_program_of_the_guide_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (ROOT / "docs" / "how-to" / "use-as-a-library.md").read_text(encoding="utf-8")
    code = guide.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.app.building.ProcessExecutor", lambda _: tiny_executor())
    exec(code, {})  # noqa: S102 - the guide's own example
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fits"
    assert lines.count("StepDone") == len(STEPS)
    assert lines[-1] == str(tmp_path / "dist" / RECIPE)


def test_every_public_name_is_documented() -> None:
    for name in orchestrator.app.__all__:
        documented = getattr(orchestrator.app, name)
        assert documented.__doc__, name
        if callable(documented) and not isinstance(documented, type):
            assert "Args:" in documented.__doc__, name
            assert "Raises:" in documented.__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        orchestrator.app.biuld  # noqa: B018 - the access is the test
