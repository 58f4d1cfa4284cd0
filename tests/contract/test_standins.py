"""The stand-ins for NVIDIA's tools, run by the very commands that recipes generate; and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.model import Recipe
from orchestrator.steps.registry import build_steps
from orchestrator.steps.step import FILES, Step
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
STANDINS = ROOT / "tests" / "support" / "standins"
CATALOG = Catalog(Project(ROOT))


class Kitchen:
    """Runs steps as processes, with stand-ins where the image has tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}

    def cook(self, step: Step, **changed: str) -> Path:
        """Run a step and give its folder."""
        output = self.output(step.name)
        output.mkdir()
        files = self.folder / f"{step.name}-files"
        files.mkdir()
        for name, text in step.files.items():
            (files / name).write_text(text, encoding="utf-8")
        places = {mount.target: self.output(mount.step) for mount in step.inputs}
        places |= {folder.target: self.folder / folder.path for folder in step.folders}
        places |= {"/out": output, FILES: files}
        line = [_program(_place(argument, places)) for argument in step.argv]
        line[0] = sys.executable if line[0] == "python3" else line[0]
        ended = subprocess.run(
            line, cwd=output, env=self.variables(**changed), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{step.name}: {ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        return output

    def output(self, step: str) -> Path:
        return self.folder / step

    def variables(self, **changed: str) -> dict[str, str]:
        return {**os.environ, **self.environment, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **changed}


def _place(argument: Argument, places: Mapping[str, Path]) -> str:
    return str(places[argument.target] / argument.path) if isinstance(argument, Inside) else argument


def _program(word: str) -> str:
    return str(STANDINS / Path(word).name) if (STANDINS / Path(word).name).is_file() else word


def steps_of(folder: Path, **changes: Any) -> tuple[Step, ...]:  # noqa: ANN401 - any field of a recipe
    (folder / "text.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    fields: dict[str, Any] = {
        "schema_version": 1,
        "name": "example",
        "description": "An example.",
        "model": {"generate": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128}},
        "target": "dgx-spark",
        "image": "tensorrt-llm-1.2.1",
        "backend": "tensorrt",
        "engine": {"build": {"gemm_plugin": "auto"}},
        "quantization": {
            "format": "nvfp4",
            "method": "modelopt",
            "calibration": {"dataset": "text.jsonl", "samples": 2},
        },
        "checks": {"min_snr_db": 15.0},
        "benchmark": {"concurrency": [1, 4], "requests": 4, "output_tokens": 8},
        "serve": {"port": free_port()},
    }
    return build_steps(Recipe.model_validate(fields | changes), CATALOG)


def cook_all(folder: Path, steps: tuple[Step, ...]) -> Kitchen:
    kitchen = Kitchen(folder)
    for step in steps:
        kitchen.cook(step)
    return kitchen


def test_a_recipe_runs_from_the_model_to_the_figures(tmp_path: Path) -> None:
    kitchen = cook_all(tmp_path, steps_of(tmp_path))
    quality = json.loads((kitchen.output("verify") / "quality.json").read_bytes())
    assert quality["passed"]
    assert quality["served"]["answer"]
    performance = json.loads((kitchen.output("benchmark") / "performance.json").read_bytes())
    assert [level["concurrency"] for level in performance["levels"]] == [1, 4]
    assert performance["levels"][1]["output_tokens_per_second"] > performance["levels"][0]["output_tokens_per_second"]
    assert performance["facts"]["sm"] == "121"
    assert performance["dataset"]["seed"] == 420


def test_every_step_leaves_what_it_declares(tmp_path: Path) -> None:
    steps = steps_of(tmp_path)
    kitchen = cook_all(tmp_path, steps)
    for step in steps:
        for output in step.outputs:
            found = list(kitchen.output(step.name).glob(output.pattern))
            assert found, f"{step.name}: {output.pattern}"
            assert all(file.stat().st_size for file in found)


def test_quantize_py_leaves_what_trtllm_build_reads(tmp_path: Path) -> None:
    quantization = {"format": "fp8", "method": "trtllm", "calibration": {"dataset": "text.jsonl", "samples": 2}}
    kitchen = cook_all(tmp_path, steps_of(tmp_path, quantization=quantization, target="h200"))
    config = json.loads((kitchen.output("engine") / "config.json").read_bytes())
    assert config["pretrained_config"]["quantization"]["quant_algo"] == "FP8"


def test_the_same_inputs_leave_the_same_engine(tmp_path: Path) -> None:
    engines = []
    for name, build in (("a", {}), ("b", {}), ("c", {"max_batch_size": 4})):
        (tmp_path / name).mkdir()
        kitchen = Kitchen(tmp_path / name)
        steps = [step for step in steps_of(tmp_path / name, engine={"build": build}) if step.name != "verify"]
        for step in steps[:-1]:
            kitchen.cook(step)
        engines.append((kitchen.output("engine") / "rank0.engine").read_bytes())
    assert engines[0] == engines[1] != engines[2]


def test_the_requests_of_a_measurement_follow_from_its_seed(tmp_path: Path) -> None:
    data: list[str] = []
    for seed in (1, 1, 2):
        folder = tmp_path / str(len(data))
        folder.mkdir()
        benchmark = {"requests": 3, "input_tokens": 5, "output_tokens": 7, "seed": seed}
        changes: dict[str, Any] = {"backend": "pytorch", "quantization": {"format": "bf16", "method": "none"}}
        kitchen = cook_all(folder, steps_of(folder, benchmark=benchmark, checks={"serve": False}, **changes))
        data.append((kitchen.output("benchmark") / "dataset.jsonl").read_text(encoding="utf-8"))
    assert data[0] == data[1] != data[2]
    request = json.loads(data[0].splitlines()[0])
    assert (len(request["input_ids"]), request["output_tokens"]) == (5, 7)


def test_digests_that_the_caller_knows_are_written_with_the_figures(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, backend="pytorch", quantization={"format": "bf16", "method": "none"})
    kitchen = Kitchen(tmp_path)
    kitchen.cook(steps[0])
    output = kitchen.cook(steps[-1], ORCHESTRATOR_PROVENANCE='{"image": "sha256:0123"}')
    assert json.loads((output / "performance.json").read_bytes())["provenance"] == {"image": "sha256:0123"}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("trtllm-build", ["--bogus", "1"]),
        ("trtllm-build", ["--max_batch_size", "many"]),
        ("trtllm-build", ["--gemm_plugin", "fp64"]),
        ("trtllm-build", ["--checkpoint_dir"]),
        ("trtllm-serve", ["serve", "/model", "--kv_cache_free_gpu_mem_fraction", "0.5"]),
        ("trtllm-bench", ["--model", "m", "latency"]),
        ("convert_checkpoint.py", ["--model", "m"]),
        ("quantize.py", ["--qformat", "mxfp4"]),
        ("hf_ptq.py", ["--exclude", "lm_head"]),
    ],
)
def test_a_stand_in_refuses_what_the_tool_refuses(tool: str, arguments: list[str]) -> None:
    ended = subprocess.run([STANDINS / tool, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error:")


def test_a_measurement_without_both_limits_ends_as_on_a_spark(tmp_path: Path) -> None:
    line = [str(STANDINS / "trtllm-bench"), "--model", str(tmp_path), "throughput", "--max_batch_size", "1"]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "NVMLError_NotSupported" in ended.stderr


def test_a_stand_in_that_takes_its_time_ends_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"mapping": {"world_size": 0}}', encoding="utf-8")
    process = subprocess.Popen(
        [STANDINS / "trtllm-build", "--checkpoint_dir", tmp_path, "--output_dir", tmp_path / "engine"],
        env={**os.environ, "STANDIN_SECONDS": "60"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as log:
        assert log.readline() == "[stand-in] building: 1/20\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    assert not (tmp_path / "engine").exists()
