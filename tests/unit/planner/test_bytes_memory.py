"""Memory of phases: what grows, what bounds it, and what the answer says about itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.catalog.target import Target
from orchestrator.models import ModelShape, shape_of
from orchestrator.planner.bytes import (
    checkpoint_bytes,
    input_pairs,
    input_products,
    kv_bytes,
    kv_bytes_read,
    largest_layer,
    weights_read_per_step,
)
from orchestrator.planner.preparation import Preparation, one_pass_peak, resident_peak
from orchestrator.planner.scheme import scheme_of
from orchestrator.planner.serving import Serving, memory_per_gpu
from orchestrator.planner.serving_figures import serving_figures
from orchestrator.recipe.model import Calibration
from tests.unit.planner.byte_configs import DEEPSEEK_V2, GEMMA3, GLM, LLAMA, MIXTRAL, NEMOTRON, Config
from tests.unit.planner.conftest import ROOT

LLAMA_70B: Config = {
    **LLAMA,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}
SHAPES: dict[str, ModelShape] = {
    "dense": shape_of(LLAMA),
    "large": shape_of(LLAMA_70B),
    "mixture": shape_of(MIXTRAL),
    "windowed": shape_of(GEMMA3),
    "latent": shape_of(DEEPSEEK_V2),
    "hybrid": shape_of(NEMOTRON),
    "proposing": shape_of(GLM),
}
TARGETS = Catalog(Project(ROOT)).targets
SPARK = TARGETS["dgx-spark"]
BY_SIZE = ("w4a16_nvfp4", "nvfp4", "fp8", "bf16")

shapes = st.sampled_from(sorted(SHAPES)).map(SHAPES.__getitem__)
formats = st.sampled_from(BY_SIZE)
caches = st.sampled_from(["bf16", "fp8", "nvfp4"])


def serving(
    shape: ModelShape, format_name: str = "nvfp4", batch: int = 1, context: int = 4096, gpus: int = 1
) -> Serving:
    return replace(asked(shape, format_name), batch=batch, context=context, gpus=gpus)


def asked(shape: ModelShape, format_name: str = "nvfp4", target: Target = SPARK, **more: object) -> Serving:
    found = Serving(
        shape=shape,
        scheme=scheme_of(format_name),
        kv_dtype="bf16",
        target=target,
        target_name="here",
        runtime="trtllm",
        batch=1,
        context=4096,
    )
    return replace(found, **more)  # type: ignore[arg-type] # fields by name


@given(shapes, formats, st.integers(1, 64), st.integers(1, 8000), st.integers(0, 100_000))
def test_a_longer_text_never_needs_less_memory(
    shape: ModelShape, format_name: str, batch: int, context: int, more: int
) -> None:
    short = serving(shape, format_name, batch, context)
    assert replace(short, context=context + more).peak >= short.peak
    assert kv_bytes(shape, context + more) >= kv_bytes(shape, context)
    assert kv_bytes_read(shape, context + more) >= kv_bytes_read(shape, context)


@given(shapes, st.integers(1, 500), st.integers(1, 500))
def test_more_texts_never_need_less_and_never_read_less(shape: ModelShape, batch: int, more: int) -> None:
    few = serving(shape, batch=batch)
    assert replace(few, batch=batch + more).peak >= few.peak
    scheme = scheme_of("nvfp4")
    assert weights_read_per_step(shape, scheme, batch + more) >= weights_read_per_step(shape, scheme, batch)


@given(shapes, st.integers(1, 128))
def test_a_smaller_format_never_takes_or_reads_more(shape: ModelShape, batch: int) -> None:
    schemes = [scheme_of(name) for name in BY_SIZE]
    stored = [checkpoint_bytes(shape, scheme) for scheme in schemes]
    read = [weights_read_per_step(shape, scheme, batch) for scheme in schemes]
    assert stored == sorted(stored)
    assert read == sorted(read)


@given(shapes, formats, st.integers(1, 256))
def test_a_step_never_reads_more_than_there_is(shape: ModelShape, format_name: str, batch: int) -> None:
    scheme = scheme_of(format_name)
    assert 0 < weights_read_per_step(shape, scheme, batch) <= checkpoint_bytes(shape, scheme)


@given(shapes, formats, st.integers(1, 64))
def test_the_longest_context_fits_and_one_more_token_does_not(shape: ModelShape, format_name: str, batch: int) -> None:
    available = memory_per_gpu(SPARK)
    asked_for = serving(shape, format_name, batch)
    found = asked_for.max_context
    assert 0 <= found <= shape.max_position
    if found:
        assert replace(asked_for, context=found).peak <= available
    if found < shape.max_position:
        assert replace(asked_for, context=found + 1).peak > available


@given(shapes, formats, st.integers(1, 8192))
def test_the_largest_batch_fits_and_one_more_text_does_not(shape: ModelShape, format_name: str, context: int) -> None:
    available = memory_per_gpu(SPARK)
    asked_for = serving(shape, format_name, context=context)
    found = asked_for.max_batch
    if found:
        assert replace(asked_for, batch=found).peak <= available
    if found < 4096:
        assert replace(asked_for, batch=found + 1).peak > available


@given(shapes, caches, st.integers(1, 8), st.integers(1, 4096), formats)
def test_the_band_contains_what_is_expected(
    shape: ModelShape, kv_dtype: str, batch: int, context: int, format_name: str
) -> None:
    found = serving_figures(asked(shape, format_name, kv_dtype=kv_dtype, batch=batch, context=context))
    for band in (found.decode, found.prefill):
        assert band is not None
        assert 0 < band.low <= band.expected <= band.high


@given(shapes)
def test_a_second_gpu_halves_the_weights_and_never_adds_to_the_peak(shape: ModelShape) -> None:
    one, two = serving(shape, gpus=1), serving(shape, gpus=2)
    assert two.weights == one.weights / 2
    assert two.peak < one.peak


def test_latent_keys_are_on_every_gpu() -> None:
    shape = SHAPES["latent"]
    assert serving(shape, gpus=2).cache == serving(shape, gpus=1).cache


def test_a_70b_model_in_bf16_does_not_fit_a_spark_and_in_nvfp4_it_does() -> None:
    whole, packed = (serving_figures(asked(SHAPES["large"], name)) for name in ("bf16", "nvfp4"))
    assert not whole.fits
    assert any(limit.startswith("serve needs") for limit in whole.limits)
    assert whole.max_context == whole.max_batch == 0
    assert packed.fits
    assert packed.max_batch > 1
    assert serving_figures(asked(SHAPES["large"], "bf16", TARGETS["dgx-spark-x2"])).fits


def test_quantizing_is_a_phase_only_where_the_weights_do_not_come_so() -> None:
    published = serving_figures(asked(SHAPES["large"]))
    made = serving_figures(asked(SHAPES["large"]), Preparation(resident_peak(SHAPES["large"])))
    piecewise = one_pass_peak(SHAPES["large"], scheme_of("w4a16_nvfp4"), Calibration())
    streamed = serving_figures(asked(SHAPES["large"], "w4a16_nvfp4"), Preparation(piecewise))
    assert "quantize" not in published.peak_memory_bytes
    assert made.peak_memory_bytes["quantize"] == checkpoint_bytes(SHAPES["large"], scheme_of("bf16"))
    assert made.fits
    assert any(limit.startswith("quantize needs") for limit in made.limits)
    assert streamed.peak_memory_bytes["quantize"] < 3e9


def test_a_weighted_search_runs_the_model_for_weights_alone() -> None:
    shape, scheme = SHAPES["large"], scheme_of("w4a16_nvfp4")
    calibrated = one_pass_peak(shape, scheme_of("nvfp4"), Calibration())
    assert one_pass_peak(shape, scheme, Calibration(), ["weighted"]) == calibrated
    assert one_pass_peak(shape, scheme, Calibration(), ["mse"]) == one_pass_peak(shape, scheme, Calibration())


def test_gptq_adds_the_products_of_every_two_inputs_of_a_layer() -> None:
    # q, k and v; o; gate and up; down. Three matrices more are made of the widest.
    assert input_products(SHAPES["large"]) == 4 * (3 * 8192**2 + (1 + 3) * 28672**2)
    # Besides attention, each of eight experts has its own.
    attention, experts = 2 * 4096**2, 8 * (4096**2 + 14336**2)
    assert input_products(SHAPES["mixture"]) == 4 * (attention + experts + 3 * 14336**2)
    scheme = scheme_of("w4a16_nvfp4")
    rounding = one_pass_peak(SHAPES["large"], scheme, Calibration(), ["max", "gptq"])
    calibrated = one_pass_peak(SHAPES["large"], scheme, Calibration(), ["weighted"])
    assert rounding.value == calibrated.value + input_products(SHAPES["large"])
    assert "rounding gptq: 14.0 GB" in rounding.basis
    assert one_pass_peak(SHAPES["large"], scheme, Calibration(), ["local_hessian", "gptq"]).value == rounding.value


def test_local_hessian_adds_the_products_of_inputs_within_blocks() -> None:
    large = SHAPES["large"]
    assert input_pairs(large) == 98 * (3 * 8192 + 28672)
    assert input_pairs(SHAPES["mixture"]) == 98 * (2 * 4096 + 8 * (4096 + 14336))
    plain, searching = (
        one_pass_peak(large, scheme_of("nvfp4"), Calibration(), [search]) for search in ("max", "local_hessian")
    )
    assert searching.value == plain.value + input_pairs(large)
    assert "scale_search local_hessian: 5.2 MB" in searching.basis


def test_inputs_of_quantized_layers_need_a_layer_as_it_is_stored_and_multiplied() -> None:
    shape, scheme = SHAPES["large"], scheme_of("nvfp4")
    plain, quantized = (
        one_pass_peak(shape, scheme, Calibration(), ["max", name]) for name in ("original", "quantized")
    )
    assert quantized.value - plain.value == (16 + 4.5) / 16 * largest_layer(shape)
    assert "layer_inputs quantized: " in quantized.basis


def test_an_engine_adds_two_phases_and_what_they_may_lack_is_a_limit() -> None:
    found = serving_figures(asked(SHAPES["large"]), Preparation(builds_engine=True))
    assert list(found.peak_memory_bytes) == ["download", "convert", "engine_build", "load", "serve"]
    assert found.fits
    assert any(limit.startswith("engine_build needs") for limit in found.limits)


def test_a_context_beyond_what_the_model_was_made_for_does_not_fit() -> None:
    found = serving_figures(asked(SHAPES["dense"], context=131073))
    assert not found.fits
    assert found.max_context == 131072
    assert any("made for 131072 tokens" in limit for limit in found.limits)


def test_what_a_spark_hardly_holds_says_so() -> None:
    shape = SHAPES["large"]
    spare = (memory_per_gpu(SPARK) - serving(shape, "fp8", context=1).peak) / kv_bytes(shape, 1)
    found = serving_figures(asked(shape, "fp8", context=int(spare * 0.95)))
    assert found.fits
    assert any("fresh boot" in limit for limit in found.limits)
    assert any("LOAD_WEIGHTS_IN_PARALLEL" in limit for limit in found.limits)


@pytest.mark.parametrize(
    ("format_name", "target", "runtime", "words"),
    [
        ("nvfp4", "h200", "vllm", "no four-bit floating-point products"),
        ("fp8_block_scale", "dgx-spark", "trtllm", "block scales"),
        ("mxfp4", "dgx-spark", "trtllm", "only as gpt-oss"),
        ("q4_k_m", "dgx-spark", "vllm", "no GGUF files"),
        ("nvfp4", "dgx-spark", "llama.cpp", "only GGUF files"),
    ],
)
def test_kernels_that_are_not_there_are_limits(format_name: str, target: str, runtime: str, words: str) -> None:
    found = serving_figures(asked(SHAPES["dense"], format_name, TARGETS[target], runtime=runtime))
    assert any(words in limit for limit in found.limits)


def test_a_machine_without_a_gpu_has_memory_and_no_speed() -> None:
    found = serving_figures(asked(SHAPES["windowed"], target=TARGETS["cpu"]))
    assert found.decode is None
    assert found.prefill is None
    assert found.fits


def test_every_part_of_the_answer_names_its_basis() -> None:
    found = serving_figures(asked(SHAPES["hybrid"]), Preparation(resident_peak(SHAPES["hybrid"]), builds_engine=True))
    subjects = {line.split(":")[0] for line in found.basis}
    assert {
        "weights",
        "cache",
        "download",
        "quantize",
        "load",
        "serve",
        "available memory",
        "decode",
        "prefill",
    } <= subjects
    assert any("recurrent states" in line for line in found.basis)
