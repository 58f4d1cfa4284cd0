"""Calculates the peak memory of every phase by its parts, and the target's memory for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import checkpoint_bytes
from orchestrator.planner.figures import Kind, gigabytes, requests
from orchestrator.planner.making import BUILD_BASIS, BUILD_FACTOR, build_capacity
from orchestrator.planner.question import Question
from orchestrator.planner.serving import Serving, room_per_gpu

Phase = Literal["download", "quantize", "evaluate", "convert", "engine_build", "load", "serve"]
Part = Literal["weights", "KV cache", "activations", "the file being read", "draft", "the tool's whole need"]
PARTS: tuple[Part, ...] = get_args(Part)

_DOWNLOAD = 150 * 2**20
"""Memory of a download of any size. `benchmarks/download.py` checks it."""


@dataclass(frozen=True)
class Peak:
    """The memory of one phase: of one GPU for loading and serving, else of one node."""

    parts: Mapping[Part, float]
    """Bytes."""
    room: float
    """Bytes that the target has for it."""
    kind: Kind
    basis: str

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.total <= self.room


def peaks(question: Question) -> dict[Phase, Peak]:
    """Calculate every phase. Serving has the cache of the question's batch and context."""
    target, node = question.target, build_capacity(question.target)
    found: dict[Phase, Peak] = {"download": downloading(target)}
    if question.quantizing:
        made = question.quantizing
        found["quantize"] = Peak({"the tool's whole need": made.value}, node, made.kind, made.basis)
    if question.comparing:
        made = question.comparing
        found["evaluate"] = Peak({"the tool's whole need": made.value}, node, made.kind, made.basis)
    if question.builds_engine:
        weights = question.stored_bytes or checkpoint_bytes(question.shape, question.scheme)
        found["convert"] = found["engine_build"] = building(weights, target)
    serving = question.serving
    found["load"] = _loading(serving, target)
    found["serve"] = _serving(serving, target)
    return found


def pool(question: Question) -> Peak:
    """Calculate serving for a server that reserves its whole share for the cache at start."""
    serving, room = question.serving, room_per_gpu(question.target)
    fixed = serving.weights + serving.workspace
    cache = max(question.cache_room - fixed, 0.0)
    share = 1.0 if question.cache_share is None else question.cache_share
    seen = min(room, question.target.cuda_free or room)
    basis = (
        f"{_words(serving)}; the KV cache reserves {share:.0%} of what they leave of {gigabytes(seen)}"
        f" (serve.kv_cache.free_gpu_memory_fraction)"
    )
    return Peak(_weights(serving) | {"activations": serving.workspace, "KV cache": cache}, room, "formula", basis)


def downloading(target: Target) -> Peak:
    """Calculate a download."""
    basis = "measured: benchmarks/download.py holds it below 150 MiB, whatever is downloaded"
    return Peak({"the tool's whole need": float(_DOWNLOAD)}, build_capacity(target), "measured", basis)


def building(weights: float, target: Target) -> Peak:
    """Calculate the conversion to a TensorRT engine, or its build."""
    need: Mapping[Part, float] = {"the tool's whole need": weights * BUILD_FACTOR}
    return Peak(need, build_capacity(target), "measured", BUILD_BASIS)


def _loading(serving: Serving, target: Target) -> Peak:
    twice = serving.load_peak(target) - serving.weights
    parts: dict[Part, float] = {**_weights(serving), **({"the file being read": twice} if twice else {})}
    also = ", and one file of them in the page cache besides" if twice else ""
    each = f", on each of {serving.gpus} GPUs" if serving.gpus > 1 else ""
    return Peak(parts, room_per_gpu(target), "exact", f"weights{also}{each}")


def _serving(serving: Serving, target: Target) -> Peak:
    parts: dict[Part, float] = {
        **_weights(serving),
        "activations": serving.workspace,
        "KV cache": serving.cache,
    }
    cached = f"{requests(serving.batch)} of {serving.context:,} tokens"
    basis = f"{_words(serving)}; cache {gigabytes(serving.cache)} for {cached}"
    return Peak(parts, room_per_gpu(target), "formula", basis)


def _weights(serving: Serving) -> dict[Part, float]:
    draft = serving.draft / serving.gpus
    return {"weights": serving.weights - draft, **({"draft": draft} if draft else {})}


def _words(serving: Serving) -> str:
    return (
        f"weights {gigabytes(serving.weights)}; activations and scratch {gigabytes(serving.workspace)} by formula for"
        f" steps of {serving.tokens_per_step} tokens"
    )
