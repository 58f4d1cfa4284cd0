"""An engine of TensorRT Edge-LLM from checkpoint to figures, with stand-ins for its builder and its server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import CheckpointError, StepFailedError
from orchestrator.executors.job import Inside
from orchestrator.payloads import edge_engine, generate, measure, verify
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.recipe.model import Recipe
from orchestrator.steps.registry import build_steps
from orchestrator.steps.step import Step
from tests.contract.test_standins import CATALOG
from tests.support.checkpoints import write_tensors
from tests.support.edge_packages import PACKAGES
from tests.support.ports import free_port

STANDINS = PACKAGES.parent
_PORT = "8355"
MODEL = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128}


class World:
    """The folders of a recipe's steps, and the payloads that fill them."""

    def __init__(self, folder: Path, **serve: int) -> None:
        self.folder = folder
        fields = {
            "schema_version": 1,
            "name": "example",
            "description": "An example.",
            "model": {"generate": MODEL},
            "target": "dgx-spark",
            "image": "edge-llm-0.11.0",
            "backend": "tensorrt",
            "quantization": {"format": "bf16", "method": "none"},
            "benchmark": {"concurrency": [1, 3], "requests": 4, "input_tokens": 16, "output_tokens": 7},
            "serve": {"port": int(_PORT), "max_seq_len": 256, "kv_cache": {"enable_block_reuse": False}, **serve},
        }
        self.steps = {step.name: step for step in build_steps(Recipe.model_validate(fields), CATALOG)}
        generate.main(self.arguments("generate"))

    def arguments(self, step: str) -> list[str]:
        """The arguments of a step's payload, with the folders of this machine and stand-ins for tools."""
        found = self.steps[step]
        places = {mount.target: self.folder / mount.step for mount in found.inputs} | {"/out": self.folder / step}
        texts = [
            str(places[word.target] / word.path) if isinstance(word, Inside) else self._program(word)
            for word in found.argv
        ]
        port = str(free_port())  # found just before it is used: other tests look for one, too
        return [port if text == _PORT else text for text in texts[3:]]  # after python3 -m orchestrator.payloads.…

    @staticmethod
    def _program(word: str) -> str:
        return str(STANDINS / word) if word.startswith("tensorrt-edgellm-") else word

    def document(self, *path: str) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.folder.joinpath(*path).read_bytes())


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of TensorRT Edge-LLM is in its image."""
    monkeypatch.syspath_prepend(str(PACKAGES))
    for name in [name for name in sys.modules if name.partition(".")[0] == "experimental"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(os.environ, "STANDIN_QUIET", "1")


def test_an_engine_is_built_found_by_the_server_and_measured(tmp_path: Path) -> None:
    world = World(tmp_path)
    edge_engine.main(world.arguments("engine"))
    built = world.document("engine", "config.json")["builder_config"]
    assert built == {"max_input_len": 256, "max_kv_cache_capacity": 256, "max_batch_size": 8}
    _leaves_what_it_declares(world.steps["engine"], tmp_path / "engine")
    (tmp_path / "engine").chmod(0o555)  # as it is mounted

    verify.main(world.arguments("verify"))
    served = world.document("verify", "quality.json")["served"]
    assert (served["endpoint"], bool(served["answer"])) == ("/v1/chat/completions", True)
    log = (tmp_path / "verify" / "server.log").read_text()
    assert "Using cached engine bundle" in log
    assert "Building" not in log

    measure.main(world.arguments("benchmark"))
    performance = world.document("benchmark", "performance.json")
    assert performance["facts"]["tensorrt"] == "10.16.1.11"
    assert [level["concurrency"] for level in performance["levels"]] == [1, 3]
    for level in performance["levels"]:
        words = 6  # of the stand-in's answer, and 8 of any question
        assert level["output_tokens_per_second"] == pytest.approx(words * level["requests_per_second"])
        assert level["total_tokens_per_second"] == pytest.approx((8 + words) * level["requests_per_second"])
        times = world.document("benchmark", level["report"])["requests"]
        assert all((each["read"], each["written"], len(each["tokens"])) == (8, words, words) for each in times)


def _leaves_what_it_declares(step: Step, folder: Path) -> None:
    for output in step.outputs:
        assert [file for file in folder.glob(output.pattern) if file.stat().st_size]


def test_an_engine_with_other_sizes_is_not_found(tmp_path: Path) -> None:
    world, other = World(tmp_path / "a"), World(tmp_path / "b", max_batch_size=2)
    edge_engine.main(world.arguments("engine"))
    edge_engine.main(other.arguments("engine"))
    places = [each.document("engine", "cache_entry.json")["path"] for each in (world, other)]
    assert places[0] != places[1]


def test_a_builder_that_fails_or_ignores_the_sizes_fails_the_step(tmp_path: Path) -> None:
    world = World(tmp_path)
    config = tmp_path / "generate" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"model_type": "llama"', '"model_type": "jamba"'))
    with pytest.raises(StepFailedError, match="tensorrt-edgellm-build ended with status 1"):
        edge_engine.main(world.arguments("engine"))
    config.write_text(text)
    with pytest.raises(StepFailedError, match=r"built with \{'max_input_len': 32\}"):
        edge_engine.main([*world.arguments("engine"), "--max-input-len", "32"])  # the builder takes the last one


@pytest.mark.parametrize(("scale", "is_refused"), [(None, True), (np.float32(0.5), False)])
def test_four_bits_without_a_scale_of_their_input_are_refused_before_the_build(
    tmp_path: Path, scale: np.float32 | None, *, is_refused: bool
) -> None:
    prefix = "model.layers.0.mlp.up_proj"
    tensors: dict[str, Any] = {
        f"{prefix}.weight": np.zeros((16, 8), np.uint8),
        f"{prefix}.weight_scale_2": np.array(1, np.float32),
        "model.layers.0.mlp.down_proj.weight_scale_2": np.array(1, np.float32),
        "model.layers.0.mlp.down_proj.input_scale": np.array(1, np.float32),
    }
    if scale is not None:
        tensors[f"{prefix}.input_scale"] = np.array(scale)
    write_tensors(tmp_path / "checkpoint", tensors, {"model_type": "llama"})
    assert Checkpoint.open(tmp_path / "checkpoint").tensors
    if is_refused:
        with pytest.raises(CheckpointError, match=rf"{prefix}: NVFP4 weights without input_scale \(W4A16\)"):
            edge_engine.require_scales_of_activations(tmp_path / "checkpoint")
    else:
        edge_engine.require_scales_of_activations(tmp_path / "checkpoint")
