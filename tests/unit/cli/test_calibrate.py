"""`orchestrator calibrate` on a store whose benchmarks are faked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store
from tests.unit.cli.conftest import Shell

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
SPEEDS = {1: 30.0, 4: 110.0, 16: 300.0}


def publish(shell: Shell, key: str, step: str, **files: Any) -> Artifact:  # noqa: ANN401 - whatever JSON can say
    store = Store(shell.store)
    store.make()
    attempt = store.attempt(key)
    attempt.out.mkdir(parents=True, exist_ok=True)
    (attempt.folder / "log.txt").write_text("", encoding="utf-8")
    for name, content in files.items():
        (attempt.out / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return store.publish(attempt, key, step)


def measure(
    shell: Shell,
    speeds: dict[int, float] = SPEEDS,
    *,
    sm: str = "121",
    key: str = "b",
    facts: Mapping[str, str] = MappingProxyType({}),
    command: Sequence[str] = ("trtllm-bench",),
) -> None:
    checkpoint = publish(shell, "a" * 64, "quantize", config=CONFIG)
    performance = {
        "facts": {"format": "nvfp4", "sm": sm, **facts},
        "provenance": {"key": key * 64, "inputs": {"quantize": checkpoint.digest}},
        "dataset": {"input_tokens": 512, "output_tokens": 128},
        "levels": [
            {"concurrency": number, "output_tokens_per_second": speed, "command": list(command)}
            for number, speed in speeds.items()
        ],
    }
    publish(shell, key * 64, "benchmark", performance=performance)


def test_what_was_measured_is_fitted_and_written_into_the_store(shell: Shell) -> None:
    measure(shell)
    [report] = shell.json("calibrate")["runtimes"].values()
    assert report["levels"] == 3
    assert report["mean_error"]["after"] < report["mean_error"]["before"]
    written = json.loads((shell.store / "constants.json").read_bytes())
    assert "3 levels of 1 benchmarks of this machine" in written["engines"]["trtllm"]["basis"]


VLLM = {"vllm": "0.27.1"}


def test_each_runtime_is_fitted_to_its_own_measurements(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    ask = ("estimate", "--config", str(config), "--format", "nvfp4", "--engine")
    shipped = {name: shell.json(*ask, name)["decode_tokens_per_s"]["expected"] for name in ("trtllm", "vllm", "sglang")}
    measure(shell, {1: 24.0, 4: 90.0, 16: 250.0}, key="c", facts=VLLM, command=("vllm", "serve"))
    first = shell.json("calibrate")
    assert list(first["runtimes"]) == ["vllm"]
    slower = {name: shell.json(*ask, name)["decode_tokens_per_s"]["expected"] for name in shipped}
    assert slower["vllm"] < 0.9 * shipped["vllm"]
    assert [slower["trtllm"], slower["sglang"]] == [shipped["trtllm"], shipped["sglang"]]
    measure(shell)
    both = shell.json("calibrate")
    assert both["runtimes"]["vllm"] == first["runtimes"]["vllm"]
    assert set(json.loads((shell.store / "constants.json").read_bytes())["engines"]) == {"trtllm", "vllm"}


def test_a_runtime_with_too_few_levels_is_named_and_the_other_is_fitted(shell: Shell) -> None:
    measure(shell)
    measure(shell, {1: 30.0, 4: 110.0}, key="c", facts=VLLM)
    report = shell.json("calibrate")
    assert (list(report["runtimes"]), report["too_few"]) == (["trtllm"], {"vllm": 2})
    assert shell("calibrate") == 0
    assert "not fitted: vllm: 2 levels are too few" in shell.out


def test_measurements_of_two_runtimes_do_not_add_up_to_enough(shell: Shell) -> None:
    measure(shell, {1: 30.0, 4: 110.0})
    measure(shell, {16: 300.0}, key="c", facts=VLLM)
    assert "found 2 usable levels in 2 benchmarks" in shell.error("calibrate")["message"]


def test_the_table_shows_what_changed_and_where_it_is(shell: Shell) -> None:
    measure(shell)
    assert shell("calibrate") == 0
    assert "weights" in shell.out
    assert str(shell.store / "constants.json") in shell.out


def test_without_measurements_there_is_nothing_to_fit(shell: Shell) -> None:
    error = shell.error("calibrate")
    assert error["code"] == "MEASUREMENTS_MISSING"
    assert "orchestrator bench" in error["hint"]
    assert not (shell.store / "constants.json").exists()


def test_two_levels_are_too_few(shell: Shell) -> None:
    measure(shell, {1: 30.0, 4: 110.0})
    assert "found 2 usable levels in 1 benchmarks" in shell.error("calibrate")["message"]


def test_a_benchmark_of_another_machine_is_not_used(shell: Shell) -> None:
    measure(shell, sm="90")
    assert "compute capability 90" in shell.error("calibrate")["message"]


def test_a_benchmark_that_physics_forbids_is_not_used(shell: Shell) -> None:
    measure(shell, {1: 90.0, 4: 110.0, 16: 300.0})
    assert "drafts were accepted" in shell.error("calibrate")["message"]


def test_a_benchmark_whose_checkpoint_is_gone_is_not_used(shell: Shell) -> None:
    measure(shell)
    Store(shell.store).remove("a" * 64)
    assert "no longer here" in shell.error("calibrate")["message"]


def test_later_estimates_use_it_and_say_so(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    ask = ("estimate", "--config", str(config), "--format", "nvfp4", "--engine", "trtllm")
    before = shell.json(*ask)
    measure(shell)
    shell.json("calibrate")
    after = shell.json(*ask)
    assert after["decode_tokens_per_s"]["expected"] < before["decode_tokens_per_s"]["expected"]
    assert any("benchmarks of this machine" in line for line in after["basis"])


def test_a_spoiled_calibration_is_named_where_it_is_used(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    shell.store.mkdir()
    (shell.store / "constants.json").write_text("{", encoding="utf-8")
    error = shell.error("estimate", "--config", str(config), "--format", "nvfp4")
    assert "not the result of a calibration" in error["message"]
