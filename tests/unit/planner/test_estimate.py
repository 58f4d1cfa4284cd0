"""Figures: exact where they are arithmetic, and each with its basis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Target
from orchestrator.pages.cells import phase_name
from orchestrator.planner.estimate import Estimate, estimate
from orchestrator.planner.figures import Figure
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.phases import Phase
from orchestrator.planner.weights import BITS, weight_bytes
from orchestrator.recipe.model import Format, Recipe

Change = Callable[[Mapping[str, object]], Recipe]
LLAMA = {"model.repo": "nvidia/Llama-3.3-70B-Instruct-NVFP4", "model.parameters": 70.6e9}


def estimated(recipe: Recipe, target: Target) -> Estimate:
    return estimate(model_on_target(recipe, target))


def peak(costs: Estimate, phase: Phase) -> float:
    stage = costs.stage(phase)
    assert stage is not None
    return stage.peak.total


@pytest.mark.parametrize(
    ("weight_format", "expected"),
    [("bf16", 16e9), ("fp8", 8e9), ("nvfp4", 4.5e9), ("w4a16_nvfp4", 4.5e9), ("mxfp4", 4.25e9), ("int4_awq", 4.125e9)],
)
def test_eight_billion_parameters_take_their_bits(weight_format: Format, expected: float) -> None:
    assert weight_bytes(8e9, weight_format).value == expected


@given(st.floats(1e6, 1e12), st.sampled_from(sorted(BITS)))
def test_no_format_takes_more_than_bf16(parameters: float, weight_format: Format) -> None:
    assert weight_bytes(parameters, weight_format).value <= weight_bytes(parameters, "bf16").value


def test_decoding_is_bounded_by_reading_the_active_weights(catalog: Catalog, changed: Change) -> None:
    recipe = changed({"model.parameters": 30e9, "model.active_parameters": 3e9})
    ceiling = estimated(recipe, catalog.target("dgx-spark")).decode_ceiling
    assert ceiling is not None
    assert ceiling.value == pytest.approx(273e9 / (3e9 * 4.5 / 8))


def test_two_machines_read_twice_as_fast(catalog: Catalog, changed: Change) -> None:
    recipe = changed({"serve.tensor_parallel_size": 2})
    ceiling = estimated(recipe, catalog.target("dgx-spark-x2")).decode_ceiling
    assert ceiling is not None
    assert ceiling.value == pytest.approx(2 * 273e9 / 4.5e9)


def test_a_machine_without_a_gpu_has_no_decode_ceiling(catalog: Catalog, changed: Change) -> None:
    assert estimated(changed({}), catalog.target("cpu")).decode_ceiling is None


def test_a_quantized_model_is_downloaded_and_kept_once(catalog: Catalog, changed: Change) -> None:
    costs = estimated(changed({}), catalog.target("dgx-spark"))
    assert costs.download == costs.weights
    assert costs.disk.value == costs.weights.value
    assert [stage.phase for stage in costs.stages] == ["download", "serve"]


def test_an_engine_takes_room_beside_its_converted_checkpoint(catalog: Catalog, changed: Change) -> None:
    costs = estimated(changed({"backend": "tensorrt"}), catalog.target("dgx-spark"))
    assert costs.disk.value == 3 * costs.weights.value
    assert costs.disk.basis == "download + converted checkpoint + engine"


def test_calibration_holds_the_whole_model_and_one_pass_does_not(catalog: Catalog, changed: Change) -> None:
    target = catalog.target("dgx-spark")
    modelopt = estimated(changed({"quantization.method": "modelopt"}), target)
    onepass = estimated(changed({"quantization.method": "onepass"}), target)
    assert peak(modelopt, "quantize") == 16e9
    assert peak(onepass, "quantize") < 3e9
    assert modelopt.download.value == 16e9


SEARCHED = LLAMA | {"quantization.method": "onepass"}


@pytest.mark.parametrize("number_format", ["nvfp4", "w4a16_nvfp4"])
@pytest.mark.parametrize("target", ["dgx-spark", "cpu"])
def test_a_search_for_scales_adds_its_time_to_quantizing(
    catalog: Catalog, changed: Change, number_format: str, target: str
) -> None:
    asked = SEARCHED | {"quantization.format": number_format}
    found = {
        search: estimated(changed(asked | {"quantization.scale_search": search}), catalog.target(target))
        for search in ("max", "mse", "four_over_six")
    }
    plain = found["max"].stage("quantize")
    assert found["max"].search is None
    assert plain is not None
    for search in ("mse", "four_over_six"):
        span, stage = found[search].search, found[search].stage("quantize")
        assert span is not None
        assert stage is not None
        assert f"scale_search {search}" in span.basis
        assert stage.time == (plain.time.plus(span) if plain.time else None)
        assert 0 < span.least < span.most


def test_a_gpu_that_runs_the_model_searches_as_fast_as_its_memory_is(catalog: Catalog, changed: Change) -> None:
    recipe = changed(SEARCHED | {"quantization.format": "nvfp4", "quantization.scale_search": "mse"})
    spark, fast = (estimated(recipe, catalog.target(name)).search for name in ("dgx-spark", "b200"))
    assert spark is not None
    assert fast is not None
    ratio = catalog.target("b200").gpu.memory_bandwidth / catalog.target("dgx-spark").gpu.memory_bandwidth  # type: ignore[union-attr]
    assert spark.least / fast.least == pytest.approx(ratio)
    assert "H100" in spark.basis


def test_an_offload_budget_that_is_larger_than_the_model_changes_nothing(catalog: Catalog, changed: Change) -> None:
    options = {"offload_folder": "/tmp/x", "max_gpu_memory_gb": 80, "max_cpu_memory_gb": 30}
    recipe = changed({"quantization.method": "modelopt", "quantization.options": options})
    assert peak(estimated(recipe, catalog.target("dgx-spark")), "quantize") == 16e9


@pytest.mark.parametrize(
    ("repo", "size"), [("nvidia/draft-FP4", 0.5625e9), ("nvidia/draft-FP8", 1e9), ("a/draft", 2e9)]
)
def test_a_draft_counts_with_the_format_in_its_name(catalog: Catalog, changed: Change, repo: str, size: float) -> None:
    draft = {"repo": repo, "license": "mit", "architecture": "LlamaForCausalLM", "parameters": 1e9}
    recipe = changed({"serve.speculative": {"type": "draft_target", "draft": draft}})
    costs = estimated(recipe, catalog.target("dgx-spark"))
    assert costs.serve_memory.value == costs.weights.value + size
    assert costs.disk.value == costs.weights.value + size


def test_every_figure_says_what_it_rests_on(catalog: Catalog, changed: Change) -> None:
    costs = estimated(changed({"backend": "tensorrt", "quantization.method": "modelopt"}), catalog.target("dgx-spark"))
    assert set(costs.figures) == {"download", "weights", "disk", "serve_memory", "decode_ceiling"}
    assert all(figure.basis for figure in costs.figures.values())
    assert all(stage.peak.basis for stage in costs.stages)
    assert all(stage.time.basis for stage in costs.stages if stage.time)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(39.71e9, "B", ""), "39.7 GB"),
        (Figure(1.6e6, "B", ""), "1.6 MB"),
        (Figure(6.87, "tok/s", ""), "6.9 tok/s"),
    ],
)
def test_figures_are_written_for_people(figure: Figure, text: str) -> None:
    assert str(figure) == text


def test_every_phase_has_its_memory_disk_and_time(catalog: Catalog, changed: Change) -> None:
    recipe = changed(LLAMA | {"backend": "tensorrt", "quantization.method": "modelopt"})
    costs = estimated(recipe, catalog.target("dgx-spark"))
    phases = ["download", "quantize", "convert", "engine_build", "load", "serve"]
    assert [stage.phase for stage in costs.stages] == phases
    assert sum(stage.kept for stage in costs.stages) == costs.disk.value
    assert [stage.phase for stage in costs.stages if stage.time is None] == ["serve"]
    assert all(0 < stage.time.least <= stage.time.most for stage in costs.stages if stage.time)


HELD_OUT = {"quantization.method": "modelopt", "checks.held_out": {"samples": 64, "sequence_length": 512}}


def test_comparing_with_the_original_is_a_phase_with_its_memory_and_time(catalog: Catalog, changed: Change) -> None:
    target = catalog.target("dgx-spark")
    stage = estimated(changed(LLAMA | HELD_OUT), target).stage("evaluate")
    longer = estimated(changed(LLAMA | HELD_OUT | {"checks.held_out.samples": 128}), target).stage("evaluate")
    assert stage is not None
    assert stage.time is not None
    assert longer is not None
    assert longer.time is not None
    flowing = 2 * 2 * 8192 * 64 * 512  # both models, BF16
    assert longer.peak.total - stage.peak.total == flowing
    assert 2 * 2**30 + 4 * 1.7e9 + flowing < stage.peak.total < 2 * 2**30 + 4 * 1.8e9 + flowing
    reading = (141e9 + 40e9) / 1e9  # both checkpoints once, at the fast rate
    assert reading < stage.time.least < longer.time.least < 2 * stage.time.least
    assert "64 samples of 512 tokens" in stage.peak.basis
    assert stage.time.kind == "assumed"
    assert stage.kept == 0


def test_comparing_with_other_ways_adds_to_that_phase(catalog: Catalog, changed: Change) -> None:
    text = {"checks.held_out": {"samples": 64, "sequence_length": 512}}
    asked = LLAMA | text | {"quantization.method": "onepass", "quantization.scale_search": "weighted"}
    plain, more = (
        estimated(changed(asked | chosen), catalog.target("dgx-spark")) for chosen in ({}, {"checks.compare": ["max"]})
    )
    before, after = (costs.stage("evaluate") for costs in (plain, more))
    assert before is not None
    assert before.time is not None
    assert after is not None
    assert after.time is not None
    assert after.time.least > before.time.least + 141e9 / 2e9  # the original once more, at the fast rate
    assert after.peak.total >= before.peak.total
    states = {part.step: part.state.value for part in more.disk_of_steps if part.state}
    assert "candidates" not in {part.step for part in plain.disk_of_steps}
    # The original and two ways over held-out text, and calibration; twice while they are replaced.
    assert states["candidates"] == 2 * 2 * 8192 * (3 * 64 * 512 + 512 * 512)


def test_comparing_comes_after_quantizing_and_only_where_text_is_held_out(catalog: Catalog, changed: Change) -> None:
    for target in ("dgx-spark", "cpu"):
        there = estimated(changed(HELD_OUT), catalog.target(target))
        assert [stage.phase for stage in there.stages][:3] == ["download", "quantize", "evaluate"]
        without = estimated(changed({"quantization.method": "modelopt"}), catalog.target(target))
        assert without.stage("evaluate") is None


def test_a_server_s_cache_takes_its_share_of_what_cuda_sees_free(catalog: Catalog, changed: Change) -> None:
    target = catalog.target("dgx-spark")
    assert target.cuda_free is not None
    half, most = (
        estimated(changed(LLAMA | {"serve.kv_cache.free_gpu_memory_fraction": share}), target).stage("serve")
        for share in (0.45, 0.9)
    )
    assert half is not None
    assert most is not None
    assert most.peak.parts["KV cache"] == pytest.approx(2 * half.peak.parts["KV cache"])
    assert most.peak.total < target.cuda_free


def test_speeds_are_said_for_requests_and_contexts_that_the_server_takes(catalog: Catalog, changed: Change) -> None:
    recipe = changed(LLAMA | {"serve.max_batch_size": 16, "serve.max_seq_len": 65536})
    speeds = estimated(recipe, catalog.target("dgx-spark")).speeds
    assert speeds is not None
    assert [prefill.context for prefill in speeds.prefill] == [4096, 32768, 65536]
    assert sorted({cell.batch for cell in speeds.decode}) == [1, 8, 16]
    fitting = [cell for cell in speeds.decode if cell.decode]
    assert {(cell.batch, cell.context) for cell in speeds.decode} - {(c.batch, c.context) for c in fitting} == {
        (8, 32768),
        (16, 32768),
        (8, 65536),
        (16, 65536),
    }
    for prefill in speeds.prefill:
        column = [cell.decode.expected for cell in fitting if cell.decode and cell.context == prefill.context]
        assert column == sorted(column)
        assert column[0] < prefill.ceiling


def test_a_model_whose_sizes_are_not_known_has_phases_and_no_speeds(catalog: Catalog, changed: Change) -> None:
    costs = estimated(changed({}), catalog.target("dgx-spark"))
    assert costs.speeds is None
    assert costs.decode is None
    assert peak(costs, "serve") == costs.weights.value


def test_a_recipe_s_drafts_say_from_which_acceptance_they_pay(catalog: Catalog, changed: Change) -> None:
    target = catalog.target("dgx-spark")
    small = {"repo": "meta-llama/Llama-3.1-8B-Instruct", "license": "mit", "architecture": "LlamaForCausalLM"}
    draft = {"type": "draft_target", "draft": small | {"parameters": 8e9}, "max_draft_len": 4}
    costs = estimated(changed(LLAMA | {"serve.speculative": draft}), target)
    found = costs.draft_speed
    assert found is not None
    assert found.draft_length == 4
    assert found.draft_cost == pytest.approx(16.1 / 40.6, rel=0.01)  # BF16 for want of a word in its name
    assert found.pays_from is not None
    assert 0.6 < found.pays_from < 0.9
    (less, slow), (more, fast) = found.speeds
    assert less < more
    assert slow.expected < fast.expected
    assert estimated(changed(LLAMA), target).draft_speed is None


@pytest.mark.parametrize(
    ("model", "step"),
    [
        ({"generate": {"seed": 0}}, "generate"),
        ({"path": "models/mine", "parameters": 8e9, "architecture": "LlamaForCausalLM"}, "import"),
        (None, "download"),
    ],
)
def test_a_model_is_downloaded_only_from_the_hub(
    catalog: Catalog, changed: Change, model: dict[str, object] | None, step: str
) -> None:
    recipe = changed({} if model is None else {"model": model})
    first = estimated(recipe, catalog.target("dgx-spark")).stages[0]
    assert (first.step, phase_name(first)) == (step, step)
    assert first.time is not None
    assert ("Gbit/s" in first.time.basis) == (step == "download"), first.time.basis
