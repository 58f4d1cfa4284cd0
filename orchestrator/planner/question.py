"""What one asks of the planner: a model as it is stored, on a machine, by an engine, for so many texts so long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.catalog.target import Target
from orchestrator.planner.figures import Figure
from orchestrator.planner.scheme import KvDtype, Scheme
from orchestrator.planner.serving import SMALL_STEP, TOKENS_PER_STEP, Serving, gpus_of, room_per_gpu
from orchestrator.planner.shapes.model import ModelShape


@dataclass(frozen=True)
class Question:
    """What is asked."""

    shape: ModelShape
    scheme: Scheme
    """How the weights are stored."""
    kv_dtype: KvDtype
    """How keys and values are."""
    target: Target
    target_name: str
    """As it is called in sentences."""
    engine: str
    """`trtllm`, `vllm`, `sglang` or `llama.cpp`."""
    batch: int = 1
    """Texts at once."""
    context: int = 1024
    """Tokens of each; the length of a prompt."""
    gpus: int | None = None
    """That share the model; None: all of the target's."""
    quantizing: Figure | None = None
    """Peak memory of the step that makes this format; None where the weights come in it."""
    comparing: Figure | None = None
    """Peak memory of the step that compares with the original; None where nothing is compared."""
    builds_engine: bool = False
    tokens_per_step: int | None = None
    """Tokens that one step takes at most; None: the engine's default."""
    cache_share: float | None = None
    """What a server gives its KV cache of what weights and activations leave of the memory that CUDA sees free;
    None: all that the machine has is counted."""
    draft_bytes: float = 0.0
    """Weights that propose tokens. They take memory; speeds are those of plain decoding."""
    stored_bytes: int | None = None
    """Bytes of the checkpoint's tensors, where its headers were read; else they are counted from the shape."""

    @property
    def cache_room(self) -> float:
        """Bytes of one GPU that are in use when the cache has all that it may have."""
        room = room_per_gpu(self.target)
        if self.cache_share is None:
            return room
        serving = replace(self.serving, batch=1)
        fixed = serving.weights + serving.workspace
        seen = min(room, self.target.cuda_free or room)
        return fixed + max(seen - fixed, 0.0) * self.cache_share

    @property
    def serving(self) -> Serving:
        """What is in memory when it serves."""
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
