"""Defines a question to the planner: a model and its format, a machine, a runtime, and the requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.catalog.target import Target
from orchestrator.planner.figures import Figure
from orchestrator.planner.scheme import KvDtype, Scheme
from orchestrator.planner.serving import SMALL_STEP, TOKENS_PER_STEP, Serving, gpus_of, room_per_gpu
from orchestrator.planner.shapes.model import ModelShape


@dataclass(frozen=True)
class Question:
    """The question."""

    shape: ModelShape
    scheme: Scheme
    """The format of the weights."""
    kv_dtype: KvDtype
    """The format of keys and values."""
    target: Target
    target_name: str
    """Its name in sentences."""
    engine: str
    """`trtllm`, `vllm`, `sglang` or `llama.cpp`."""
    batch: int = 1
    """Concurrent requests."""
    context: int = 1024
    """Tokens of each; the length of a prompt."""
    gpus: int | None = None
    """GPUs that share the model; None: all of the target's."""
    quantizing: Figure | None = None
    """Peak memory of the step that makes this format; None if the weights are published in it."""
    comparing: Figure | None = None
    """Peak memory of the step that compares with the original; None if nothing is compared."""
    builds_engine: bool = False
    tokens_per_step: int | None = None
    """Most tokens in one step; None: the runtime's default."""
    cache_share: float | None = None
    """Share of the memory left by weights and activations that a server gives its KV cache, as CUDA sees it;
    None: all of the machine's memory is counted.
    """
    draft_bytes: float = 0.0
    """Weights of the draft model. They take memory; speeds are those of plain decoding."""
    stored_bytes: int | None = None
    """Bytes of the checkpoint's tensors, if its headers were read; else they are calculated from the shape."""

    @property
    def cache_room(self) -> float:
        """Bytes of one GPU that are in use if the cache is full."""
        room = room_per_gpu(self.target)
        if self.cache_share is None:
            return room
        serving = replace(self.serving, batch=1)
        fixed = serving.weights + serving.workspace
        seen = min(room, self.target.cuda_free or room)
        return fixed + max(seen - fixed, 0.0) * self.cache_share

    @property
    def serving(self) -> Serving:
        """The memory of serving."""
        return Serving(
            self.shape,
            self.scheme,
            self.kv_dtype,
            batch=self.batch,
            context=self.context,
            gpus=self.gpus or gpus_of(self.target),
            tokens_per_step=self.tokens_per_step or (SMALL_STEP if self.engine == "llama.cpp" else TOKENS_PER_STEP),
            draft=self.draft_bytes,
        )
