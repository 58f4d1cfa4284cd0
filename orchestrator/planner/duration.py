"""Estimates how long the phases of a build take, as ranges, because only orders of magnitude are known.

No times by model are published. Each time is bytes (or operations) over two observed rates, the slow one and the fast
one. `basis` names both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.catalog.target import Gpu, Target
from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import flops_per_token
from orchestrator.planner.constants import constants_in_use
from orchestrator.planner.figures import Kind
from orchestrator.quantization.format_names import FOUR_OVER_SIX, GPTQ, LOCAL_HESSIAN, MSE, PROBE_TOKENS, WEIGHTED
from orchestrator.recipe.model import Calibration, HeldOut
from orchestrator.values import frozen

_LINE = (12.5e6, 125e6)
_LINE_BASIS = "a line of 0.1 to 1 Gbit/s"

_FILES = (0.5e9, 1.0e9)
_FILES_BASIS = (
    "reads and writes 0.5 to 1 GB/s together: our quantizer on 2 cores of a shared machine, and on 16 of a server"
)

_SEARCHED: Mapping[str, float] = {MSE: 0.07e9, FOUR_OVER_SIX: 0.16e9, WEIGHTED: 0.07e9, LOCAL_HESSIAN: 0.045e9}
"""Weights a second on one core of a shared EPYC, with our compiled loops."""
_SEARCHED_WITH_GPTQ = {**_SEARCHED, WEIGHTED: 0.025e9}
"""There `weighted` rounds a block with each candidate."""
_SEARCH_CORES = (2, 16)
_SEARCHED_ON_GPU: Mapping[str, float] = {MSE: 94e9, FOUR_OVER_SIX: 231e9, WEIGHTED: 98e9, LOCAL_HESSIAN: 30e9}
"""Weights a second on an H100, 27 November 2026; `local_hessian` did not run there, its rate is assumed."""
_H100_BANDWIDTH = 3.35e12
_SEARCH_SHARES = (0.7, 1.3)
"""What other GPUs reach of these rates, in proportion to their memory's; assumed. A Spark has a larger share of an
H100's operations than of its memory's rate, so this is the slower estimate."""

_CHANGES = 6.5e9
"""Changes of later columns a second, by GPTQ on one core of a shared EPYC, with our compiled loops."""
_PRODUCTS = (0.05, 0.25)
"""Share of the tensor cores' peak at which products of inputs are summed, in TF32; assumed."""

_CONVERSION_BASIS = "reads and writes as our quantizer does, 0.5 to 1 GB/s together"

# Calibrating on a GPU, docs/explanation/quantization.md: machines with an H100 and Llamas of 7.5 to 30 GB, one with
# an H200 and 141 GB. Reading and writing go on while layers run.
_HOPPER = 90
_STREAMED = (0.5e9, 2.0e9)
_STARTED = (8.0, 17.0)
"""Seconds in which libraries are loaded, the model is made and its embedding is copied."""
_LAYERS_RUN = (0.3, 0.7)
_LAUNCHED = (1.0e-3, 0.5e-3)
"""Seconds that one batch takes in one layer besides its products. The slower figure is assumed."""
_CALIBRATION_BASIS = (
    "reads and writes 0.5 to 2 GB/s together, while layers run at 30 to 70 % of the tensor cores' peak and 0.5 to 1 ms"
    " for each batch and layer; the slower counts; 8 to 17 s to start: our quantizer on an H100 and an H200,"
    " other GPUs assumed alike"
)

_COMPARISON = (0.01, 0.2)
_COMPARISON_BASIS = (
    "assumed: layers of both models at 1 to 20 % of the tensor cores' peak, since the quantized one's products are FP32"
)
_GROUPS = 4
"""Groups of modules in a layer that are quantized alike: q, k and v; o; gate and up; down."""

_MODELOPT = (3 * 3600 / 70e9, 1.5 * 3600 / 70e9)
_MODELOPT_BASIS = "1.5 to 3 hours for a model of 70 GB, NVIDIA's playbook nvfp4-quantization for the DGX Spark"

_ENGINE = (33 / 5.7e9, 27 / 8.6e9)
_ENGINE_BASIS = "27 to 33 seconds for the 5.7 to 8.6 GB of Llama 3.1 8B in NVFP4 and FP8, once measured on a Spark"

_LOAD = (0.3e9, 4.0e9)
_LOAD_BASIS = (
    "0.3 to 4 GB/s, read off the progress lines of two Sparks' logs (github.com/eugr/spark-vllm-docker, pull request"
    " 200 and issue 188); then the server warms up"
)


@frozen
class Span:
    """Seconds, minimum and maximum."""

    least: float
    most: float
    kind: Kind
    basis: str

    def plus(self, other: Span) -> Span:
        """Add the time of work that follows."""
        kind: Kind = "assumed" if "assumed" in (self.kind, other.kind) else self.kind
        return Span(self.least + other.least, self.most + other.most, kind, f"{self.basis}; {other.basis}")


def downloading(size: float) -> Span:
    """Calculate the time of a download."""
    return Span(size / _LINE[1], size / _LINE[0], "assumed", _LINE_BASIS)


def one_pass(read: float, written: float) -> Span:
    """Calculate the time of our own quantizer without calibration."""
    return Span((read + written) / _FILES[1], (read + written) / _FILES[0], "measured", _FILES_BASIS)


def calibrating(
    read: float, written: float, shape: ModelShape, calibration: Calibration, target: Target
) -> Span | None:
    """Calculate the time of our own quantizer with calibration; None if the machine's peak operations are not known.

    Files are read and written while layers run, so the slower of both counts.
    """
    peak = constants_in_use().tensor_flops.get(target.gpu.sm) if target.gpu else None
    if peak is None:
        return None
    tokens = calibration.samples * calibration.sequence_length
    products = tokens * flops_per_token(shape, calibration.sequence_length // 2) / peak
    parts = math.ceil(calibration.samples / calibration.batch_size) * len(shape.layers)
    most, least = (
        max((read + written) / rate, products / share + parts * launched) + started
        for rate, share, launched, started in zip(_STREAMED, _LAYERS_RUN, _LAUNCHED, _STARTED[::-1], strict=True)
    )
    kind: Kind = "measured" if target.gpu and target.gpu.sm == _HOPPER else "assumed"
    return Span(least, most, kind, _CALIBRATION_BASIS)


def searching(weights: float, scale_search: str, rounding: str, gpu: Gpu | None) -> Span | None:
    """Calculate the additional time of a search for the scales of NVFP4's blocks; None for `max`.

    Args:
        weights: The numbers that become NVFP4.
        scale_search: One of `format_names.SCALE_SEARCHES`.
        rounding: One of `format_names.ROUNDINGS`. With `gptq` the processor searches.
        gpu: Where the search runs otherwise; None: on the processor.
    """
    gpu = None if rounding == GPTQ else gpu
    on_processor = _SEARCHED_WITH_GPTQ if rounding == GPTQ else _SEARCHED
    rate = (_SEARCHED_ON_GPU if gpu else on_processor).get(scale_search)
    if rate is None:
        return None
    if gpu:
        slowest, fastest = (rate * gpu.memory_bandwidth / _H100_BANDWIDTH * share for share in _SEARCH_SHARES)
        kind = "assumed" if scale_search == LOCAL_HESSIAN else "measured"
        how = f"{kind}: {rate / 1e9:.0f} billion a second on an H100, in proportion to the memory's rate"
    else:
        slowest, fastest = (rate * cores for cores in _SEARCH_CORES)
        how = "measured: {:.3g} billion a second on a core of a shared EPYC, {} to {} cores assumed".format(
            rate / 1e9, *_SEARCH_CORES
        )
    basis = f"scale_search {scale_search}: {weights / 1e9:.1f} billion weights; {how}"
    return Span(weights / fastest, weights / slowest, "assumed", basis)


def rounding(shape: ModelShape, calibration: Calibration, target: Target) -> Span:
    """Calculate the additional time of GPTQ: the products of inputs, and what each error changes of later columns.

    The products run where the model does, the changes on the processor.
    """
    matrices = [tensor for tensor in shape.tensors if tensor.quantizable]
    changes = sum(tensor.elements * tensor.shape[-1] / 2 for tensor in matrices)
    tokens = calibration.samples * calibration.sequence_length
    products = tokens * sum(tensor.shape[-1] ** 2 * tensor.count * tensor.used for tensor in matrices)
    slowest, fastest = (_CHANGES * cores for cores in _SEARCH_CORES)
    least, most = changes / fastest, changes / slowest
    peak = constants_in_use().tensor_flops.get(target.gpu.sm) if target.gpu else None
    if peak:
        least, most = least + 2 * products / (peak * _PRODUCTS[1]), most + 2 * products / (peak * _PRODUCTS[0])
    basis = (
        f"rounding gptq: {changes / 1e12:.1f} trillion changes of later columns; measured: {_CHANGES / 1e9:.1f} billion"
        " a second on a core of a shared EPYC, {} to {} cores assumed".format(*_SEARCH_CORES)
    )
    return Span(least, most, "assumed", basis)


def comparing(
    read: float,
    shape: ModelShape,
    text: HeldOut | Calibration,
    target: Target,
    *,
    models: int = 2,
    groups: int = _GROUPS,
) -> Span | None:
    """Calculate the time of comparing models; None if the machine's peak operations are not known.

    Each runs once over the text, and each group of modules alone over the tokens that measure its share of the error.
    """
    peak = constants_in_use().tensor_flops.get(target.gpu.sm) if target.gpu else None
    if peak is None:
        return None
    tokens = text.samples * text.sequence_length
    runs = models * tokens + groups * min(tokens, PROBE_TOKENS)
    work = runs * flops_per_token(shape, text.sequence_length // 2) / peak
    files = one_pass(read, 0)
    least, most = files.least + work / _COMPARISON[1], files.most + work / _COMPARISON[0]
    return Span(least, most, "assumed", f"{files.basis}; {_COMPARISON_BASIS}")


def running_quantized(shape: ModelShape, calibration: Calibration, target: Target) -> Span | None:
    """Calculate the time of running quantized layers over the calibration; None as for `comparing`."""
    found = comparing(0, shape, calibration, target, models=1, groups=0)
    basis = "layer_inputs quantized: assumed: quantized layers at 1 to 20 % of the tensor cores' peak"
    return found and replace(found, basis=basis)


def running_again(shape: ModelShape, calibration: Calibration, target: Target) -> Span | None:
    """Calculate the time of another run over the calibration with smoothed inputs; None as for `calibrating`."""
    found = calibrating(0, 0, shape, calibration, target)
    return found and replace(found, basis="input_scales headroom, smoothing: as calibrating without files")


def modelopt(size: float) -> Span:
    """Calculate the time of ModelOpt for a model, by its bytes in BF16."""
    return Span(size * _MODELOPT[1], size * _MODELOPT[0], "measured", _MODELOPT_BASIS)


def converting(weights: float) -> Span:
    """Calculate the time of converting a checkpoint, which is read and written."""
    return Span(2 * weights / _FILES[1], 2 * weights / _FILES[0], "assumed", _CONVERSION_BASIS)


def building(weights: float) -> Span:
    """Calculate the time of building a TensorRT engine."""
    return Span(weights * _ENGINE[1], weights * _ENGINE[0], "measured", _ENGINE_BASIS)


def loading(weights: float) -> Span:
    """Calculate the time of loading, by the bytes on each node."""
    return Span(weights / _LOAD[1], weights / _LOAD[0], "assumed", _LOAD_BASIS)
