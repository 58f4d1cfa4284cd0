"""Calculates the figures of a server: memory by phase, speed, and limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.planner.bytes import (
    bytes_beside,
    checkpoint_bytes,
    kv_bytes_per_token,
    state_bytes,
    weights_read_per_step,
)
from orchestrator.planner.kernels import limits_of_kernels
from orchestrator.planner.phases import Peak, Phase, peaks
from orchestrator.planner.preparation import Preparation
from orchestrator.planner.queueing import Queue, limits_of_rate
from orchestrator.planner.scheme import scheme_of
from orchestrator.planner.serving import EAGER_LOAD, Serving, memory_words
from orchestrator.planner.speed import Band, speed
from orchestrator.serving.runtimes import runtime_with_costs
from orchestrator.units import in_bytes
from orchestrator.values import frozen

_NO_GPU = "speed: none, because this target has no GPU and cannot serve"


@frozen
class ServingFigures:
    """The figures of a server. Memory is that of one GPU, or of one node for phases that run on one."""

    weights_bytes: int
    active_bytes_per_token: int
    kv_bytes_per_token: float
    fits: bool
    """It loads and serves the requests. Missing memory for the steps before is in `limits`."""
    available_bytes: int
    """The target's memory for it on one GPU."""
    max_context: int
    """Tokens of each request of the batch, at most the model's maximum."""
    max_batch: int
    """Concurrent requests at this context."""
    decode: Band | None
    """Tokens per second, summed over the batch; None without a GPU."""
    queue: Queue | None
    """What the users see; None without a GPU, or if answers have no length."""
    watts: float | None
    """Most power of all GPUs, as the vendor states it; None if it does not."""
    prefill: Band | None
    ceiling: float | None
    """Tokens per second at the peak bandwidth, without other costs; None without a GPU."""
    peaks: Mapping[Phase, Peak]
    """Each phase's memory by its parts."""
    basis: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def peak_memory_bytes(self) -> dict[Phase, int]:
        """Each phase's memory, summed."""
        return {phase: math.ceil(peak.total) for phase, peak in self.peaks.items()}


def serving_figures(serving: Serving, preparation: Preparation | None = None) -> ServingFigures:
    """Calculate a server's figures.

    Args:
        serving: The server and its requests.
        preparation: The steps before serving. Default: none.

    Raises:
        SpeedInputError: A number that no run can have.
        CatalogError: No such runtime.
    """
    before = preparation or Preparation()
    phases = peaks(serving, before)
    found = speed(serving) if serving.target.gpu else None
    fits = phases["load"].fits and phases["serve"].fits
    return ServingFigures(
        weights_bytes=serving.checkpoint_bytes,
        active_bytes_per_token=round(weights_read_per_step(serving.shape, serving.scheme)),
        kv_bytes_per_token=kv_bytes_per_token(serving.shape, serving.kv_dtype),
        fits=fits and serving.context <= serving.shape.max_position,
        available_bytes=math.floor(serving.available),
        max_context=serving.max_context,
        max_batch=serving.max_batch,
        decode=found.decode if found else None,
        queue=found.queue if found else None,
        watts=serving.watts,
        prefill=found.prefill if found else None,
        ceiling=found.ceiling if found else None,
        peaks=phases,
        basis=(
            *_basis(serving, phases, before),
            *(found.basis if found else (_NO_GPU,)),
        ),
        limits=tuple(_limits(serving, phases)),
    )


def to_document(found: ServingFigures) -> dict[str, Any]:
    """Convert figures to JSON: bytes and tokens per second, `null` for speeds without a GPU."""
    return {
        "weights_bytes": found.weights_bytes,
        "active_bytes_per_token": found.active_bytes_per_token,
        "kv_bytes_per_token": round(found.kv_bytes_per_token),
        "fits": found.fits,
        "peak_memory_bytes": found.peak_memory_bytes,
        "max_context": found.max_context,
        "max_batch": found.max_batch,
        "decode_tokens_per_s": asdict(found.decode) if found.decode else None,
        "prefill_tokens_per_s": asdict(found.prefill) if found.prefill else None,
        "watts": found.watts,
        "tokens_per_joule": found.decode.expected / found.watts if found.decode and found.watts else None,
        "basis": list(found.basis),
        "limits": list(found.limits),
    }


def _basis(serving: Serving, phases: Mapping[Phase, Peak], before: Preparation) -> Iterator[str]:
    shape, scheme, quantizes = serving.shape, serving.scheme, before.quantizing is not None
    by_fields = "exact bytes of its tensors" if shape.exact else "a limit by its fields"
    counted = "the headers of its files" if scheme.as_stored else f"{by_fields}, scales included"
    yield (
        f"weights: {counted}: {shape.parameters:,} parameters, {shape.active_parameters:,} read per token,"
        f" in the format of {scheme.name}"
    )
    if beside := bytes_beside(shape, scheme):
        yield "of these beside the layers of text: " + ", ".join(f"{n} {in_bytes(size)}" for n, size in beside.items())
    by_rules = scheme.exclude is None and scheme.modules is None and not scheme.as_stored
    if not quantizes and by_rules and scheme.algorithm != "BF16":
        yield "weights: no list of unquantized modules was given; ModelOpt's default list counts"
    states = state_bytes(shape)
    more = f", and {in_bytes(states)} of recurrent states per request" if states else ""
    yield f"cache: {shape.attention_layers} layers keep keys and values in {serving.kv_dtype}{more}"
    source = checkpoint_bytes(shape, scheme_of("bf16") if quantizes else scheme)
    for phase, peak in phases.items():
        more = f"; {in_bytes(source)} are written to disk" if phase == "download" else ""
        yield f"{phase}: {peak.basis}{more}"
    yield f"available memory: {memory_words(serving.target, serving.target_name)}"
    yield from (f"left out: {note}" for note in shape.notes)
    if not shape.exact:
        yield f"not exact: no entry says what {shape.architecture} fixes in its own code; its weights decide"


def _limits(serving: Serving, phases: Mapping[Phase, Peak]) -> Iterator[str]:
    shape, target = serving.shape, serving.target
    for phase, peak in phases.items():
        if not peak.fits:
            has = in_bytes(peak.available)
            yield f"{phase} needs {in_bytes(peak.total)}, and {serving.target_name} has {has} for it"
    if serving.context > shape.max_position:
        yield f"the model was made for {shape.max_position} tokens, and the context is {serving.context}"
    if target.cuda_free and target.cuda_free < phases["serve"].total <= serving.available:
        yield (
            f"CUDA sees at most {in_bytes(target.cuda_free)} free on a fresh boot: drop the page cache before"
            " the server starts, and give it less"
        )
    runtime = runtime_with_costs(serving.runtime)
    variable = runtime.LOADS_ONE_BY_ONE if runtime else None
    if variable and target.unified_memory and phases["load"].total <= serving.available < EAGER_LOAD * serving.weights:
        yield (f"a loader that takes {EAGER_LOAD} times the weights at once would not fit: set {variable}=1")
    yield from limits_of_rate(serving)
    yield from limits_of_kernels(serving)
