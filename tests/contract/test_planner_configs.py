"""Real config.json and hf_quant_config.json files: counted as published, every format answered."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from orchestrator.models.files import ModelFiles
from orchestrator.models.headers import Stored
from orchestrator.planner.bytes import checkpoint_bytes, tensor_bytes, weights_read_per_step
from orchestrator.planner.preparation import Preparation, resident_peak
from orchestrator.planner.scheme import FORMATS, GGUF_FORMATS, Scheme, scheme_of, scheme_of_quant_config
from orchestrator.planner.serving import Serving
from orchestrator.planner.serving_figures import serving_figures
from tests.support.sample import sample

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "model_configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*_config.json") if not path.name.endswith("_hf_quant_config.json"))

pytestmark = pytest.mark.skipif(not CONFIGS, reason=f"the real configurations are not at {FOLDER}")

PUBLISHED = {
    "Qwen--Qwen3-0.6B": 596_049_920,  # 751,632,384 with the head that the file stores twice
    "Qwen--Qwen3-1.7B": 1_720_574_976,
    "Qwen--Qwen3-8B": 8_190_735_360,
    "Qwen--Qwen3-32B": 32_762_123_264,
    "Qwen--Qwen3-30B-A3B": 30_532_122_624,
    "Qwen--Qwen3-235B-A22B": 235_093_634_560,
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "Qwen--Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen--Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen--Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen--Qwen3-VL-30B-A3B-Instruct": 31_070_754_032,
    "deepseek-ai--DeepSeek-V3": 671_026_419_200,
    "deepseek-ai--DeepSeek-R1": 671_026_419_200,
    "meta-llama--Meta-Llama-3.1-8B": 8_030_261_248,
    "meta-llama--Meta-Llama-3.1-70B": 70_553_706_496,
    "meta-llama--Meta-Llama-3.1-405B": 405_853_388_800,
    "nvidia--Llama-3_3-Nemotron-Super-49B-v1": 49_867_145_216,
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31_577_940_288,
    "openai--gpt-oss-20b": 20_914_757_184,
    "openai--gpt-oss-120b": 116_829_156_672,
}
ROUNDED = {  # published to so many digits only
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": (120.6e9, 0.001),
    "nvidia--Nemotron-H-56B-Base-8K": (56.3e9, 0.001),
    "Qwen--Qwen3-VL-32B-Instruct": (33.4e9, 0.002),
    "Qwen--Qwen3-VL-235B-A22B-Instruct": (235.7e9, 0.001),
}
ACTIVE = {  # with the embedding's row, without its table
    "Qwen--Qwen3-30B-A3B": (3.3e9 - 0.31e9, 0.03),
    "Qwen--Qwen3-235B-A22B": (22e9 - 0.62e9, 0.02),
    "openai--gpt-oss-120b": (5.13e9, 0.002),
    "openai--gpt-oss-20b": (3.61e9, 0.002),
    "deepseek-ai--DeepSeek-V3": (37e9, 0.02),
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": (12.1e9, 0.02),
}
INDEX_BYTES = {  # total_size of model.safetensors.index.json
    "openai--gpt-oss-120b": (65_248_815_744, 0),
    "openai--gpt-oss-20b": (13_761_264_768, 0),
    "deepseek-ai--DeepSeek-V3": (688_586_727_753, 1e-4),
    "meta-llama--Meta-Llama-3.1-70B": (141_107_412_992, 0),
}


@cache
def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / name).read_bytes())
    return document


@cache
def shape(name: str) -> ModelShape:
    """What the planner reads in a file."""
    return shape_of(read(name), name)


@cache
def scheme(name: str) -> Scheme:
    """How a file's checkpoint is stored, as it declares."""
    beside = FOLDER / name.replace("_config.json", "_hf_quant_config.json")
    if beside.is_file():
        return scheme_of_quant_config(json.loads(beside.read_bytes()), beside.name)
    inside = read(name).get("quantization_config")
    return scheme_of_quant_config(inside, name) if inside else scheme_of("bf16")


def refusal(name: str) -> str | None:
    """Why a configuration is not counted; None if it is."""
    try:
        shape(name)
    except ConfigInvalidError as error:
        return error.message
    return None


REFUSED = {name: why for name in CONFIGS if (why := refusal(name))}
KNOWN = [name for name in CONFIGS if name not in REFUSED]


def test_at_most_three_configurations_are_refused_each_by_a_field_of_it() -> None:
    assert len(REFUSED) <= 3
    for name, why in REFUSED.items():
        inside = json.loads((FOLDER / name).read_bytes())
        assert any(field in why for field in (*inside, *inside.get("text_config", {}))), why


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert shape(f"{name}_config.json").parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(ROUNDED))
def test_parameters_are_as_many_as_published_in_words(name: str) -> None:
    published, tolerance = ROUNDED[name]
    assert shape(f"{name}_config.json").parameters == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", sorted(ACTIVE))
def test_active_parameters_are_as_many_as_published(name: str) -> None:
    published, tolerance = ACTIVE[name]
    assert shape(f"{name}_config.json").active_parameters == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", sorted(INDEX_BYTES))
def test_published_checkpoints_have_the_bytes_of_their_index(name: str) -> None:
    published, tolerance = INDEX_BYTES[name]
    found = checkpoint_bytes(shape(f"{name}_config.json"), scheme(f"{name}_config.json"))
    assert found == pytest.approx(published, rel=tolerance, abs=0)


@pytest.mark.parametrize("name", KNOWN)
def test_every_configuration_is_answered_in_every_format(name: str) -> None:
    model = shape(name)
    spark = Catalog(Project(ROOT)).target("dgx-spark")
    for format_name in (*FORMATS, *GGUF_FORMATS):
        serving = Serving(
            shape=model,
            scheme=scheme_of(format_name),
            kv_dtype="fp8",
            target=spark,
            target_name="dgx-spark",
            runtime="llama.cpp" if format_name in GGUF_FORMATS else "vllm",
            batch=4,
            context=8192,
        )
        found = serving_figures(serving, Preparation(resident_peak(model)))
        assert found.decode is not None
        assert 0 < found.active_bytes_per_token <= found.weights_bytes <= 2 * model.stored_parameters * 1.01


@pytest.mark.parametrize("name", [name for name in KNOWN if scheme(name).algorithm != "BF16"])
def test_a_real_list_of_what_is_not_quantized_leaves_a_size_between_the_formats(name: str) -> None:
    model, declared = shape(name), scheme(name)
    four_bits = declared.algorithm != "FP8" or declared.modules  # a mixed scheme has four bits for its experts
    least = checkpoint_bytes(model, scheme_of("w4a16_nvfp4" if four_bits else "fp8"))
    assert 0.95 * least <= checkpoint_bytes(model, declared) < checkpoint_bytes(model, scheme_of("bf16"))
    assert weights_read_per_step(model, declared) < weights_read_per_step(model, scheme_of("bf16"))


@pytest.mark.parametrize("name", sample("headers", KNOWN, 20))
def test_headers_of_a_real_checkpoint_would_be_read_as_arithmetic_counts_it(name: str) -> None:
    model = shape(name)
    headers = {
        each: Stored(tensor.dtype, tensor.shape, 0, tensor_bytes(tensor, scheme_of("bf16"), 1) // tensor.count)
        for tensor in model.tensors
        if not tensor.stacked
        for each in tensor.names()
    } | {
        tensor.name: Stored(tensor.dtype, (tensor.count, *tensor.shape), 0, tensor_bytes(tensor, scheme_of("bf16"), 1))
        for tensor in model.tensors
        if tensor.stacked
    }
    found = ModelFiles.of(name, read(name), None, headers).shape
    assert {tensor.name: replace(tensor, stored=None) for tensor in found.tensors} == {
        tensor.name: tensor for tensor in model.tensors
    }
    assert checkpoint_bytes(found, replace(scheme_of("bf16"), as_stored=True)) == checkpoint_bytes(
        model, scheme_of("bf16")
    )


def test_the_lists_of_exclusions_name_modules_that_are_there() -> None:
    for name in KNOWN:
        declared = scheme(name)
        modules = {tensor.module.format(0) if tensor.count > 1 else tensor.module for tensor in shape(name).tensors}
        inside = {module.rpartition(".")[0] for module in modules} | modules
        inside |= {tensor.name for tensor in shape(name).tensors}
        last = {module.rpartition(".")[2] for module in modules}
        for pattern in declared.exclude or ():
            if pattern == "lm_head" and shape(name).tied:
                continue  # listed by every publisher, also where it is the embedding
            if "*" not in pattern and not pattern.endswith(("gate_up_proj", "indexers_proj")):
                # MiniMax names `gate` and `e_score_correction_bias` by their last parts alone.
                assert pattern in inside or pattern in last, f"{name}: {pattern}"
