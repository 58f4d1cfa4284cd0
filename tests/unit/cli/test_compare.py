"""`compare`: every kind of model it takes, every way it writes, and the article's table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.models import find_model
from tests.unit.cli.conftest import Shell

FORMATS = ["bf16", "fp8", "nvfp4", "w4a16_nvfp4", "mxfp4"]


@pytest.fixture
def rows(shell: Shell) -> dict[str, dict[str, Any]]:
    found = shell.json("compare", "llama3-70b")
    return {row["format"]: row for row in found["formats"]}


def test_the_formats_come_in_the_order_of_their_size(rows: dict[str, dict[str, Any]]) -> None:
    assert list(rows) == FORMATS
    weights = [row["weights_bytes"] for row in rows.values()]
    assert weights == sorted(weights, reverse=True)


def test_a_70b_model_in_bf16_does_not_fit_on_a_spark_and_would_do_two_tokens_a_second(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert rows["bf16"]["weights_bytes"] == pytest.approx(141.1e9, rel=0.001)
    assert not rows["bf16"]["fits"]
    assert rows["bf16"]["decode_ceiling_tokens_per_s"] == pytest.approx(2.0, abs=0.1)
    assert rows["bf16"]["max_context"] == 0
    assert rows["bf16"]["max_batch"] == 0


def test_a_70b_model_in_eight_and_four_bits_fits_below_the_limits_of_the_bandwidth(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert rows["fp8"]["fits"]
    assert rows["nvfp4"]["fits"]
    assert rows["fp8"]["decode_ceiling_tokens_per_s"] == pytest.approx(3.9, abs=0.2)
    assert rows["nvfp4"]["decode_ceiling_tokens_per_s"] == pytest.approx(6.7, abs=0.3)
    for row in rows.values():
        band = row["decode_tokens_per_s"]
        assert band["low"] <= band["expected"] <= band["high"]
        assert band["expected"] < row["decode_ceiling_tokens_per_s"]


def test_the_often_quoted_speeds_of_a_70b_model_are_said_to_need_drafts(shell: Shell) -> None:
    assert shell("compare", "llama3-70b") == 0
    assert "18 to 20 tokens/s of a 70B model in NVFP4 need speculative decoding" in shell.out
    found = shell.json("compare", "llama3-70b")["drafts"]
    assert [wanted["tokens_per_s"] for wanted in found["wanted"]] == [18, 20]
    assert all(wanted["tokens_per_step_if_free"] > 2.5 for wanted in found["wanted"])
    assert all(0.5 < (wanted["acceptance"] or 1) <= 1 for wanted in found["wanted"])


def test_a_speed_that_drafts_cannot_give_is_said_to_be_out_of_reach(shell: Shell) -> None:
    assert shell("compare", "llama3-70b", "--wanted", "60", "--wanted", "1") == 0
    assert "so drafts cannot reach it" in shell.out
    assert "1 tokens/s needs no speculative decoding" in shell.out


def test_a_recipe_is_as_good_as_its_family(shell: Shell) -> None:
    one = shell.json("compare", "llama3-70b-nvfp4-published")
    family = shell.json("compare", "llama3-70b")
    assert [row["weights_bytes"] for row in one["formats"]] == [row["weights_bytes"] for row in family["formats"]]
    assert "llama3-70b-nvfp4-published-eagle3" in one["formats"][2]["recipes"]


def test_a_repository_that_the_catalogue_knows_needs_no_network(shell: Shell) -> None:
    assert shell.json("compare", "Qwen/Qwen3-8B")["parameters"] == 8190735360


def test_a_config_or_its_folder_is_read_where_it_lies(shell: Shell, tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 1024,
        "max_position_embeddings": 2048,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_file = shell.json("compare", str(tmp_path / "config.json"))
    by_folder = shell.json("compare", str(tmp_path))
    assert by_file["formats"] == by_folder["formats"]
    lengths = by_file["workload"]["input_tokens"], by_file["workload"]["output_tokens"]
    assert lengths == (1792, 256)  # no more than it was made for, in the usual proportion


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '"config"', '{"architectures": ["NobodyForCausalLM"]}'])
def test_a_file_that_is_no_config_is_a_clear_error(shell: Shell, tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    error = shell.error("compare", str(file))
    assert error["code"] in ("CONFIG_INVALID", "ARCHITECTURE_UNKNOWN")
    assert str(file) in error["message"]


def test_a_missing_file_and_an_unknown_name_are_told_apart(shell: Shell) -> None:
    assert shell.error("compare", "no/such/config.json")["code"] == "CONFIG_INVALID"
    assert shell.error("compare", "lama3-70b")["code"] == "RECIPE_UNKNOWN"
    assert shell.error("compare", "llama3-70b", "--target", "toaster")["code"] == "TARGET_UNKNOWN"


def test_a_recipe_of_unknown_sizes_says_who_knows_them(shell: Shell) -> None:
    known = (shell.project / "recipes" / "qwen3-8b-bf16.yaml").read_text(encoding="utf-8")
    shell.write_recipe("secret-bf16", known.replace("Qwen/Qwen3-8B", "example/secret").replace("qwen3-8b", "secret"))
    error = shell.error("compare", "secret")
    assert error["code"] == "CONFIG_INVALID"
    assert "orchestrator compare example/secret" in error["hint"]


def test_markdown_is_one_table_with_the_same_figures(shell: Shell) -> None:
    assert shell("compare", "llama3-70b", "--format", "md") == 0
    table = [line for line in shell.out.splitlines() if line.startswith("|")]
    assert len(table) == len(FORMATS) + 2
    assert len({line.count("|") for line in table}) == 1
    assert "| NVFP4 | yes | 42.7 GB |" in shell.out


def test_html_is_one_page_that_asks_for_nothing(shell: Shell) -> None:
    assert shell("compare", "gpt-oss-120b", "--format", "html") == 0
    assert shell.out.startswith("<!DOCTYPE html>")
    assert not re.search(r'(?:src|href)="(?!#)', shell.out.replace("xlink:href", "link"))
    assert "<script" not in shell.out


def test_the_page_in_a_file_is_the_one_that_is_printed(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert shell("compare", "llama3-8b", "--html", str(file), "--format", "html") == 0
    assert file.read_text(encoding="utf-8") == shell.out


def test_two_sparks_hold_what_one_does_not(shell: Shell) -> None:
    found = shell.json("compare", "llama3-70b", "--target", "dgx-spark-x2")
    assert found["formats"][0]["fits"]


def test_a_machine_without_a_gpu_has_memory_but_no_speed(shell: Shell) -> None:
    found = shell.json("compare", "llama3-8b", "--target", "cpu")
    assert all(row["decode_tokens_per_s"] is None for row in found["formats"])
    assert found["drafts"] is None
    assert shell("compare", "llama3-8b", "--target", "cpu", "--format", "html") == 0


def test_llama_cpp_is_asked_about_its_own_formats(shell: Shell) -> None:
    found = shell.json("compare", "llama3-8b", "--engine", "llama.cpp")
    assert [row["format"] for row in found["formats"]] == ["f16", "q8_0", "q4_k_m", "q4_0"]


def test_gpt_oss_is_told_to_stay_as_it_is(shell: Shell) -> None:
    found = {row["format"]: row["advice"] for row in shell.json("compare", "gpt-oss-20b")["formats"]}
    assert found["mxfp4"].startswith("What it is published in")
    assert found["nvfp4"] == "Not here: it is published in MXFP4, and quantizing it again only loses precision."
    assert found["bf16"] == "Not here: it is published in MXFP4, and BF16 holds nothing more."


def test_more_texts_never_leave_room_for_longer_ones(shell: Shell) -> None:
    for row in shell.json("compare", "qwen3-30b-a3b")["formats"]:
        reached = list(row["context_by_batch"].values())
        assert reached == sorted(reached, reverse=True)


def test_a_plan_writes_its_page_beside_what_it_prints(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    assert shell("plan", "llama3-70b-nvfp4", "--html", str(file)) == 0
    assert "llama3-70b-nvfp4 on dgx-spark" in file.read_text()
    assert "Memory at the peak of each phase" in file.read_text()


def test_a_refused_plan_has_a_page_that_says_why(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    assert shell("plan", "llama3-70b-bf16", "--html", str(file)) == 4
    assert "DOES_NOT_FIT" in file.read_text()


def test_every_recipe_has_a_page(shell: Shell, tmp_path: Path) -> None:
    for recipe in sorted(shell.project.glob("recipes/*.yaml"))[::4]:
        assert shell("plan", recipe.stem, "--html", str(tmp_path / "plan.html")) in (0, 4)


@pytest.mark.parametrize(
    "command", [("plan", "llama3-8b-nvfp4"), ("compare", "llama3-8b"), ("verify", "tiny-llama-fp8")]
)
def test_a_page_in_a_folder_that_is_not_there_is_refused_before_any_work(
    shell: Shell, tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert shell(*command, "--html", str(tmp_path / "nowhere" / "page.html")) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in shell.err
    assert not shell.out


def test_a_beginning_that_several_models_share_is_refused_with_a_recipe_of_each(shell: Shell) -> None:
    error = shell.error("compare", "llama3")
    assert error["code"] == "RECIPE_UNKNOWN"
    assert "2 models" in error["message"]
    assert "llama3-70b-" in error["hint"]
    assert "llama3-8b-" in error["hint"]


@pytest.mark.parametrize("model", ["llama3-70b", "qwen3-8b", "gpt-oss-20b", "jamba-1.5-large", "Qwen/Qwen3-8B"])
@pytest.mark.parametrize("target", ["dgx-spark", "h100", "b200"])
def test_what_is_called_not_here_is_not_marked_as_fitting(shell: Shell, model: str, target: str) -> None:
    for row in shell.json("compare", model, "--target", target)["formats"]:
        assert row["advice"].startswith(("Not here:", "Does not fit")) != row["fits"], row
        assert not (row["refused"] and row["fits"])
    assert shell("compare", model, "--target", target) == 0
    for line in shell.out.splitlines():
        name, colon, said = line.partition(": ")
        if colon and said.startswith("Not here"):
            (cells,) = [other for other in shell.out.splitlines() if re.match(rf"{re.escape(name)} {{2,}}", other)]
            assert " no " in cells


@pytest.mark.parametrize("model", ["jamba-1.5-large-nvfp4", "deepseek-coder-v2-lite-bf16"])
def test_what_no_image_serves_is_not_recommended(shell: Shell, model: str) -> None:
    for row in shell.json("compare", model, "--target", "b200")["formats"]:
        assert not row["fits"]
        assert "usual choice" not in row["advice"]


def test_a_format_without_kernels_on_the_target_is_not_recommended(shell: Shell) -> None:
    rows = {row["format"]: row for row in shell.json("compare", "Qwen/Qwen3-8B", "--target", "h100")["formats"]}
    assert "has kernels for nvfp4 on SM 90" in rows["nvfp4"]["advice"]
    assert rows["fp8"]["fits"]


def test_a_family_and_its_configuration_give_the_same_figures(shell: Shell, tmp_path: Path) -> None:
    entry = find_model("meta-llama/Llama-3.3-70B-Instruct")
    assert entry is not None
    (tmp_path / "config.json").write_text(json.dumps({**entry.config, "model_type": "llama"}))
    family, alone = (shell.json("compare", model) for model in ("llama3-70b", str(tmp_path / "config.json")))
    figures = [
        [{key: value for key, value in row.items() if key != "recipes"} for row in found["formats"]]
        for found in (family, alone)
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("quantization", "format_name"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    ],
)
def test_a_quantized_configuration_is_compared_as_what_it_is(
    shell: Shell, tmp_path: Path, quantization: dict[str, object], format_name: str
) -> None:
    entry = find_model("Qwen/Qwen3-8B")
    assert entry is not None
    (tmp_path / "config.json").write_text(
        json.dumps({**entry.config, "model_type": "qwen3", "quantization_config": quantization})
    )
    rows = shell.json("compare", str(tmp_path / "config.json"), "--target", "b200")["formats"]
    assert [row["format"] for row in rows if row["fits"]] == [format_name]
    for row in rows:
        if row["format"] != format_name:
            assert "it is published in" in row["advice"]


@pytest.mark.parametrize(
    ("recipe", "usable"),
    [
        ("llama3-70b-fp8-published", {"fp8"}),
        ("phi-4-multimodal-nvfp4-published", {"nvfp4"}),
        ("gpt-oss-20b", {"mxfp4"}),
        ("qwen3-32b-fp8-published", set()),  # its plan is refused: FP8_BLOCK_SCALE
    ],
)
def test_a_recipe_of_a_published_checkpoint_is_compared_as_what_it_serves(
    shell: Shell, recipe: str, usable: set[str]
) -> None:
    rows = shell.json("compare", recipe, "--engine", "trtllm")["formats"]
    assert {row["format"] for row in rows if row["fits"]} == usable
    assert usable == {row["format"] for row in rows if not row["advice"].startswith(("Not here:", "Does not fit"))}


def test_gpt_oss_stays_as_it_is_for_llama_cpp_too(shell: Shell) -> None:
    rows = shell.json("compare", "gpt-oss-20b", "--engine", "llama.cpp")["formats"]
    assert [row["format"] for row in rows if row["fits"]] == ["gguf_mxfp4"]


def test_a_comparison_says_what_users_see_in_each_format(shell: Shell) -> None:
    asked = ("--concurrency", "4", "--input-tokens", "2000", "--output-tokens", "200", "--ttft", "20s")
    found = shell.json("compare", "qwen3-8b-nvfp4", *asked)
    assert found["workload"] == {"input_tokens": 2000, "output_tokens": 200, "concurrency": 4, "rate": None}
    rows = {row["format"]: row for row in found["formats"]}
    assert rows["nvfp4"]["users"]["tokens_per_s"] > rows["bf16"]["users"]["tokens_per_s"]
    assert rows["nvfp4"]["users_within_targets"] > 4
    drafted = shell.json("compare", "qwen3-8b-nvfp4", *asked, "--drafts", "eagle3")
    assert drafted["formats"][2]["users"]["tokens_per_s"] > rows["nvfp4"]["users"]["tokens_per_s"]
    assert drafted["drafts"] is None  # what drafts would have to do is no question any more


def test_a_rate_finds_the_users_of_each_format(shell: Shell) -> None:
    found = shell.json("compare", "qwen3-8b-nvfp4", "--rate", "0.2")
    users = {row["format"]: row["users"]["concurrency"] for row in found["formats"]}
    assert users["bf16"] > users["nvfp4"] >= 1
    assert shell("compare", "qwen3-8b-nvfp4", "--rate", "0.2", "--ttft", "9s") == 0
    assert "0.2 requests/s of 3,584 tokens in and 512 out" in shell.out
    assert "for 95 of 100 requests: " in shell.out


def test_runtimes_are_put_side_by_side_with_what_each_refuses(shell: Shell) -> None:
    rows = shell.json("compare", "jamba-1.5-mini-nvfp4", "--runtimes")
    expected = [("TensorRT-LLM", True), ("vLLM", False), ("TensorRT Edge-LLM", True)]
    assert [(row["runtime"], bool(row["refused"])) for row in rows] == expected
    assert rows[0]["decode"] is None
    assert rows[1]["decode"]["value"] > 0
    assert shell("compare", "jamba-1.5-mini-nvfp4", "--runtimes") == 0
    assert "TensorRT-LLM: refused[MODEL_UNSUPPORTED]" in " ".join(shell.out.split())


def test_a_recipe_of_one_runtime_is_planned_with_another_without_its_options(shell: Shell) -> None:
    rows = {
        row["runtime"]: row
        for row in shell.json("compare", "llama3-8b-nvfp4", "--runtimes")
        if row["format"] == "nvfp4"
    }
    assert rows["TensorRT-LLM"]["image"].startswith("tensorrt-llm-")
    assert rows["vLLM"]["image"].startswith("vllm-")
    assert rows["vLLM"]["refused"] == []
    assert rows["TensorRT Edge-LLM"]["image"].startswith("edge-llm-")
    assert rows["TensorRT Edge-LLM"]["refused"] == []
    assert "EXPERIMENTAL" in {each["code"] for each in rows["TensorRT Edge-LLM"]["known"]}
