"""The time of a calibrated pass on a GPU covers what was measured, and counts the slower of files and layers."""

from __future__ import annotations

from functools import cache

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.models import ModelShape, shape_of
from orchestrator.planner.duration import calibrating, rounding, running_again, running_quantized, searching
from orchestrator.recipe.model import Calibration
from tests.support.environments import ROOT

_SIZES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64},
}
CATALOG = Catalog(Project(ROOT))


@cache
def llama(size: str, layers: int) -> ModelShape:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        **_SIZES[size],
    }
    return shape_of(config, "Llama")


def text(samples: int) -> Calibration:
    return Calibration(dataset="random", samples=samples, sequence_length=512)


@pytest.mark.parametrize(
    ("target", "model", "samples", "files", "seconds"),
    [  # docs/explanation/quantization.md, "What it costs"; files: bytes read and written
        ("h100", ("70b", 15), 512, (29.9e9, 11.4e9), (31.1, 37.5, 40.6, 49.9)),
        ("h100", ("8b", 16), 128, (7.5e9, 2.8e9), (20,)),
        ("h100", ("8b", 32), 128, (14.5e9, 5.0e9), (24,)),
        ("h200", ("70b", 80), 512, (141.1e9, 42.7e9), (174.6,)),
    ],
)
def test_a_calibrated_pass_takes_as_long_as_it_was_measured_to_take(
    target: str, model: tuple[str, int], samples: int, files: tuple[float, float], seconds: tuple[float, ...]
) -> None:
    span = calibrating(*files, llama(*model), text(samples), CATALOG.target(target))
    assert span is not None
    assert all(span.least <= measured <= span.most for measured in seconds)
    assert span.most < 4 * span.least


def test_files_and_layers_overlap() -> None:
    def least(read: float, samples: int) -> float:
        span = calibrating(read, 0, llama("70b", 8), text(samples), CATALOG.target("dgx-spark"))
        assert span is not None
        return span.least

    slow_files, slow_layers = least(1e12, 1), least(1e9, 4096)
    assert least(1e12, 2) == slow_files
    assert least(2e9, 4096) == slow_layers
    assert least(1e12, 4096) == max(slow_files, slow_layers)


def test_the_time_is_not_known_without_a_gpu() -> None:
    assert calibrating(1, 1, llama("8b", 1), text(1), CATALOG.target("cpu")) is None
    assert running_quantized(llama("8b", 1), text(1), CATALOG.target("cpu")) is None
    assert running_again(llama("8b", 1), text(1), CATALOG.target("cpu")) is None


def test_quantized_layers_run_once_more_over_the_calibration() -> None:
    one, two = (running_quantized(llama("8b", 2), text(samples), CATALOG.target("h100")) for samples in (64, 128))
    assert one is not None
    assert two is not None
    assert two.most == pytest.approx(2 * one.most)
    first = calibrating(0, 0, llama("8b", 2), text(128), CATALOG.target("h100"))
    assert first is not None
    assert two.most > first.most - 17  # its products are FP32; the other has seconds to start
    assert "layer_inputs quantized" in two.basis


def test_with_gptq_the_processor_searches_and_rounds_a_block_with_each_candidate() -> None:
    gpu = CATALOG.target("h100").gpu
    alone, on_processor, with_gptq = (
        searching(8e9, "weighted", rounding, where)
        for rounding, where in (("nearest", gpu), ("nearest", None), ("gptq", gpu))
    )
    assert alone is not None
    assert on_processor is not None
    assert with_gptq is not None
    assert alone.most < on_processor.least
    assert with_gptq.least > 2 * on_processor.least
    assert searching(8e9, "mse", "gptq", gpu) == searching(8e9, "mse", "nearest", None)
    assert searching(8e9, "max", "gptq", gpu) is None
    pairs = searching(8e9, "local_hessian", "nearest", None)
    assert pairs is not None
    assert pairs.least > on_processor.least
    assert searching(8e9, "local_hessian", "gptq", gpu) == pairs
    assert "; measured: 0.045 billion" in pairs.basis
    on_gpu = searching(8e9, "local_hessian", "nearest", gpu)
    assert on_gpu is not None
    assert "; assumed: 30 billion" in on_gpu.basis  # it never ran there


def test_gptq_takes_changes_of_later_columns_and_products_of_inputs() -> None:
    shape, calibration = llama("8b", 1), text(64)
    changes = sum(each.elements * each.shape[-1] / 2 for each in shape.tensors if each.quantizable)
    alone = rounding(shape, calibration, CATALOG.target("cpu"))
    with_gpu = rounding(shape, calibration, CATALOG.target("h100"))
    assert (alone.least, alone.most) == (changes / (6.5e9 * 16), changes / (6.5e9 * 2))
    assert "measured: 6.5 billion a second" in alone.basis
    products = (with_gpu.least - alone.least, with_gpu.most - alone.most)
    assert products[1] == pytest.approx(5 * products[0])  # at 25 % and at 5 % of the peak
