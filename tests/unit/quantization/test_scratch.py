"""What is noted of a walk over layers, and what of it counts when the walk goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from orchestrator.quantization.activation_probe import Measured
from orchestrator.quantization.evaluation import GroupError, LayerError
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.samples import random_batches
from orchestrator.quantization.scratch import Scratch, fingerprint

_BF16 = ml_dtypes.bfloat16


@pytest.fixture
def work(tiny: Path) -> Callable[..., str]:
    def name(seed: int = 0, device: str = "cpu") -> str:
        plan = Plan.make(tiny, scheme_named("fp8"))
        return fingerprint(plan, random_batches(261, 2, 8, seed=seed), device)

    return name


def _measured() -> Measured:
    return Measured(inputs={"mlp.experts.0.up_proj": 0.2}, tokens={"mlp.experts.0.up_proj": 7}, keys=1.5)


def _opened(folder: Path | None, work: str) -> Scratch[Measured]:
    return Scratch.open(folder, work, Measured.restored)


def test_a_note_brings_back_everything(tmp_path: Path, work: Callable[..., str]) -> None:
    hidden = [np.arange(6, dtype=np.float32).astype(_BF16).reshape(1, 2, 3), np.ones((2, 2), np.float32)]
    scratch = _opened(tmp_path / "new" / "scratch", work())
    assert scratch.done == 0
    scratch.measured.append(_measured())
    scratch.save(hidden)
    again = _opened(tmp_path / "new" / "scratch", work())
    assert again.done == 1
    assert again.measured == [_measured()]
    assert again.measured[0].inputs == {"mlp.experts.0.up_proj": 0.2}
    assert again.measured[0].tokens == {"mlp.experts.0.up_proj": 7}
    assert [array.tobytes() for array in again.hidden()] == [array.tobytes() for array in hidden]


def test_a_note_of_other_work_does_not_count(tmp_path: Path, work: Callable[..., str]) -> None:
    scratch = _opened(tmp_path, work())
    scratch.measured.append(_measured())
    scratch.save([])
    assert _opened(tmp_path, work()).done == 1
    assert _opened(tmp_path, work(seed=1)).done == 0
    assert _opened(tmp_path, work(device="cuda")).done == 0


def test_a_note_does_not_count_where_weights_were_written_again(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    before = fingerprint(Plan.make(model, scheme_named("fp8")), [], "cpu")
    assert fingerprint(Plan.make(model, scheme_named("fp8")), [], "cpu") == before
    shard = next(model.glob("*.safetensors"))
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    assert fingerprint(Plan.make(model, scheme_named("fp8")), [], "cpu") != before


def test_another_checkpoint_that_decides_is_part_of_the_work(tiny: Path) -> None:
    plan = Plan.make(tiny, scheme_named("fp8"))
    assert fingerprint(plan, [], "cpu", plan.checkpoint) != fingerprint(plan, [], "cpu")


def test_what_was_found_in_a_comparison_comes_back_digit_for_digit(tmp_path: Path, work: Callable[..., str]) -> None:
    found = LayerError(3, 1 / 3, (GroupError(("model.layers.3.mlp.down_proj",), 0.1 + 0.2),))
    scratch = Scratch.open(tmp_path, work(), LayerError.restored)
    scratch.measured.append(found)
    scratch.save([])
    assert Scratch.open(tmp_path, work(), LayerError.restored).measured == [found]


def test_notes_are_due_after_a_while(tmp_path: Path, work: Callable[..., str]) -> None:
    scratch = _opened(tmp_path, work())
    assert scratch.is_due(0)
    assert not scratch.is_due(3600)


def test_the_importance_of_inputs_comes_back_from_files_that_are_written_once(
    tmp_path: Path, work: Callable[..., str]
) -> None:
    shared, alone = np.array([1, 0.5, 0], np.float32), np.array([0.25, 1], np.float32)
    importance = {"q_proj": shared, "k_proj": shared, "down_proj": alone}
    scratch = _opened(tmp_path, work())
    for layer in (importance, {}):
        scratch.keep(layer)
        scratch.measured.append(_measured())
        scratch.save([np.ones(1, np.float32)])
    again = _opened(tmp_path, work())
    assert {module: array.tolist() for module, array in again.taken(0).items()} == {
        module: array.tolist() for module, array in importance.items()
    }
    assert again.taken(1) == again.taken(2) == {}
    assert (tmp_path / "inputs-00000").stat().st_size == shared.nbytes + alone.nbytes
    again.keep(importance)
    assert (tmp_path / "inputs-00002").exists()


def test_rounded_weights_come_back_bit_for_bit(tmp_path: Path, work: Callable[..., str]) -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(4, 16)
    scales = np.arange(8, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).reshape(4, 2)
    rounded = {"down_proj.weight": codes, "down_proj.weight_scale": scales}
    scratch = _opened(tmp_path, work())
    scratch.keep(rounded)
    scratch.measured.append(_measured())
    scratch.save([np.ones(1, np.float32)])
    for _ in range(2):
        again = _opened(tmp_path, work()).taken(0)
        assert {name: (array.dtype, array.tobytes()) for name, array in again.items()} == {
            name: (array.dtype, array.tobytes()) for name, array in rounded.items()
        }


def test_without_a_folder_the_importance_of_inputs_stays_in_memory(work: Callable[..., str]) -> None:
    scratch = _opened(None, work())
    scratch.keep({"q_proj": np.ones(2, np.float32)})
    assert scratch.taken(0)["q_proj"].tolist() == [1, 1]
    assert scratch.taken(0) == {}


@pytest.mark.parametrize("damage", ["note", "number", "hidden", "gone", "importance"])
def test_a_damaged_note_does_not_count(tmp_path: Path, work: Callable[..., str], damage: str) -> None:
    scratch = _opened(tmp_path, work())
    scratch.keep({"q_proj": np.ones(2, np.float32)})
    scratch.measured.append(_measured())
    scratch.save([np.ones((4, 4), np.float32)])
    kept = tmp_path / "hidden-00001"
    if damage == "note":
        (tmp_path / "progress.json").write_text("{")
    elif damage == "number":  # which is JSON as before
        note = tmp_path / "progress.json"
        note.write_text(note.read_text().replace('"keys": 1.5', '"keys": 1.25'))
    elif damage == "importance":
        (tmp_path / "inputs-00000").write_bytes(b"\0" * 8)
    elif damage == "hidden":
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    else:
        kept.unlink()
    assert _opened(tmp_path, work()).done == 0


def test_only_the_last_hidden_states_are_kept(tmp_path: Path, work: Callable[..., str]) -> None:
    scratch = _opened(tmp_path, work())
    for _ in range(3):
        scratch.measured.append(_measured())
        scratch.save([np.ones((4, 4), np.float32)])
    assert [path.name for path in tmp_path.glob("hidden-*")] == ["hidden-00003"]
    scratch.save([])
    assert list(tmp_path.glob("hidden-*")) == []


def test_without_a_folder_nothing_is_noted(work: Callable[..., str]) -> None:
    scratch = _opened(None, work())
    scratch.save([np.ones(1, np.float32)])
    assert scratch.done == 0
