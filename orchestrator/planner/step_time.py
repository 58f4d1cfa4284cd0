"""Calculates the time of a step from what it reads and multiplies, and the runtime's share of the machine's peak.

The time of a step is a sum: bytes of weights over bandwidth, bytes of cache over bandwidth, operations over the peak
of the tensor cores, a fixed time per block of a layer, and the runtime's own work on the processor. Each is multiplied
by one constant of the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from orchestrator.catalog.target import Gpu, Target
from orchestrator.errors import SpeedInputError
from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import flops_per_token, kv_bytes_read, state_bytes, weights_read_per_step
from orchestrator.planner.constants import Constants, Cost, RuntimeConstants, constants_in_use
from orchestrator.planner.drafting import Drafting, bytes_of_pass
from orchestrator.planner.kernels import GPT_OSS, kernels_of, uses_marlin
from orchestrator.planner.scheme import KvDtype, Scheme, scheme_of
from orchestrator.planner.serving import Serving, gpus_of
from orchestrator.values import frozen

Terms = Mapping[Cost, float]
"""Seconds of a step if every constant is 1."""

_FOUR_BITS = ("NVFP4", "W4A16_NVFP4", "MXFP4", "INT4_AWQ")
_FOUR_BIT_PRODUCTS = ("NVFP4", "MXFP4")
_EIGHT_BITS = ("FP8", "FP8_BLOCK")
MARLIN = 1.7
"""Time of a prompt's products if Marlin unpacks eight bits, relative to other kernels of 16 bits: its tiles are made
for few tokens. One checkpoint, Nemotron 3 Super, reads 1,979 and 1,884 tokens/s with others and 1,228 with Marlin.

The constants of four bits include Marlin: the usual builds of vLLM for GB10 take it for experts.
"""
_BLOCKS_OF_LAYER = 2
"""Attention and MLP."""
_FLOPS_PER_BYTE = 450.0
"""For a GPU whose tensor cores are not in the table: between 295 (H100) and 458 (GB10)."""


@frozen
class Load:
    """The served model, its machine and its requests."""

    shape: ModelShape
    scheme: Scheme
    kv_dtype: KvDtype
    target: Target
    runtime: RuntimeConstants
    tensor_flops: float
    """Of one GPU, dense, 16 bits."""
    gpus: int
    batch: float
    """Requests that decode together; the mean if it changes."""
    context: int
    """Tokens of each in the cache: the mean while an answer is written."""
    prompt: int
    """Tokens of each prompt."""
    drafter: Drafting | None = None
    marlin: bool = False
    """Whether Marlin kernels unpack the weights."""

    @property
    def bandwidth(self) -> float:
        """Bytes per second of all GPUs together."""
        return gpu_of(self.target).memory_bandwidth * self.gpus

    @property
    def nodes(self) -> int:
        """Machines over which each block's result is added up."""
        return -(-self.gpus // max(gpu_of(self.target).count, 1))


def load_of(serving: Serving, constants: Constants | None = None) -> Load:
    """Check a server's numbers and look up what its speed needs.

    Raises:
        SpeedInputError: A number that no run can have, or a target without a GPU.
        CatalogError: No such runtime.
    """
    known = constants or constants_in_use()
    target = serving.target
    gpu = gpu_of(target)
    every = gpus_of(target)
    count = every if serving.gpus is None else serving.gpus
    _check("batch", serving.batch, 1, 2**20)
    _check("context", serving.context, 1, 2**31)
    _check("output_tokens", serving.output_tokens, 0, serving.context - 1, " (the context holds a prompt as well)")
    _check("gpus", count, 1, every, f" (all that {target.description} has)")
    _check("memory_bandwidth", gpu.memory_bandwidth, 1e6, 1e18)
    return Load(
        shape=serving.shape,
        scheme=_as_read(serving.scheme, serving.shape, serving.runtime),
        kv_dtype=serving.kv_dtype,
        target=target,
        runtime=known.runtime(serving.runtime, gpu.sm),
        tensor_flops=known.tensor_flops.get(gpu.sm, gpu.memory_bandwidth * _FLOPS_PER_BYTE),
        gpus=count,
        batch=serving.batch,
        context=serving.context - serving.output_tokens // 2,
        prompt=serving.context - serving.output_tokens,
        drafter=serving.drafter,
        marlin=uses_marlin(serving),
    )


def _as_read(scheme: Scheme, shape: ModelShape, runtime: str) -> Scheme:
    """Return the scheme of the file that a runtime reads. llama.cpp's gpt-oss has Q8_0 besides MXFP4."""
    if kernels_of(runtime).gguf and scheme.algorithm == "MXFP4" and shape.architecture == GPT_OSS:
        return scheme_of("gguf_mxfp4", kv_cache=scheme.kv_cache)
    return scheme


def step_terms(load: Load, tokens: int = 1) -> dict[Cost, float]:
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
        "host": 1e-3,
    }


def prefill_terms(load: Load, prompt: int) -> dict[Cost, float]:
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
        "host": chunks * 1e-3,
        prefill_cost(load): work * (MARLIN if unpacks_eight_bits(load) else 1.0),
        "prefill_experts": prompt * _expert_flops(shape) / (load.tensor_flops * load.gpus),
    }


def served_terms(load: Load, answer: int, prompts: float) -> dict[Cost, float]:
    """Calculate the terms of a mean step while prompts are read in between, as in every server.

    Args:
        load: What decodes: as many requests as run on average.
        answer: Tokens of each answer.
        prompts: Prompts that are read while one answer is written.
    """
    terms = step_terms(load)
    for name, seconds in prefill_terms(load, load.prompt).items():
        terms[name] = terms.get(name, 0.0) + seconds * prompts / answer
    return terms


def token_seconds(load: Load) -> float:
    """Return the mean time until each request of the batch has one more token."""
    return total(token_terms(load), load.runtime)


def token_terms(load: Load) -> dict[Cost, float]:
    """Calculate the terms of one token of each request: of a step, or of its share in a step that checks drafts."""
    drafter = load.drafter
    if drafter is None:
        return step_terms(load)
    terms = step_terms(load, drafter.tokens + 1)
    read = bytes_of_pass(drafter, load.shape, load.scheme, load.batch**load.runtime.likeness)
    terms["weights"] += drafter.passes * read / load.bandwidth
    terms["launch"] += drafter.passes * _BLOCKS_OF_LAYER * drafter.layers * 1e-6
    return {name: seconds / drafter.tokens_per_step for name, seconds in terms.items()}


def total(terms: Terms, runtime: RuntimeConstants) -> float:
    """Add up the cost of the terms on a runtime, in seconds."""
    return sum(seconds * runtime.costs[name] for name, seconds in terms.items())


def _cache_read(load: Load) -> float:
    """Return the bytes of the KV cache that a step reads for one request."""
    shape = load.shape
    if load.runtime.pads_windows:
        chunk = load.runtime.chunk
        layers = (replace(layer, window=layer.window + chunk) if layer.window else layer for layer in shape.layers)
        shape = replace(shape, layers=tuple(layers))
    return kv_bytes_read(shape, load.context, load.kv_dtype)


def prefill_cost(load: Load) -> Cost:
    """Name the kind of a prompt's products."""
    scheme = load.scheme
    if scheme.gguf is not None and scheme.gguf != "f16":
        return "prefill_block"
    if load.marlin:
        return "prefill_16"
    if scheme.algorithm in _EIGHT_BITS:
        return "prefill_8"
    native = load.runtime.four_bit_products and scheme.algorithm in _FOUR_BIT_PRODUCTS
    return "prefill_4" if native else "prefill_16"


def unpacks_eight_bits(load: Load) -> bool:
    """Tell whether Marlin kernels unpack weights of eight bits."""
    return load.marlin and load.scheme.algorithm in _EIGHT_BITS


@lru_cache(maxsize=512)  # a queue asks for a step many times
def _blocks(shape: ModelShape) -> tuple[int, int]:
    """Count blocks (attention, MLP or experts, recurrence) and the recurrent ones among them.

    Latent attention counts twice: before and after it, the matrix that unpacks keys and values is multiplied with
    queries and results (DeepSeek-V2, arXiv:2405.04434, section 2.1.2), in kernels of their own.
    """
    kinds = {"attention": "attention", "mamba": "mamba", "mlp": "mlp", "expert": "mlp", "shared_expert": "mlp"}
    found = {
        (tensor.layer, kinds[tensor.role])
        for tensor in shape.tensors
        if tensor.layer is not None and tensor.role in kinds
    }
    latent = {tensor.layer for tensor in shape.tensors if "kv_b_proj" in tensor.module and tensor.layer is not None}
    return len(found) + len(latent), sum(kind == "mamba" for _, kind in found)


@lru_cache(maxsize=512)
def _expert_flops(shape: ModelShape) -> float:
    return 2.0 * sum(tensor.elements * tensor.used for tensor in shape.tensors if tensor.role == "expert")


def gpu_of(target: Target) -> Gpu:
    """Return a target's GPU.

    Raises:
        SpeedInputError: It has none.
    """
    if target.gpu is None:
        message = f"{target.description}: it has no GPU, so there is no speed"
        raise SpeedInputError(message, hint="name a target with a GPU")
    return target.gpu


def _check(name: str, value: object, least: float, most: float, why: str = "") -> None:
    if not (isinstance(value, int | float) and math.isfinite(value) and least <= value <= most):
        message = f"{name}: found {value!r:.60}, expected a number from {least:.9g} to {most:.9g}{why}"
        raise SpeedInputError(message)
