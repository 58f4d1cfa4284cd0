"""Calculates the memory of a model while it loads and serves, and the requests and context that fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import kv_bytes, loaded_bytes, state_bytes
from orchestrator.planner.figures import gigabytes
from orchestrator.planner.scheme import KvDtype, Scheme
from orchestrator.planner.shapes.model import ModelShape
from orchestrator.units import in_gib

TOKENS_PER_STEP = 8192
"""Most tokens in one step: the default of trtllm-serve's --max_num_tokens, and of vLLM and SGLang."""

SMALL_STEP = 512
"""The same for llama.cpp: its --ubatch-size."""

FIXED_WORKSPACE = 2**30
"""Assumed, not measured: captured graphs, and scratch space of the libraries."""

SHARD = 5_000_000_000
"""Bytes of a weight file as ModelOpt and the Hub split them. One is in the page cache while it loads."""

EAGER_LOAD = 1.8
"""Factor of the weights that a loader took on a Spark because it pinned all of them at once."""


ONE_BY_ONE = "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL"
"""TensorRT-LLM's variable that makes it load weights one after the other."""


@dataclass(frozen=True)
class Serving:
    """The served model, its requests and its GPUs."""

    shape: ModelShape
    scheme: Scheme
    kv_dtype: KvDtype
    batch: int
    context: int
    """Tokens of each request, prompt and answer."""
    gpus: int = 1
    """GPUs that share the weights (tensor parallelism)."""
    tokens_per_step: int = TOKENS_PER_STEP
    draft: float = 0.0
    """Bytes of the draft's weights."""

    @property
    def weights(self) -> float:
        """Bytes on each GPU."""
        return (loaded_bytes(self.shape, self.scheme) + self.draft) / self.gpus

    @property
    def cache(self) -> float:
        """Bytes on each GPU of keys, values and recurrent states of all requests."""
        return self.batch * self._per_text(self.context)

    @property
    def workspace(self) -> float:
        """Bytes on each GPU of activations, logits and scratch space: a formula, not measured.

        A step holds for each token two copies of the residual stream and three of the widest layer (gate, up, product),
        for each expert that a token chooses; then logits of every request in FP32, before and after sampling.
        """
        chosen = max(
            (round(tensor.count * tensor.used) for tensor in self.shape.tensors if tensor.count > 1), default=1
        )
        width = chosen * (2 * self.shape.hidden_size + 3 * self.shape.largest_intermediate / self.gpus)
        return FIXED_WORKSPACE + 2 * self.tokens_per_step * width + 8 * self.batch * self.shape.vocab_size

    @property
    def peak(self) -> float:
        """Bytes on each GPU if all requests have their whole length. The CUDA context is in the target's reserve."""
        return self.weights + self.cache + self.workspace

    def load_peak(self, target: Target) -> float:
        """Bytes on each GPU while the weights load. On unified memory one file of them is there twice."""
        transient = min(self.weights, SHARD) if target.unified_memory else 0.0
        return self.weights + transient

    def _per_text(self, context: int) -> float:
        # A GPU holds at least one key-value head. Latent attention has a single one for all.
        share = max(1 / self.gpus, 1 / self.shape.key_value_heads)
        return kv_bytes(self.shape, context, self.kv_dtype) * min(share, 1.0) + state_bytes(self.shape) / self.gpus


def room_per_gpu(target: Target) -> float:
    """Return the bytes of one GPU for weights, caches and activations, without the system's reserve."""
    return (target.memory - target.reserve) / (max(target.gpu.count, 1) if target.gpu else 1)


def room_words(target: Target, name: str) -> str:
    """Describe a target's memory for a model and the use of the rest."""
    each = " on each GPU" if gpus_of(target) > 1 else ""
    seen = f"; CUDA sees {in_gib(target.cuda_free)} free at most" if target.cuda_free else ""
    return (
        f"{gigabytes(room_per_gpu(target))}{each}: {in_gib(target.memory)} of {name} less {in_gib(target.reserve)}"
        f" for the system{seen}"
    )


def gpus_of(target: Target) -> int:
    """Count the GPUs to spread a model over."""
    return (max(target.gpu.count, 1) if target.gpu else 1) * target.nodes


def max_context(serving: Serving, room: float) -> int:
    """Return the most tokens that each request of the batch can have, at most the model's maximum; 0 if none fit."""
    return _most(serving.shape.max_position, lambda context: replace(serving, context=context).peak <= room)


def max_batch(serving: Serving, room: float, limit: int = 4096) -> int:
    """Return how many requests of the given length fit; 0 if none fits."""
    return _most(limit, lambda batch: replace(serving, batch=batch).peak <= room)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """Find the largest number up to a limit that fits, if all smaller ones do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
