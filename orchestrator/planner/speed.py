"""Predicts tokens per second from what one step reads and multiplies, and the runtime's share of the machine's peak.

The time of a step is a sum: bytes of weights over bandwidth, bytes of cache over bandwidth, operations over the peak
of the tensor cores, and a fixed time per block of a layer. Each is multiplied by one constant of the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.catalog.target import Gpu, Target
from orchestrator.errors import SpeedInputError
from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import flops_per_token, kv_bytes_read, state_bytes, weights_read_per_step
from orchestrator.planner.constants import Constants, Cost, RuntimeConstants, constants_in_use
from orchestrator.planner.figures import requests
from orchestrator.planner.scheme import KvDtype, Scheme, scheme_of
from orchestrator.planner.serving import Serving, gpus_of

Terms = Mapping[Cost, float]
"""Seconds of a step if every constant is 1."""

_FOUR_BITS = ("NVFP4", "W4A16_NVFP4", "MXFP4", "INT4_AWQ")
_FOUR_BIT_PRODUCTS = ("NVFP4", "MXFP4")
_EIGHT_BITS = ("FP8", "FP8_BLOCK")
_PEAKS: Mapping[Cost, tuple[int, int]] = {"prefill_8": (8, 2), "prefill_4": (4, 4), "prefill_block": (8, 2)}
"""Bits of the products, and the speed of the tensor cores relative to 16 bits."""
_FLOPS_PER_BYTE = 450.0
"""For a GPU whose tensor cores are not in the table: between 295 (H100) and 458 (GB10)."""


@dataclass(frozen=True)
class Band:
    """Tokens per second."""

    low: float
    expected: float
    high: float

    def scaled(self, factor: float) -> Band:
        """Multiply all three."""
        return Band(self.low * factor, self.expected * factor, self.high * factor)

    def below(self, limit: float) -> Band:
        """Apply the physical limit: no step takes less time than its reading."""
        return Band(self.low, self.expected, max(self.expected, min(self.high, limit)))


@dataclass(frozen=True)
class Speed:
    """The speed of one server."""

    decode: Band
    """Sum over the batch, while all requests decode."""
    prefill: Band
    """Tokens of a prompt as long as the context."""
    ceiling: float
    """The upper limit: only weights and cache, at the peak bandwidth. Accepted drafts can exceed it."""
    basis: tuple[str, ...]
    """How it was calculated, in sentences."""


@dataclass(frozen=True)
class Workload:
    """The served model, its machine and its batch."""

    shape: ModelShape
    scheme: Scheme
    kv_dtype: KvDtype
    target: Target
    runtime: RuntimeConstants
    tensor_flops: float
    """Of one GPU, dense, 16 bits."""
    gpus: int
    batch: float
    context: int

    @property
    def bandwidth(self) -> float:
        """Bytes per second of all GPUs together."""
        return _gpu(self.target).memory_bandwidth * self.gpus

    @property
    def nodes(self) -> int:
        """Machines over which each block's result is added up."""
        return -(-self.gpus // max(_gpu(self.target).count, 1))


def speed(serving: Serving, constants: Constants | None = None) -> Speed:
    """Estimate decode and prefill.

    Args:
        serving: The served model, its machine and its batch. Drafts are not counted.
        constants: The runtime's constants. Default: those of a calibration, else of the tool.

    Raises:
        SpeedInputError: A number that no run can have, or a target without a GPU.
        CatalogError: No such runtime.
    """
    known = constants or constants_in_use()
    load = workload(serving, known)
    terms = step_terms(load)
    seconds = total(terms, load.runtime)
    prompt = total(prefill_terms(load, load.context), load.runtime)
    margin, reason = _margin(load, known)
    wide = max(margin, known.bands["prefill"])
    ceiling = load.batch / (terms["weights"] + terms["cache"])
    return Speed(
        decode=_band(load.batch / seconds, margin).below(ceiling),
        prefill=_band(load.context / prompt, wide),
        ceiling=ceiling,
        basis=(
            *_decode_basis(load, terms, seconds),
            _prefill_basis(load),
            f"constants of {serving.runtime}: {load.runtime.basis}",
            f"band: decode ±{margin:.0%}, prefill ±{wide:.0%}: {reason}",
        ),
    )


def served(load: Workload, prompt: int, answer: int, constants: Constants | None = None) -> Band:
    """Estimate the speed of all clients together, as a benchmark measures it: prompts are read in between.

    Args:
        load: What decodes: as many clients as its batch. Each sends its next request when it has its answer.
        prompt: Tokens of each prompt.
        answer: Tokens of each answer.
        constants: The constants of the load.

    Raises:
        SpeedInputError: No tokens at all.
    """
    _check("prompt", prompt, 1, 2**31)
    _check("answer", answer, 1, 2**31)
    seconds = total(served_terms(load, prompt, answer, waiting=load.batch), load.runtime)
    margin, _ = _margin(load, constants or constants_in_use())
    return _band(load.batch / seconds, margin)


def workload(serving: Serving, constants: Constants | None = None) -> Workload:
    """Check a server's numbers and look up what its speed needs; raises as `speed`."""
    known = constants or constants_in_use()
    target = serving.target
    gpu = _gpu(target)
    every = gpus_of(target)
    count = every if serving.gpus is None else serving.gpus
    _check("batch", serving.batch, 1, 2**20)
    _check("context", serving.context, 1, 2**31)
    _check("gpus", count, 1, every, f" (all that {target.description} has)")
    _check("memory_bandwidth", gpu.memory_bandwidth, 1e6, 1e18)
    return Workload(
        shape=serving.shape,
        scheme=_as_read(serving.scheme, serving.shape, serving.runtime),
        kv_dtype=serving.kv_dtype,
        target=target,
        runtime=known.runtime(serving.runtime),
        tensor_flops=known.tensor_flops.get(gpu.sm, gpu.memory_bandwidth * _FLOPS_PER_BYTE),
        gpus=count,
        batch=serving.batch,
        context=serving.context,
    )


def _as_read(scheme: Scheme, shape: ModelShape, runtime: str) -> Scheme:
    """Return the scheme of the file that a runtime reads. llama.cpp's gpt-oss has Q8_0 besides MXFP4."""
    if runtime == "llama.cpp" and scheme.algorithm == "MXFP4" and shape.architecture == "GptOssForCausalLM":
        return scheme_of("gguf_mxfp4", kv_cache=scheme.kv_cache)
    return scheme


def step_terms(load: Workload, tokens: int = 1) -> dict[Cost, float]:
    """Calculate the terms of one decode step.

    Args:
        load: What decodes.
        tokens: New tokens per request in one step; more than one if drafts are checked.
    """
    shape, bandwidth = load.shape, load.bandwidth
    choosing = (load.batch * tokens) ** load.runtime.likeness
    weights = weights_read_per_step(shape, load.scheme, choosing) / bandwidth
    cached = _cache_read(load) + 2 * state_bytes(shape)
    blocks, recurrent = _blocks(shape)
    return {
        "weights": weights,
        "four_bit": weights if load.scheme.algorithm in _FOUR_BITS else 0.0,
        "cache": cached * load.batch / bandwidth,
        "launch": blocks * 1e-6,
        "recurrent": recurrent * 1e-6,
        "compute": load.batch * tokens * flops_per_token(shape, 0) / (load.tensor_flops * load.gpus),
        "exchange": blocks * 1e-6 if load.nodes > 1 else 0.0,
    }


def prefill_terms(load: Workload, prompt: int) -> dict[Cost, float]:
    """Calculate the terms of one prompt's prefill: products of all its tokens, and a step per chunk."""
    shape = load.shape
    chunks = prompt / load.runtime.chunk if prompt > load.runtime.chunk else 1.0
    within = min(prompt, load.runtime.chunk)
    weights = weights_read_per_step(shape, load.scheme, within) / load.bandwidth * chunks
    blocks, recurrent = _blocks(shape)
    work = prompt * flops_per_token(shape, prompt // 2) / (load.tensor_flops * load.gpus)
    return {
        "weights": weights,
        "four_bit": weights if load.scheme.algorithm in _FOUR_BITS else 0.0,
        "launch": blocks * chunks * 1e-6,
        "recurrent": recurrent * chunks * 1e-6,
        "exchange": blocks * chunks * 1e-6 if load.nodes > 1 else 0.0,
        _prefill_cost(load): work,
        "prefill_experts": prompt * _expert_flops(shape) / (load.tensor_flops * load.gpus),
    }


def served_terms(load: Workload, prompt: int, answer: int, waiting: float) -> dict[Cost, float]:
    """Calculate the terms of a mean step while clients' prompts are read in between, as in every server.

    Args:
        load: What decodes, with the batch that is on average full.
        prompt: Tokens of each prompt.
        answer: Tokens of each answer.
        waiting: Prompts that are read while one answer is generated: the batch in a steady state.
    """
    terms = step_terms(load)
    for name, seconds in prefill_terms(load, prompt).items():
        terms[name] = terms.get(name, 0.0) + seconds * waiting / answer
    return terms


def total(terms: Terms, runtime: RuntimeConstants) -> float:
    """Add up the cost of the terms on a runtime, in seconds."""
    return sum(seconds * runtime.costs[name] for name, seconds in terms.items())


def _cache_read(load: Workload) -> float:
    """Return the bytes of the KV cache that a step reads for one request."""
    shape = load.shape
    if load.runtime.pads_windows:
        chunk = load.runtime.chunk
        layers = (replace(layer, window=layer.window + chunk) if layer.window else layer for layer in shape.layers)
        shape = replace(shape, layers=tuple(layers))
    return kv_bytes_read(shape, load.context, load.kv_dtype)


def _prefill_cost(load: Workload) -> Cost:
    """Name the kind of a prompt's products."""
    scheme = load.scheme
    if scheme.gguf is not None and scheme.gguf != "f16":
        return "prefill_block"
    if scheme.algorithm in _EIGHT_BITS:
        return "prefill_8"
    native = load.runtime.four_bit_products and scheme.algorithm in _FOUR_BIT_PRODUCTS
    return "prefill_4" if native else "prefill_16"


def _blocks(shape: ModelShape) -> tuple[int, int]:
    """Count blocks (attention, MLP or experts, recurrence) and the recurrent ones among them."""
    kinds = {"attention": "attention", "mamba": "mamba", "mlp": "mlp", "expert": "mlp", "shared_expert": "mlp"}
    found = {
        (tensor.layer, kinds[tensor.role])
        for tensor in shape.tensors
        if tensor.layer is not None and tensor.role in kinds
    }
    return len(found), sum(kind == "mamba" for _, kind in found)


def _expert_flops(shape: ModelShape) -> float:
    return 2.0 * sum(tensor.elements * tensor.used for tensor in shape.tensors if tensor.role == "expert")


def _margin(load: Workload, constants: Constants) -> tuple[float, str]:
    """Return the half width of the range, and the reason for it."""
    kind = "moe" if load.shape.is_moe else "dense"
    name = kind if load.batch == 1 else f"{kind}_batch"
    margin, reason = (
        constants.bands[name],
        "9 of 10 measurements of models that were left out of the fit lie within it",
    )
    if load.shape.is_moe and not load.runtime.experts_measured:
        margin = max(margin, constants.bands["elsewhere"])
        reason = "no model with experts was measured in this runtime on one such machine"
    if load.nodes > 1:
        margin, reason = max(margin, constants.bands["nodes"]), "few measurements of several nodes are published"
    gpu = _gpu(load.target)
    if gpu.sm != constants.measured_sm:
        margin, reason = max(margin, constants.bands["elsewhere"]), f"the constants were not measured on {gpu.name}"
    return margin, reason


def _band(expected: float, margin: float) -> Band:
    return Band(expected * (1 - margin), expected, expected * (1 + margin))


def _decode_basis(load: Workload, terms: Terms, seconds: float) -> tuple[str, ...]:
    costs = load.runtime.costs
    read = terms["weights"] * load.bandwidth / 1e9
    cached = terms["cache"] * load.bandwidth / 1e9
    share = 1 / (costs["weights"] + (costs["four_bit"] if terms["four_bit"] else 0.0))
    blocks = round(terms["launch"] * 1e6)
    parts = [
        f"weights {read:.3g} GB at {share:.0%} of {load.bandwidth / 1e9:.4g} GB/s",
        f"cache {cached:.3g} GB at {1 / costs['cache']:.0%}" if costs["cache"] else "",
        f"{blocks} blocks of {costs['launch']:.3g} µs",
        f"{terms['recurrent'] * 1e6:.0f} recurrent ones of {costs['recurrent']:.3g} µs more"
        if terms["recurrent"]
        else "",
        f"products {terms['compute'] * costs['compute'] * 1e3:.3g} ms",
        f"{blocks} exchanges between nodes of {costs['exchange']:.3g} µs" if terms["exchange"] else "",
    ]
    asked = f"{requests(load.batch)} at {load.context:,} tokens"
    return (f"decode: a step of {seconds * 1e3:.3g} ms for {asked}: {'; '.join(filter(None, parts))}",)


def _prefill_basis(load: Workload) -> str:
    each = flops_per_token(load.shape, load.context // 2) / 1e9
    cost = _prefill_cost(load)
    bits, factor = _PEAKS.get(cost, (16, 1))
    share = 1 / load.runtime.costs[cost] / factor
    peak = load.tensor_flops * load.gpus * factor / 1e12
    return (
        f"prefill: {load.context:,} tokens in steps of at most {load.runtime.chunk:,}, "
        f"{each:.3g} GFLOP each at {share:.0%} of {peak:.4g} TFLOP/s (dense, {bits} bits)"
    )


def _gpu(target: Target) -> Gpu:
    if target.gpu is None:
        message = f"{target.description}: it has no GPU, so there is no speed"
        raise SpeedInputError(message, hint="name a target with a GPU")
    return target.gpu


def _check(name: str, value: object, least: float, most: float, why: str = "") -> None:
    if not (isinstance(value, int | float) and math.isfinite(value) and least <= value <= most):
        message = f"{name}: found {value!r:.60}, expected a number from {least:.9g} to {most:.9g}{why}"
        raise SpeedInputError(message)
