from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import RecipeInvalidError
from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.registry import build_steps
from orchestrator.steps.step import FILES, SCRATCH
from tests.unit.steps.recipes import CATALOG, DRAFT, HUB, recipe, steps, value, words

BOOK = RecipeBook(CATALOG.project.recipes)
MODELOPT: dict[str, Any] = {"format": "nvfp4", "method": "modelopt", "kv_cache": "fp8"}
ONEPASS: dict[str, Any] = {"format": "w4a16_nvfp4", "method": "onepass"}
TRTLLM: dict[str, Any] = {"format": "fp8", "method": "trtllm"}
H200: dict[str, Any] = {"target": "h200"}


@pytest.mark.parametrize("name", BOOK.names)
def test_only_downloads_have_network_and_secrets(name: str) -> None:
    for step in build_steps(BOOK.load(name).recipe, CATALOG):
        assert step.network == step.name.startswith("download")
        assert bool(step.secrets) == step.name.startswith("download")


@pytest.mark.parametrize("name", BOOK.names)
def test_every_input_is_left_by_an_earlier_step(name: str) -> None:
    earlier: list[str] = []
    for step in build_steps(BOOK.load(name).recipe, CATALOG):
        assert {mount.step for mount in step.inputs} <= set(earlier)
        assert len({mount.target for mount in step.inputs}) == len(step.inputs)
        earlier.append(step.name)
    assert len(set(earlier)) == len(earlier)


@pytest.mark.parametrize("name", BOOK.names)
def test_every_place_that_a_command_names_is_mounted(name: str) -> None:
    for step in build_steps(BOOK.load(name).recipe, CATALOG):
        mounted = {mount.target for mount in step.inputs} | {folder.target for folder in step.folders} | {"/out"}
        mounted |= {SCRATCH} if step.resumable else set()
        for argument in step.argv:
            if not isinstance(argument, str):
                assert argument.target in mounted | ({FILES} if argument.path in step.files else set())


@pytest.mark.parametrize("name", BOOK.names)
def test_what_asks_for_a_gpu_runs_in_an_image_and_knows_which_gpu(name: str) -> None:
    for step in build_steps(BOOK.load(name).recipe, CATALOG):
        if step.gpus:
            assert step.image
            assert not step.portable
            runtime = CATALOG.image(BOOK.load(name).recipe.image).runtime
            assert {"sm", "gpu", runtime} <= set(step.identity)


def test_a_model_of_the_hub_is_downloaded() -> None:
    step = steps()["download"]
    assert value(step.argv, "--repo") == "owner/model"
    assert value(step.argv, "--revision") == "main"
    assert value(step.argv, "--output") == "/out"


def test_a_model_in_a_folder_is_imported_from_where_it_lies() -> None:
    model = {"path": "models/mine", "architecture": "LlamaForCausalLM", "parameters": 1e9}
    step = steps(model=model)["import"]
    assert [(folder.path, folder.target) for folder in step.folders] == [("models/mine", "/source")]
    assert value(step.argv, "--source") == "/source"


def test_a_generated_model_gets_its_whole_shape() -> None:
    step = steps(model={"generate": {"seed": 7, "hidden_size": 512}})["generate"]
    assert value(step.argv, "--seed") == "7"
    assert value(step.argv, "--hidden-size") == "512"
    assert value(step.argv, "--shards") == "2"


def test_our_quantizer_runs_in_the_recipes_image_where_there_is_a_gpu() -> None:
    step = steps(quantization=ONEPASS)["quantize"]
    assert (step.image, step.portable, step.gpus) == ("tensorrt-llm-1.2.1", True, 0)


def test_our_quantizer_runs_on_this_machines_python_where_the_target_has_no_gpu() -> None:
    assert steps(quantization=ONEPASS, target="cpu")["quantize"].image is None


def test_our_quantizer_runs_the_model_over_text_in_the_image() -> None:
    found = steps(quantization={"format": "nvfp4", "method": "onepass", "kv_cache": "fp8"})
    step = found["quantize"]
    assert (step.image, step.portable, step.gpus, step.resumable) == ("tensorrt-llm-1.2.1", False, 1, True)
    expected = {"--format": "nvfp4", "--kv-cache": "fp8", "--samples": "512", "--sequence-length": "512"}
    assert {option: value(step.argv, option) for option in expected} == expected
    assert value(step.argv, "--calibration") == "/calibration/train.jsonl"
    assert {"calibration", "download-calibration"} <= set(found)
    assert not step.network


def test_our_quantizer_runs_the_model_over_tokens_from_a_seed_where_there_is_no_text() -> None:
    quantization = {"format": "fp8", "method": "onepass", "calibration": {"dataset": "random"}}
    found = steps(quantization=quantization, target="cpu")
    assert "--calibration" not in words(found["quantize"].argv)
    assert "calibration" not in found
    assert found["quantize"].libraries == ("torch", "transformers")


def test_our_quantizer_is_told_each_exclusion() -> None:
    step = steps(quantization={**ONEPASS, "exclude": ["model.layers.0.*", "*o_proj"]})["quantize"]
    assert words(step.argv)[-4:] == ("--exclude", "model.layers.0.*", "--exclude", "*o_proj")


def test_our_quantizer_is_told_of_shared_scales_and_of_conversations() -> None:
    calibration = {"dataset": "mine.jsonl", "chat_template": True}
    asked = {"format": "fp8", "method": "onepass", "shared_scales": True, "calibration": calibration}
    found = steps(quantization=asked)
    assert words(found["quantize"].argv)[-1] == "--shared-scales"
    assert words(found["calibration"].argv)[-1] == "--conversations"
    plain = steps(quantization={"format": "fp8", "method": "onepass"})
    assert not {"--shared-scales", "--conversations"} & {
        *words(plain["quantize"].argv),
        *words(plain["calibration"].argv),
    }


@pytest.mark.parametrize("number_format", ["nvfp4", "w4a16_nvfp4"])
def test_our_quantizer_is_told_of_a_search_that_is_not_the_default(number_format: str) -> None:
    asked = {"format": number_format, "method": "onepass"}
    plain, default, searched = (
        steps(quantization={**asked, **more})["quantize"]
        for more in ({}, {"scale_search": "max"}, {"scale_search": "mse"})
    )
    assert plain == default
    assert "--scale-search" not in words(plain.argv)
    assert value(searched.argv, "--scale-search") == "mse"


def test_a_weighted_search_runs_the_model_for_weights_alone() -> None:
    found = steps(quantization={"format": "w4a16_nvfp4", "method": "onepass", "scale_search": "weighted"})
    assert value(found["quantize"].argv, "--calibration") == "/calibration/train.jsonl"
    assert found["quantize"].libraries == ("torch", "transformers")
    without = steps(quantization={"format": "w4a16_nvfp4", "method": "onepass", "scale_search": "mse"})
    assert "calibration" not in without
    assert without["quantize"].libraries == ()


def test_layer_inputs_of_weights_alone_are_a_choice_of_nothing() -> None:
    asked = {"format": "w4a16_nvfp4", "method": "onepass", "layer_inputs": "quantized"}
    with pytest.raises(RecipeInvalidError, match="a choice of calibration, and w4a16_nvfp4 has none") as caught:
        steps(quantization=asked)
    assert "leave layer_inputs out" in caught.value.hint
    for more in ({"scale_search": "weighted"}, {"kv_cache": "fp8"}):
        assert value(steps(quantization=asked | more)["quantize"].argv, "--layer-inputs") == "quantized"


@pytest.mark.parametrize("more", [{"format": "nvfp4"}, {"format": "auto", "budget": {"bits_per_weight": 5}}])
def test_input_scales_are_an_option_of_formats_with_4_bit_inputs(more: dict[str, object]) -> None:
    asked = {"method": "onepass", **more}
    found = steps(quantization={**asked, "input_scales": "headroom"})
    assert value(found["quantize"].argv, "--input-scales") == "headroom"
    plain, as_default = (steps(quantization={**asked, **one}) for one in ({}, {"input_scales": "max"}))
    assert plain == as_default
    assert "--input-scales" not in words(plain["quantize"].argv)


@pytest.mark.parametrize("number_format", ["fp8", "nvfp4"])
def test_layer_inputs_are_an_option_of_formats_with_input_scales(number_format: str) -> None:
    asked = {"format": number_format, "method": "onepass"}
    found = steps(quantization={**asked, "layer_inputs": "quantized"})
    assert value(found["quantize"].argv, "--layer-inputs") == "quantized"
    plain, as_default = (steps(quantization={**asked, **more}) for more in ({}, {"layer_inputs": "original"}))
    assert plain == as_default
    assert "--layer-inputs" not in words(plain["quantize"].argv)


@pytest.mark.parametrize(
    ("field", "chosen", "default"), [("rounding", "gptq", "nearest"), ("smoothing", "norms", "none")]
)
def test_gptq_and_smoothing_run_the_model_over_text_and_defaults_leave_keys_as_they_are(
    field: str, chosen: str, default: str
) -> None:
    asked = {"format": "w4a16_nvfp4", "method": "onepass"}
    found = steps(quantization={**asked, field: chosen})
    assert value(found["quantize"].argv, f"--{field}") == chosen
    assert value(found["quantize"].argv, "--calibration") == "/calibration/train.jsonl"
    assert found["quantize"].resumable
    plain, as_default = (steps(quantization={**asked, **more}) for more in ({}, {field: default}))
    assert plain == as_default
    assert "calibration" not in plain
    assert f"--{field}" not in words(plain["quantize"].argv)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "onepass", "format": "nvfp4", "shared_scales": True}, "NVFP4 always shares them"),
        ({"method": "modelopt", "format": "fp8", "shared_scales": True}, "shared_scales is a choice of method onepass"),
        ({"method": "modelopt", "format": "fp8", "calibration": {"chat_template": True}}, "use method onepass"),
        ({"method": "modelopt", "format": "nvfp4", "scale_search": "mse"}, "itself: .*set method: onepass"),
        (
            {"method": "onepass", "format": "fp8", "scale_search": "mse"},
            "fp8 has none: leave scale_search out",
        ),
        (
            {"method": "onepass", "format": "bf16", "scale_search": "weighted"},
            "bf16 has none: .* set format: nvfp4",
        ),
        ({"method": "none", "format": "nvfp4", "scale_search": "weighted"}, "method none chooses scales itself"),
        (
            {"method": "modelopt", "format": "nvfp4", "rounding": "gptq"},
            "modelopt does not have: .*set method: onepass",
        ),
        ({"method": "none", "format": "nvfp4", "smoothing": "norms"}, "none does not have: leave smoothing out"),
        ({"method": "onepass", "format": "fp8", "smoothing": "norms"}, "not with fp8: leave smoothing out"),
        (
            {"method": "onepass", "format": "auto", "budget": {"bits_per_weight": 5}, "smoothing": "norms"},
            "not with auto: leave smoothing out",
        ),
        (
            {"method": "onepass", "format": "nvfp4", "smoothing": "norms", "calibration": {"dataset": "random"}},
            "tokens from a seed are none: .*or leave smoothing out",
        ),
        (
            {"method": "modelopt", "format": "nvfp4", "layer_inputs": "quantized"},
            "modelopt does not have: leave layer_",
        ),
        (
            {"method": "onepass", "format": "auto", "budget": {"bits_per_weight": 5}, "layer_inputs": "quantized"},
            "auto chooses formats when all layers have run: leave layer_inputs out",
        ),
        ({"method": "modelopt", "format": "nvfp4", "input_scales": "headroom"}, "modelopt does not have: leave input_"),
        (
            {"method": "onepass", "format": "fp8", "input_scales": "headroom"},
            "4-bit inputs, and fp8 has none: leave inp",
        ),
        ({"method": "onepass", "format": "w4a16_nvfp4", "input_scales": "headroom"}, "and w4a16_nvfp4 has none"),
        ({"method": "onepass", "format": "fp8", "rounding": "gptq"}, "not with fp8: leave rounding out"),
        (
            {"method": "onepass", "format": "nvfp4", "rounding": "gptq", "calibration": {"dataset": "random"}},
            "name a data set in calibration.dataset",
        ),
        (
            {"method": "onepass", "format": "fp8", "calibration": {"dataset": "random", "chat_template": True}},
            "tokens from a seed say nothing",
        ),
    ],
)
def test_what_only_our_quantizer_can_is_refused_elsewhere(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        steps(quantization=changes)


def test_auto_searches_and_rounds_as_the_recipe_chooses() -> None:
    choices = {"scale_search": "local_hessian", "rounding": "gptq"}
    asked = {"method": "onepass", "format": "auto", "budget": {"bits_per_weight": 5}, **choices}
    step = steps(quantization=asked)["quantize"]
    assert value(step.argv, "--scale-search") == "local_hessian"
    assert value(step.argv, "--rounding") == "gptq"


def test_modelopt_gets_the_recipes_format_cache_and_text() -> None:
    quantization = {**MODELOPT, "calibration": {"samples": 64, "sequence_length": 256, "batch_size": 2}}
    step = steps(quantization=quantization)["quantize"]
    options = {"--qformat": "nvfp4", "--kv_cache_qformat": "fp8", "--calib_size": "64", "--calib_seq": "256"}
    assert {option: value(step.argv, option) for option in options} == options
    assert value(step.argv, "--dataset") == "/calibration/train.jsonl"


def test_modelopt_runs_in_the_image_that_the_recipe_names() -> None:
    step = steps(quantization={**MODELOPT, "image": "quantizer-0.45.0"})["quantize"]
    assert step.image == "quantizer-0.45.0"
    assert "llm_ptq" in words(step.argv)[1]


def test_modelopt_runs_in_an_image_of_the_catalogue_where_the_recipe_names_none() -> None:
    image = steps(quantization=MODELOPT)["quantize"].image
    assert image is not None
    assert CATALOG.image(image).has("hf_ptq.py")


def test_a_recipe_of_modelopt_decides_format_and_cache() -> None:
    options = {"recipe": "general/ptq/nvfp4_default-kv_fp8"}
    line = words(steps(quantization={**MODELOPT, "options": options})["quantize"].argv)
    assert "--qformat" not in line
    assert "--kv_cache_qformat" not in line
    assert line[-2:] == ("--recipe", "general/ptq/nvfp4_default-kv_fp8")


@pytest.mark.parametrize("quantization", [MODELOPT, TRTLLM])
def test_exclusions_that_a_quantizer_cannot_be_told_are_refused(quantization: dict[str, Any]) -> None:
    with pytest.raises(RecipeInvalidError, match="exclude"):
        steps(quantization={**quantization, "exclude": ["lm_head"]}, **H200)


def test_the_text_of_a_known_data_set_is_fetched_apart_from_its_use() -> None:
    found = steps(quantization=MODELOPT)
    assert value(found["download-calibration"].argv, "--repo") == "abisee/cnn_dailymail"
    assert value(found["download-calibration"].argv, "--repo-type") == "dataset"
    assert value(found["calibration"].argv, "--source").endswith(".parquet")
    assert value(found["calibration"].argv, "--column") == "article"
    assert [mount.step for mount in found["calibration"].inputs] == ["download-calibration"]


def test_text_in_a_file_of_ones_own_needs_no_download() -> None:
    found = steps(quantization={**MODELOPT, "calibration": {"dataset": "data/mine.jsonl"}})
    assert "download-calibration" not in found
    assert value(found["calibration"].argv, "--source") == "/source/mine.jsonl"
    assert [(folder.path, folder.target) for folder in found["calibration"].folders] == [
        ("data/mine.jsonl", "/source/mine.jsonl")
    ]


def test_an_unknown_data_set_is_named_with_those_that_are_known() -> None:
    with pytest.raises(RecipeInvalidError, match="`the_pile`") as caught:
        steps(quantization={**MODELOPT, "calibration": {"dataset": "the_pile"}})
    assert "cnn_dailymail" in caught.value.hint


@pytest.mark.parametrize("quantization", [ONEPASS, {"format": "fp8", "method": "none"}])
def test_what_runs_no_text_through_the_model_fetches_none(quantization: dict[str, Any]) -> None:
    assert not {"calibration", "download-calibration"} & set(steps(quantization=quantization))


def test_nothing_is_quantized_where_the_checkpoint_is_quantized_already() -> None:
    found = steps(quantization={"format": "fp8", "method": "none"})
    assert "quantize" not in found
    assert [mount.step for mount in found["verify"].inputs] == ["download"]
    assert "--reference" not in found["verify"].argv


def test_the_pytorch_backend_builds_no_engine() -> None:
    assert not {"convert", "engine"} & set(steps(backend="pytorch"))


def test_an_engine_is_built_from_the_converted_checkpoint() -> None:
    found = steps(backend="tensorrt", quantization=MODELOPT)
    assert [mount.step for mount in found["convert"].inputs] == ["quantize"]
    assert [mount.step for mount in found["engine"].inputs] == ["convert"]
    assert value(found["engine"].argv, "--output_timing_cache") == "/out/model.cache"


def test_the_converter_is_that_of_the_models_family() -> None:
    step = steps(backend="tensorrt")["convert"]
    assert "/models/core/llama/" in words(step.argv)[1]


def test_what_quantize_py_leaves_needs_no_conversion() -> None:
    found = steps(backend="tensorrt", quantization=TRTLLM, **H200)
    assert "convert" not in found
    assert [mount.step for mount in found["engine"].inputs] == ["quantize"]
    assert value(found["quantize"].argv, "--calib_dataset") == "/calibration"
    assert [mount.step for mount in found["verify"].inputs if mount.target == "/checkpoint"] == ["download"]


def test_an_engine_is_built_for_what_is_served() -> None:
    serve = {"max_batch_size": 3, "max_num_tokens": 777, "max_seq_len": 555}
    step = steps(backend="tensorrt", serve=serve)["engine"]
    assert {option: value(step.argv, f"--{option}") for option in serve} == {k: str(v) for k, v in serve.items()}


def test_options_of_the_recipe_replace_those_that_follow_from_it() -> None:
    step = steps(backend="tensorrt", engine={"build": {"max_batch_size": 64, "gemm_plugin": "auto"}})["engine"]
    assert value(step.argv, "--max_batch_size") == "64"
    assert value(step.argv, "--gemm_plugin") == "auto"


def test_an_image_without_trtllm_build_gets_no_engine_step() -> None:
    found = steps(backend="tensorrt", image="tensorrt-llm-1.3.0rc22")
    assert not {"convert", "engine"} & set(found)


def test_verify_starts_the_server_on_loopback_alone() -> None:
    step = steps()["verify"]
    server = step.commands[1]
    assert value(server, "--host") == "127.0.0.1"
    assert value(server, "--port") == value(step.commands[0], "--port")
    assert value(server, "--config") == f"{FILES}/llm_api.yaml"
    assert "free_gpu_memory_fraction" in step.files["llm_api.yaml"]


@pytest.mark.parametrize("changes", [{"target": "cpu"}, {"target": "dgx-spark-x2"}, {"checks": {"serve": False}}])
def test_verify_starts_no_server_where_it_cannot_or_shall_not(changes: dict[str, Any]) -> None:
    step = steps(**changes)["verify"]
    assert len(step.commands) == 1
    assert (step.gpus, step.portable) == (0, True)


def test_verify_is_told_what_the_recipe_insists_on() -> None:
    checks = {"min_snr_db": 18.5, "chat_template": False, "startup_timeout": 60}
    options = steps(quantization=ONEPASS, checks=checks)["verify"].commands[0]
    assert value(options, "--min-snr-db") == "18.5"
    assert "--no-chat-template" in options
    assert value(options, "--startup-timeout") == "60"
    assert value(options, "--reference") == "/model"


def test_an_engine_is_served_with_the_tokenizer_of_its_checkpoint() -> None:
    server = words(steps(backend="tensorrt")["verify"].commands[1])
    assert "/engine" in server
    assert server[server.index("--tokenizer") + 1] == "/checkpoint"


def test_each_level_of_concurrency_is_a_run_with_its_own_report() -> None:
    step = steps(benchmark={"concurrency": [1, 8]})["benchmark"]
    runs = step.commands[1:]
    assert [value(run, "--concurrency") for run in runs] == ["1", "8"]
    assert [value(run, "--report_json") for run in runs] == ["/out/report-1.json", "/out/report-8.json"]


def test_the_share_of_the_kv_cache_stands_in_one_place_of_a_measurement() -> None:
    step = steps(serve={"kv_cache": {"free_gpu_memory_fraction": 0.5}})["benchmark"]
    assert value(step.commands[1], "--kv_cache_free_gpu_mem_fraction") == "0.5"
    assert "free_gpu_memory_fraction" not in step.files["llm_api.yaml"]


def test_an_engine_is_measured_as_an_engine() -> None:
    run = steps(backend="tensorrt")["benchmark"].commands[1]
    assert (value(run, "--backend"), value(run, "--engine_dir")) == ("tensorrt", "/engine")


@pytest.mark.parametrize("changes", [{"benchmark": None}, {"target": "cpu"}, {"target": "dgx-spark-x2"}])
def test_nothing_is_measured_where_it_cannot_or_shall_not(changes: dict[str, Any]) -> None:
    assert "benchmark" not in steps(**changes)


def test_a_draft_model_is_downloaded_and_handed_to_whoever_serves() -> None:
    found = steps(serve={"speculative": {"type": "draft_target", "draft": DRAFT}})
    assert value(found["download-draft"].argv, "--repo") == "owner/draft"
    for name in ("verify", "benchmark"):
        assert ("download-draft", "/draft") in [(mount.step, mount.target) for mount in found[name].inputs]
        assert 'speculative_model_dir: "/draft"' in found[name].files["llm_api.yaml"]


def test_multi_token_prediction_needs_no_draft_model() -> None:
    assert "download-draft" not in steps(serve={"speculative": {"type": "mtp"}})


def test_steps_come_in_the_order_in_which_they_run() -> None:
    assert list(steps(backend="tensorrt", quantization=MODELOPT)) == [
        "download", "download-calibration", "calibration", "quantize", "convert", "engine", "verify", "benchmark",
    ]  # fmt: skip


def test_the_same_recipe_has_the_same_steps() -> None:
    assert build_steps(recipe(model=HUB), CATALOG) == build_steps(recipe(model=HUB), CATALOG)


def test_the_quantizer_is_told_what_it_may_use() -> None:
    resources = {"device": "cpu", "threads": 3, "memory": "12GiB", "spill": True}
    step = steps(quantization={"format": "nvfp4", "method": "onepass", "resources": resources})["quantize"]
    assert value(step.argv, "--device") == "cpu"
    assert step.limits == {
        "ORCHESTRATOR_THREADS": "3",
        "ORCHESTRATOR_MEMORY": str(12 << 30),
        "ORCHESTRATOR_SPILL": "1",
    }


def test_by_default_the_quantizer_is_told_nothing_of_what_it_may_use() -> None:
    step = steps(quantization={"format": "nvfp4", "method": "onepass"})["quantize"]
    assert "--device" not in words(step.argv)
    assert not step.limits
