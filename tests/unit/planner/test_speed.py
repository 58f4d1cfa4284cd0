from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.catalog.target import Target
from orchestrator.errors import CatalogError, ConfigInvalidError, SpeedInputError
from orchestrator.models import shape_of
from orchestrator.planner.constants import RUNTIMES, Constants, default_constants
from orchestrator.planner.scheme import scheme_of
from orchestrator.planner.serving import Serving
from orchestrator.planner.speed import Speed, served, speed
from tests.unit.planner.conftest import ROOT

LLAMA_8B: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LLAMA_70B: Mapping[str, Any] = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}
QWEN_30B_A3B: Mapping[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
SHAPES = {name: shape_of(config) for name, config in (("8b", LLAMA_8B), ("70b", LLAMA_70B), ("moe", QWEN_30B_A3B))}
TARGETS = Catalog(Project(ROOT)).targets
SPARK = TARGETS["dgx-spark"]

unhurried = settings(deadline=None)
runtimes = st.sampled_from(RUNTIMES)
shapes = st.sampled_from(list(SHAPES))
batches = st.integers(1, 256)
contexts = st.integers(1, 131072)


def of(shape: str = "8b", **changes: Any) -> Speed:  # noqa: ANN401 - what differs
    constants = changes.pop("constants", None)
    return speed(asked(shape, **changes), constants)


def asked(shape: str = "8b", format_name: str = "nvfp4", **changes: Any) -> Serving:  # noqa: ANN401 - its fields
    """Ask of a model in the tests' usual way."""
    serving = Serving(SHAPES[shape], scheme_of(format_name), "bf16", SPARK, "dgx-spark", "trtllm")
    return dataclasses.replace(serving, **changes)


def with_bandwidth(bandwidth: float) -> Target:
    assert SPARK.gpu is not None
    gpu = SPARK.gpu.model_copy(update={"memory_bandwidth": bandwidth})
    return SPARK.model_copy(update={"gpu": gpu})


def test_one_stream_of_an_8b_in_nvfp4_comes_near_what_was_published() -> None:
    band = of(context=128).decode
    assert band.low < 38.65 < band.high  # NVIDIA's figure for TensorRT-LLM
    assert band.expected == pytest.approx(38.65, rel=0.1)


def test_a_70b_in_nvfp4_decodes_below_the_bandwidth_limit_of_7_tokens_per_second() -> None:
    found = of("70b", context=512)
    assert found.ceiling == pytest.approx(6.7, abs=0.2)
    assert found.decode.high < found.ceiling


@unhurried
@given(shapes, runtimes, batches, contexts)
def test_the_band_contains_the_expected_value(shape: str, runtime: str, batch: int, context: int) -> None:
    found = of(shape, runtime=runtime, batch=batch, context=context)
    for band in (found.decode, found.prefill):
        assert 0 < band.low < band.expected < band.high < math.inf


@unhurried
@given(shapes, runtimes, batches, contexts)
def test_decode_never_passes_the_ceiling(shape: str, runtime: str, batch: int, context: int) -> None:
    found = of(shape, runtime=runtime, batch=batch, context=context)
    assert found.decode.expected <= found.ceiling


@unhurried
@given(shapes, runtimes, st.integers(1, 16), st.integers(1, 32768))
def test_a_smaller_format_is_never_slower_where_memory_is_the_limit(
    shape: str, runtime: str, batch: int, context: int
) -> None:
    speeds = [
        of(shape, format_name=name, runtime=runtime, batch=batch, context=context).decode.expected
        for name in ("bf16", "fp8", "nvfp4", "mxfp4")
    ]
    assert speeds == sorted(speeds)


@unhurried
@given(shapes, runtimes, st.integers(1, 64), contexts)
def test_a_smaller_cache_is_never_slower(shape: str, runtime: str, batch: int, context: int) -> None:
    kept, packed = (
        of(shape, runtime=runtime, batch=batch, context=context, kv_dtype=dtype).decode.expected
        for dtype in ("bf16", "fp8")
    )
    assert packed >= kept


@unhurried
@given(shapes, runtimes, batches, contexts)
def test_a_larger_batch_never_lowers_the_sum(shape: str, runtime: str, batch: int, context: int) -> None:
    some, more = (
        of(shape, runtime=runtime, batch=size, context=context).decode.expected for size in (batch, batch + 1)
    )
    assert more >= some * (1 - 1e-12)


@unhurried
@given(shapes, runtimes, batches, contexts, st.integers(1, 10000))
def test_a_larger_context_is_never_faster(shape: str, runtime: str, batch: int, context: int, further: int) -> None:
    near, far = (
        of(shape, runtime=runtime, batch=batch, context=size).decode.expected for size in (context, context + further)
    )
    assert far <= near


@unhurried
@given(shapes, runtimes, batches, st.floats(1.0, 50.0))
def test_more_bandwidth_helps_but_never_more_than_in_proportion(
    shape: str, runtime: str, batch: int, factor: float
) -> None:
    before = of(shape, runtime=runtime, batch=batch, target=with_bandwidth(273e9)).decode.expected
    after = of(shape, runtime=runtime, batch=batch, target=with_bandwidth(273e9 * factor)).decode.expected
    assert before * (1 - 1e-12) <= after <= before * factor * (1 + 1e-12)


def test_the_ceiling_scales_with_the_bandwidth() -> None:
    assert of(target=with_bandwidth(546e9)).ceiling == pytest.approx(2 * of().ceiling)


def test_two_nodes_are_faster_than_one_but_not_twice() -> None:
    one = of("70b").decode.expected
    two = of("70b", target=TARGETS["dgx-spark-x2"]).decode.expected
    assert one < two < 2 * one


def test_the_band_is_wider_where_nothing_was_measured() -> None:
    here, there = of().decode, of(target=TARGETS["h200"]).decode
    assert there.high / there.expected > here.high / here.expected


def test_the_band_of_experts_is_wider_in_a_runtime_that_was_not_measured_with_any() -> None:
    known, guessed = (of("moe", runtime=runtime).decode for runtime in ("vllm", "trtllm"))
    assert guessed.high / guessed.expected > known.high / known.expected


def test_the_basis_names_bytes_efficiency_constants_and_the_reason_of_the_band() -> None:
    basis = "\n".join(of("moe", batch=4).basis)
    for part in ("GB at", "of 273 GB/s", "blocks of", "published measurements", "band:"):
        assert part in basis


@pytest.mark.parametrize("batch", [0, -1, math.nan, math.inf])
def test_a_batch_that_cannot_be_is_named(batch: float) -> None:
    with pytest.raises(SpeedInputError, match="batch: found"):
        of(batch=batch)


@pytest.mark.parametrize("context", [0, -5, math.nan])
def test_a_context_that_cannot_be_is_named(context: float) -> None:
    with pytest.raises(SpeedInputError, match="context: found"):
        of(context=context)


@pytest.mark.parametrize("bandwidth", [math.nan, 0.0, -1.0, math.inf])
def test_a_bandwidth_that_cannot_be_is_named(bandwidth: float) -> None:
    with pytest.raises(SpeedInputError, match="memory_bandwidth: found"):
        of(target=with_bandwidth(bandwidth))


def test_more_gpus_than_the_target_has_are_refused() -> None:
    with pytest.raises(SpeedInputError, match="gpus: found 2"):
        of(gpus=2)


def test_a_target_without_a_gpu_has_no_speed() -> None:
    with pytest.raises(SpeedInputError, match="no GPU"):
        of(target=TARGETS["cpu"])


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(CatalogError) as failure:
        of(runtime="tgi")
    assert "llama.cpp" in failure.value.hint


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ConfigInvalidError, match="q9"):
        of(format_name="q9")


def test_a_gpu_that_no_table_knows_still_has_a_prefill() -> None:
    assert SPARK.gpu is not None
    other = SPARK.model_copy(update={"gpu": SPARK.gpu.model_copy(update={"sm": 75})})
    assert of(target=other).prefill.expected > 0


def test_clients_see_less_than_the_runtime_does_the_longer_their_prompts_are() -> None:
    short, long = (served(asked(batch=8, context=prompt + 256, output_tokens=256)).expected for prompt in (128, 8192))
    assert long < short < of(batch=8, context=256).decode.expected


def test_answers_without_a_length_have_no_benchmark() -> None:
    with pytest.raises(SpeedInputError, match="output_tokens"):
        served(asked(batch=8, context=64))


def test_an_answer_that_leaves_no_prompt_is_named() -> None:
    with pytest.raises(SpeedInputError, match="output_tokens: found 64"):
        of(context=64, output_tokens=64)


def test_the_constants_of_a_runtime_change_its_speed() -> None:
    known = default_constants()
    before = known.runtimes["trtllm"]
    slow = known.with_runtime("trtllm", dataclasses.replace(before, costs={**before.costs, "weights": 3.0}))
    assert of(constants=slow).decode.expected < of().decode.expected


H100 = TARGETS["h100"]
SERVED: dict[str, dict[str, Any]] = {
    "1b": {
        **LLAMA_8B,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "vocab_size": 32000,
    },
    "7b": {**LLAMA_8B, "vocab_size": 32000},
}


@pytest.mark.parametrize(
    ("model", "form", "measured"), [("1b", "w4a16_nvfp4", 510), ("1b", "fp8", 457), ("7b", "w4a16_nvfp4", 301)]
)
def test_small_models_wait_for_the_processor_on_a_fast_gpu(model: str, form: str, measured: float) -> None:
    serving = Serving(shape_of(SERVED[model]), scheme_of(form), "bf16", H100, "h100", "vllm")
    asked = dataclasses.replace(serving, context=356, output_tokens=256)
    found = speed(asked)
    assert found.decode.expected == pytest.approx(measured, rel=0.16)  # of docs/explanation/on-a-real-gpu.md
    assert "work on the processor 1.3 ms" in found.basis[0]


def test_a_sparks_constants_have_the_processor_in_them_already() -> None:
    assert "processor" not in of(runtime="vllm").basis[0]
    assert "processor" not in of(target=H100, target_name="h100").basis[0]  # nothing is known of TensorRT-LLM


def test_a_runtime_that_pads_windows_reads_a_window_and_a_chunk() -> None:
    windowed = shape_of({**LLAMA_8B, "architectures": ["MistralForCausalLM"], "sliding_window": 4096})
    known = default_constants()
    exact = dataclasses.replace(known.runtimes["llama.cpp"], pads_windows=False)

    def read(context: int, constants: Constants | None = None) -> float:
        serving = Serving(windowed, scheme_of("q8_0"), "bf16", SPARK, "dgx-spark", "llama.cpp", context=context)
        return 1 / speed(serving, constants).decode.expected

    without = known.with_runtime("llama.cpp", exact)
    assert read(32768) > read(32768, without)
    assert read(1024) == pytest.approx(read(1024, without))
    assert read(32768) == read(4096 + exact.chunk)
