"""`orchestrator estimate`: one JSON document for a program, one screen for a person, an error for bad input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.errors import ConfigInvalidError, OrchestratorError
from orchestrator.payloads import generate
from tests.unit.planner.byte_configs import LLAMA, Config

KEYS = [
    "weights_bytes",
    "active_bytes_per_token",
    "kv_bytes_per_token",
    "fits",
    "peak_memory_bytes",
    "max_context",
    "max_batch",
    "decode_tokens_per_s",
    "prefill_tokens_per_s",
    "watts",
    "tokens_per_joule",
    "basis",
    "limits",
]
USERS = ["users", "users_within_targets", "draft_gains", "knee", "sweep"]
NVFP4: Config = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}


def written(folder: Path, document: object, name: str = "config.json") -> str:
    file = folder / name
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(file)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["estimate", *arguments])


def answer(*arguments: str) -> Mapping[str, Any]:
    result = run(*arguments, "--json")
    assert result.exception is None, result.output
    document: Mapping[str, Any] = json.loads(result.stdout)
    return document


def test_a_program_gets_every_key_and_nothing_else(tmp_path: Path) -> None:
    found = answer(
        "--config",
        written(tmp_path, LLAMA),
        "--format",
        "nvfp4",
        "--concurrency",
        "8",
        "--input-tokens",
        "1792",
        "--output-tokens",
        "256",
    )
    assert list(found) == [*KEYS, *USERS]
    assert found["fits"] is True
    assert set(found["decode_tokens_per_s"]) == {"low", "expected", "high"}
    assert found["kv_bytes_per_token"] == 131072
    assert set(found["peak_memory_bytes"]) == {"download", "quantize", "load", "serve"}


def test_a_model_that_only_calibration_refuses_is_quantized_by_modelopt_only_there(tmp_path: Path) -> None:
    config = written(tmp_path, {**LLAMA, "model_type": "sarvam_moe"})
    peaks = [
        answer("--config", config, "--format", name)["peak_memory_bytes"]["quantize"]
        for name in ("nvfp4", "w4a16_nvfp4")
    ]
    assert peaks[0] > 5 * peaks[1]


def test_the_quantization_s_own_file_decides(tmp_path: Path) -> None:
    config, quantization = written(tmp_path, LLAMA), written(tmp_path, NVFP4, "hf_quant_config.json")
    found = answer("--config", config, "--quant-config", quantization)
    assert found["weights_bytes"] == pytest.approx(6.03e9, rel=0.002)
    assert found["kv_bytes_per_token"] == 65536
    assert "quantize" not in found["peak_memory_bytes"]
    assert answer("--config", config, "--quant-config", quantization, "--format", "nvfp4") == found


def test_a_format_against_the_quantization_s_own_file_is_an_error(tmp_path: Path) -> None:
    config, quantization = written(tmp_path, LLAMA), written(tmp_path, NVFP4, "hf_quant_config.json")
    result = run("--config", config, "--quant-config", quantization, "--format", "fp8")
    assert isinstance(result.exception, ConfigInvalidError)
    assert "declares NVFP4, but --format is fp8" in str(result.exception)


def test_a_folder_s_headers_are_read(tmp_path: Path) -> None:
    generate.main(["--output", str(tmp_path)])
    found = answer("--config", str(tmp_path), "--target", "cpu")
    tensors = 2 * 2_885_888  # the parameters of the default tiny model, in BF16
    assert found["weights_bytes"] == tensors
    assert "the headers of its files" in found["basis"][0]
    assert found["decode_tokens_per_s"] is None


def test_a_person_reads_the_verdict_first(tmp_path: Path) -> None:
    shown = run("--config", written(tmp_path, LLAMA), "--format", "fp8").stdout
    assert shown.startswith("LlamaForCausalLM as FP8 on dgx-spark: fits")
    assert "9.1 GB" in shown
    large = {**LLAMA, "num_hidden_layers": 1000}
    assert "does not fit" in run("--config", written(tmp_path, large)).stdout


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ("[" * 100_000, "not JSON"),
        ({**LLAMA, "quantization_config": 4}, "quantization_config"),
        ({**LLAMA, "num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"model_type": "unet"}, "not the config.json of a language model"),
    ],
)
def test_bad_input_is_an_error_that_names_the_file(tmp_path: Path, document: object, words: str) -> None:
    result = run("--config", written(tmp_path, document))
    assert isinstance(result.exception, ConfigInvalidError)
    assert words in str(result.exception)
    assert str(tmp_path) in str(result.exception)


def test_an_infinite_field_that_sizes_do_not_need_is_no_obstacle(tmp_path: Path) -> None:
    assert answer("--config", written(tmp_path, json.dumps({**LLAMA, "time_step_limit": [0.0, float("inf")]})))["fits"]


@pytest.mark.parametrize(
    "option",
    [
        ["--concurrency", "0"],
        ["--input-tokens", "-1"],
        ["--batch", "1"],
        ["--context", "1"],
        ["--gpus", "0"],
        ["--format", "int3"],
    ],
)
def test_numbers_that_no_run_can_have_are_wrong_usage(tmp_path: Path, option: list[str]) -> None:
    assert run("--config", written(tmp_path, LLAMA), *option).exit_code == 2


def test_a_target_or_gpus_that_are_not_there_are_errors(tmp_path: Path) -> None:
    config = written(tmp_path, LLAMA)
    for option in (["--target", "dgx-sparc"], ["--gpus", "3"]):
        assert isinstance(run("--config", config, *option).exception, OrchestratorError)


def test_a_repository_of_the_catalogue_needs_no_file_and_no_network() -> None:
    found = answer("--repo", "nvidia/Llama-3.3-70B-Instruct-NVFP4")
    assert found["weights_bytes"] == pytest.approx(42.7e9, rel=0.001)
    assert "quantize" not in found["peak_memory_bytes"]
    declared = answer("--repo", "openai/gpt-oss-120b")
    assert declared["weights_bytes"] == 65_248_815_744


def test_a_repository_that_is_not_in_the_catalogue_is_not_looked_for() -> None:
    result = run("--repo", "nobody/nothing")
    assert isinstance(result.exception, ConfigInvalidError)
    assert "--online" in result.exception.hint


def test_one_of_a_file_and_a_repository_is_asked_for(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run("--config", written(tmp_path, LLAMA), "--repo", "openai/gpt-oss-20b").exit_code == 2


def test_a_person_reads_which_of_llama_cpp_s_formats_was_asked_about(tmp_path: Path) -> None:
    shown = run("--config", written(tmp_path, LLAMA), "--format", "q4_k_m", "--engine", "llama.cpp").stdout
    assert shown.startswith("LlamaForCausalLM as Q4_K_M on dgx-spark: fits")


@pytest.mark.parametrize(("option", "instead"), [("--batch", "--concurrency"), ("--context", "--input-tokens")])
def test_an_option_of_before_names_what_to_write(tmp_path: Path, option: str, instead: str) -> None:
    result = run("--config", written(tmp_path, LLAMA), option, "8")
    assert result.exit_code == 2
    assert instead in result.output


@pytest.mark.parametrize(
    "options", [["--concurrency", "2", "--rate", "1"], ["--acceptance", "0.5"], ["--ttft", "0s"], ["--tpot", "fast"]]
)
def test_options_that_contradict_each_other_or_are_no_time_are_wrong_usage(tmp_path: Path, options: list[str]) -> None:
    assert run("--config", written(tmp_path, LLAMA), *options).exit_code == 2


def test_a_workload_of_one_s_own_decides_what_is_printed(tmp_path: Path) -> None:
    config = ("--config", written(tmp_path, LLAMA), "--format", "nvfp4")
    asked = ("--input-tokens", "2000", "--output-tokens", "100", "--ttft", "2s", "--tpot", "200ms")
    few, many = (answer(*config, *asked, "--concurrency", users) for users in ("2", "16"))
    assert few["users"]["concurrency"] == 2
    assert many["users"]["tokens_per_s_of_each"] < few["users"]["tokens_per_s_of_each"]
    assert many["users"]["tokens_per_s"] == pytest.approx(many["decode_tokens_per_s"]["expected"])
    assert few["users_within_targets"] == many["users_within_targets"] > 2
    assert few["watts"] == 140
    assert few["tokens_per_joule"] == pytest.approx(few["decode_tokens_per_s"]["expected"] / 140)
    drafted = answer(*config, *asked, "--drafts", "mtp", "--draft-tokens", "1", "--acceptance", "0.9")
    assert set(drafted["draft_gains"]) == {"1", "16", "64"}
    assert drafted["decode_tokens_per_s"]["expected"] > answer(*config, *asked)["decode_tokens_per_s"]["expected"]


def test_the_screen_names_users_knee_and_power(tmp_path: Path) -> None:
    printed = run("--config", written(tmp_path, LLAMA), "--concurrency", "4").output
    for part in ("4 users, ", "first token ", "tokens per joule", "* the knee"):
        assert part in printed
