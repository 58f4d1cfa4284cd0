"""Memory of a model while it loads and serves, and how long and how many texts it has room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import kv_bytes, loaded_bytes, state_bytes
from orchestrator.planner.figures import gigabytes
from orchestrator.planner.scheme import KvDtype, Scheme
from orchestrator.planner.shapes.model import ModelShape

TOKENS_PER_STEP = 8192
"""Tokens that one step takes at most: the default of trtllm-serve's --max_num_tokens, and of vLLM and SGLang."""

SMALL_STEP = 512
"""The same for llama.cpp: its --ubatch-size."""

FIXED_WORKSPACE = 2**30
"""Assumed, not measured: captured graphs, and scratch space of the libraries."""

SHARD = 5_000_000_000
"""Bytes of a weights file as ModelOpt and the Hub cut them: one is in the page cache while it loads."""

EAGER_LOAD = 1.8
"""Times the weights that a loader has been seen to take on a Spark which pinned all of them at once."""


ONE_BY_ONE = "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL"
"""TensorRT-LLM's variable that makes it load weights one after the other."""


@dataclass(frozen=True)
class Serving:
    """What is served, to whom, on how many GPUs."""

    shape: ModelShape
    scheme: Scheme
    kv_dtype: KvDtype
    batch: int
    context: int
    """Tokens of each text, question and answer."""
    gpus: int = 1
    """They share the weights (tensor parallelism)."""
    tokens_per_step: int = TOKENS_PER_STEP
    draft: float = 0.0
    """Bytes of the weights that propose tokens."""

    @property
    def weights(self) -> float:
        """Bytes on each GPU."""
        return (loaded_bytes(self.shape, self.scheme) + self.draft) / self.gpus

    @property
    def cache(self) -> float:
        """Bytes on each GPU of keys, values and recurrent states, of all texts."""
        return self.batch * self._per_text(self.context)

    @property
    def workspace(self) -> float:
        """Bytes on each GPU of activations, logits and scratch space: a formula, not measured.

        A step holds for each token two copies of the residual stream and three of the widest layer (gate, up, product),
        for each expert that a token chooses; then logits of every text in FP32, before and after sampling.
        """
        chosen = max(
            (round(tensor.count * tensor.used) for tensor in self.shape.tensors if tensor.count > 1), default=1
        )
        width = chosen * (2 * self.shape.hidden_size + 3 * self.shape.largest_intermediate / self.gpus)
        return FIXED_WORKSPACE + 2 * self.tokens_per_step * width + 8 * self.batch * self.shape.vocab_size

    @property
    def peak(self) -> float:
        """Bytes on each GPU when all texts have their whole length; the CUDA context is in the target's reserve."""
        return self.weights + self.cache + self.workspace

    def load_peak(self, target: Target) -> float:
        """Bytes on each GPU while the weights arrive; on unified memory one file of them is there twice."""
        transient = min(self.weights, SHARD) if target.unified_memory else 0.0
        return self.weights + transient

    def _per_text(self, context: int) -> float:
        # A GPU holds at least one key-value head; latent attention has a single one for all.
        share = max(1 / self.gpus, 1 / self.shape.key_value_heads)
        return kv_bytes(self.shape, context, self.kv_dtype) * min(share, 1.0) + state_bytes(self.shape) / self.gpus


def room_per_gpu(target: Target) -> float:
    """Give the bytes of one GPU for weights, caches and activations: without the reserve of the system."""
    return (target.memory - target.reserve) / (max(target.gpu.count, 1) if target.gpu else 1)


def room_words(target: Target, name: str) -> str:
    """Say what a target has for a model, and what became of the rest."""
    each = " on each GPU" if gpus_of(target) > 1 else ""
    seen = f"; CUDA sees {_gib(target.cuda_free)} free at most" if target.cuda_free else ""
    return (
        f"{gigabytes(room_per_gpu(target))}{each}: {_gib(target.memory)} of {name} less {_gib(target.reserve)}"
        f" for the system{seen}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.4g} GiB"


def gpus_of(target: Target) -> int:
    """Count what a model can be spread over."""
    return (max(target.gpu.count, 1) if target.gpu else 1) * target.nodes


def max_context(serving: Serving, room: float) -> int:
    """Give the most tokens that each of the batch's texts can have, at most what it was made for; 0 where none fit."""
    return _most(serving.shape.max_position, lambda context: replace(serving, context=context).peak <= room)


def max_batch(serving: Serving, room: float, limit: int = 4096) -> int:
    """Give the most texts of the given length that fit; 0 where not one does."""
    return _most(limit, lambda batch: replace(serving, batch=batch).peak <= room)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """Find the largest number up to a limit that fits, if all smaller ones do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
