"""A resumable step finds its saved state, however it ended, until its result is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import StepFailedError
from orchestrator.steps.step import SCRATCH
from tests.support.fake import FakeRun
from tests.unit.app.test_runner import World

_RECIPE = "tiny-llama-nvfp4"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world whose quantize step counts its tries in its notes and needs three."""
    made = World(tmp_path)
    quantize = made.executor.commands["quantize"]

    def third_time_lucky(run: FakeRun) -> int | None:
        tries = run.place(SCRATCH) / "tries"
        tries.write_text((tries.read_text() if tries.exists() else "") + "x")
        if len(tries.read_text()) < 3:
            return 1
        (run.output / "quantization.json").write_text("{}")
        return quantize(run)

    made.executor.commands = {**made.executor.commands, "quantize": third_time_lucky}
    return made


def _notes(world: World) -> list[str]:
    return [path.read_text() for path in world.store.root.glob("scratch/*/*")]


def test_notes_outlive_failures_and_go_with_the_published_result(world: World) -> None:
    for tries in ("x", "xx"):
        with pytest.raises(StepFailedError):
            world.build(name=_RECIPE)
        assert _notes(world) == [tries]
        assert world.store.attempts() == ()
    world.build(name=_RECIPE)
    assert "quantize" in world.published()
    assert list(world.store.root.glob("scratch/*")) == []


def test_other_work_finds_no_notes(world: World) -> None:
    for override in ("quantization.calibration.samples=4", "quantization.calibration.samples=5"):
        with pytest.raises(StepFailedError):
            world.build(override, name=_RECIPE)
    assert _notes(world) == ["x", "x"]


def test_a_step_that_is_forced_starts_over(world: World) -> None:
    with pytest.raises(StepFailedError):
        world.build(name=_RECIPE)
    with pytest.raises(StepFailedError):
        world.build(name=_RECIPE, first="quantize")
    assert _notes(world) == ["x"]


def test_a_step_that_cannot_go_on_has_no_place_for_notes(world: World) -> None:
    world.executor.commands = {**world.executor.commands, "quantize": lambda run: len(str(run.place(SCRATCH)))}
    with pytest.raises(KeyError):
        world.build(name="tiny-llama-w4a16-nvfp4")
