"""Calculates the peak memory of every phase by its parts, and the target's memory for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from orchestrator.catalog.target import Target
from orchestrator.planner.figures import Figure, Kind, requests
from orchestrator.planner.preparation import ENGINE_BASIS, ENGINE_PEAK, ENGINE_WEIGHTS, Preparation
from orchestrator.planner.serving import Serving, memory_per_node
from orchestrator.units import in_bytes
from orchestrator.values import frozen

Phase = Literal["download", "quantize", "evaluate", "convert", "engine_build", "load", "serve"]
Part = Literal["weights", "KV cache", "activations", "the file being read", "draft", "the tool's whole need"]
PARTS: tuple[Part, ...] = get_args(Part)

PHASES: Mapping[str, Phase] = {
    "quantize": "quantize",
    "convert": "convert",
    "engine": "engine_build",
    "evaluate": "evaluate",
    "candidates": "evaluate",
    "verify": "load",
    "benchmark": "serve",
}
"""Phases of the plan by step. Every other step downloads."""

_DOWNLOAD = 150 * 2**20
"""Memory of a download of any size. `benchmarks/download.py` checks it."""


@frozen
class Peak:
    """The memory of one phase: of one GPU for loading and serving, else of one node."""

    parts: Mapping[Part, float]
    """Bytes."""
    available: float
    """Bytes that the target has for it."""
    kind: Kind
    basis: str
    least: float | None = None
    """Bytes that it needs at least, if what is known leaves a range; `parts` then has the upper end."""

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it fits for certain."""
        return self.total <= self.available

    @property
    def may_fit(self) -> bool:
        """Whether the lower end of its range fits."""
        return (self.total if self.least is None else self.least) <= self.available


def peaks(serving: Serving, preparation: Preparation) -> dict[Phase, Peak]:
    """Calculate every phase. Serving has the cache of its batch and context."""
    found = preparing(preparation, serving.checkpoint_bytes, serving.target)
    return found | {"load": loading(serving), "serve": _serving(serving)}


def preparing(preparation: Preparation, weights: float, target: Target) -> dict[Phase, Peak]:
    """Calculate the phases before loading.

    Args:
        preparation: The steps.
        weights: Bytes of the served weights.
        target: The machine.
    """
    found: dict[Phase, Peak] = {"download": _downloading(target)}
    if preparation.quantizing:
        found["quantize"] = _whole(preparation.quantizing, target)
    if preparation.comparing:
        found["evaluate"] = _whole(preparation.comparing, target)
    if preparation.builds_engine:
        found["convert"] = found["engine_build"] = building(weights, target)
    return found


def peak_words(peak: Peak) -> str:
    """Write how much a phase needs: one figure, or a range."""
    total = in_bytes(peak.total)
    return total if peak.least is None else f"{in_bytes(peak.least).split()[0]}-{total}"


def loading(serving: Serving) -> Peak:
    """Calculate loading. On unified memory one file of the weights is in memory twice."""
    twice = serving.file_in_page_cache
    parts: dict[Part, float] = {**_weights(serving), **({"the file being read": twice} if twice else {})}
    also = ", and one file of them in the page cache besides" if twice else ""
    each = f", on each of {serving.gpu_count} GPUs" if serving.gpu_count > 1 else ""
    kind: Kind = "exact" if serving.shape.exact else "formula"
    return Peak(parts, serving.available, kind, f"weights{also}{each}")


def serving_full(serving: Serving) -> Peak:
    """Calculate serving for a server that reserves its whole share for the cache at start."""
    cache = max(serving.limit - (serving.weights + serving.workspace), 0.0)
    share = 1.0 if serving.cache_share is None else serving.cache_share
    basis = (
        f"{_words(serving)}; the KV cache reserves {share:.0%} of what they leave of {in_bytes(serving.visible)}"
        f" (serve.kv_cache.free_gpu_memory_fraction)"
    )
    parts: dict[Part, float] = {"activations": serving.workspace, "KV cache": cache}
    return Peak(_weights(serving) | parts, serving.available, "formula", basis)


def building(weights: float, target: Target) -> Peak:
    """Calculate the conversion to a TensorRT engine, or its build.

    One measurement does not tell what grows with the model from what does not. The range has both extremes: everything
    grows, or only two copies of the weights do.
    """
    ends = (weights * ENGINE_PEAK / ENGINE_WEIGHTS, 2 * weights + ENGINE_PEAK - 2 * ENGINE_WEIGHTS)
    return replace(_whole(Figure(max(ends), "B", ENGINE_BASIS, "measured"), target), least=min(ends))


def _downloading(target: Target) -> Peak:
    basis = "measured: benchmarks/download.py holds it below 150 MiB, whatever is downloaded"
    return _whole(Figure(float(_DOWNLOAD), "B", basis, "measured"), target)


def _whole(need: Figure, target: Target) -> Peak:
    """Return the memory of a step on one node, whose parts are not known."""
    return Peak({"the tool's whole need": need.value}, memory_per_node(target), need.kind, need.basis)


def _serving(serving: Serving) -> Peak:
    parts: dict[Part, float] = {
        **_weights(serving),
        "activations": serving.workspace,
        "KV cache": serving.cache,
    }
    cached = f"{requests(serving.batch)} of {serving.context:,} tokens"
    basis = f"{_words(serving)}; cache {in_bytes(serving.cache)} for {cached}"
    return Peak(parts, serving.available, "formula", basis)


def _weights(serving: Serving) -> dict[Part, float]:
    draft = serving.draft_bytes / serving.gpu_count
    return {"weights": serving.weights - draft, **({"draft": draft} if draft else {})}


def _words(serving: Serving) -> str:
    return (
        f"weights {in_bytes(serving.weights)}; activations and scratch {in_bytes(serving.workspace)} by formula for"
        f" steps of {serving.step_tokens} tokens"
    )
