"""Describes a model on a server: its memory while it loads and serves, and the requests and context that fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from orchestrator.catalog.target import Target
from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import checkpoint_bytes, kv_bytes, loaded_bytes, state_bytes
from orchestrator.planner.drafting import Drafting, bytes_in_memory
from orchestrator.planner.scheme import KvDtype, Scheme
from orchestrator.units import in_bytes, in_gib
from orchestrator.values import frozen

RUNTIME = "trtllm"
"""The default runtime."""

_TOKENS_PER_STEP = 8192
"""Most tokens in one step: the default of trtllm-serve's --max_num_tokens, and of vLLM and SGLang."""

_SMALL_STEP = 512
"""The same for llama.cpp: its --ubatch-size."""

_FIXED_WORKSPACE = 2**30
"""Assumed, not measured: captured graphs, and scratch space of the libraries."""

_SHARD = 5_000_000_000
"""Bytes of a weight file as ModelOpt and the Hub split them. One is in the page cache while it loads."""

_MOST_REQUESTS = 4096
"""The search for the largest batch ends here."""

EAGER_LOAD = 1.8
"""Factor of the weights that a loader took on a Spark because it pinned all of them at once."""


Kernels = Literal["auto", "native", "marlin"]


@frozen
class Serving:
    """A model in a format, with its machine, its runtime and its requests."""

    shape: ModelShape
    scheme: Scheme
    """The format of the weights."""
    kv_dtype: KvDtype
    """The format of keys and values."""
    target: Target
    target_name: str
    """Its name in sentences."""
    runtime: str
    """`trtllm`, `vllm`, `edge_llm`, `sglang` or `llama.cpp`."""
    batch: int = 1
    """Concurrent requests."""
    context: int = 1024
    """Tokens of each request, prompt and answer."""
    output_tokens: int = 0
    """Tokens of the answer among them. 0: all requests decode at the end of the context, and no prompts come in
    between."""
    kernels: Kernels = "auto"
    """`marlin`: weights of four or eight bits are unpacked and multiplied in 16 bits; `native`: they are not; `auto`:
    what the runtime chooses."""
    rate: float | None = None
    """Requests per second that arrive, if they decided the batch."""
    gpus: int | None = None
    """GPUs that share the weights (tensor parallelism); None: all of the target's."""
    tokens_per_step: int | None = None
    """Most tokens in one step; None: the runtime's default."""
    cache_share: float | None = None
    """Share of the memory left by weights and activations that a server gives its KV cache, as CUDA sees it;
    None: all of the machine's memory is counted.
    """
    draft_bytes: float = 0.0
    """Weights of the draft model. They take memory."""
    drafter: Drafting | None = None
    """None: speeds are those of plain decoding."""

    @property
    def gpu_count(self) -> int:
        """GPUs that share the weights."""
        return self.gpus or gpus_of(self.target)

    @property
    def watts(self) -> float | None:
        """Most power of the GPUs that serve; None if the vendor states none."""
        gpu = self.target.gpu
        return gpu.watts * self.gpu_count if gpu and gpu.watts else None

    @property
    def step_tokens(self) -> int:
        """Most tokens in one step."""
        return self.tokens_per_step or (_SMALL_STEP if self.runtime == "llama.cpp" else _TOKENS_PER_STEP)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the checkpoint's tensors with scales."""
        return checkpoint_bytes(self.shape, self.scheme)

    @property
    def weights(self) -> float:
        """Bytes on each GPU, with those of a draft."""
        drafter = bytes_in_memory(self.drafter, self.shape) if self.drafter else self.draft_bytes
        return (loaded_bytes(self.shape, self.scheme) + drafter) / self.gpu_count

    @property
    def cache(self) -> float:
        """Bytes on each GPU of keys, values and recurrent states of all requests."""
        # A GPU holds at least one key-value head. Latent attention has a single one for all.
        share = min(max(1 / self.gpu_count, 1 / self.shape.key_value_heads), 1.0)
        keys_and_values = kv_bytes(self.shape, self.context, self.kv_dtype) * share
        return self.batch * (keys_and_values + state_bytes(self.shape) / self.gpu_count)

    @property
    def workspace(self) -> float:
        """Bytes on each GPU of activations, logits and scratch space: a formula, not measured.

        A step holds for each token two copies of the residual stream and three of the widest layer (gate, up, product),
        for each expert that a token chooses; then logits of every request in FP32, before and after sampling.
        """
        chosen = max(
            (round(tensor.count * tensor.used) for tensor in self.shape.tensors if tensor.count > 1), default=1
        )
        width = chosen * (2 * self.shape.hidden_size + 3 * self.shape.largest_intermediate / self.gpu_count)
        return _FIXED_WORKSPACE + 2 * self.step_tokens * width + 8 * self.batch * self.shape.vocab_size

    @property
    def peak(self) -> float:
        """Bytes on each GPU if all requests have their whole length. The CUDA context is in the target's reserve."""
        return self.weights + self.cache + self.workspace

    @property
    def file_in_page_cache(self) -> float:
        """Bytes on each GPU that loading takes besides the weights. On unified memory one file is there twice."""
        return min(self.weights, float(_SHARD)) if self.target.unified_memory else 0.0

    @property
    def available(self) -> float:
        """Bytes of one GPU for weights, cache and activations."""
        return memory_per_gpu(self.target)

    @property
    def visible(self) -> float:
        """Bytes of one GPU that CUDA sees."""
        return min(self.available, self.target.cuda_free or self.available)

    @property
    def limit(self) -> float:
        """Bytes of one GPU that are in use if the cache is full."""
        if self.cache_share is None:
            return self.available
        one = replace(self, batch=1)
        fixed = one.weights + one.workspace
        return fixed + max(self.visible - fixed, 0.0) * self.cache_share

    @property
    def max_context(self) -> int:
        """Most tokens that each request of the batch can have, at most the model's maximum; 0 if none fit."""
        limit = self.limit
        return _largest(self.shape.max_position, lambda context: replace(self, context=context).peak <= limit)

    @property
    def max_batch(self) -> int:
        """How many requests of this length fit; 0 if none fits."""
        limit = self.limit
        return _largest(_MOST_REQUESTS, lambda batch: replace(self, batch=batch).peak <= limit)


def memory_per_gpu(target: Target) -> float:
    """Return the bytes of one GPU for weights, caches and activations, without the system's reserve."""
    return memory_per_node(target) / (max(target.gpu.count, 1) if target.gpu else 1)


def memory_per_node(target: Target) -> float:
    """Return the bytes of one node for quantizing and building, which do not use several."""
    return float(target.memory - target.reserve)


def memory_words(target: Target, name: str) -> str:
    """Describe a target's memory for a model and the use of the rest."""
    each = " on each GPU" if gpus_of(target) > 1 else ""
    seen = f"; CUDA sees {in_gib(target.cuda_free)} free at most" if target.cuda_free else ""
    return (
        f"{in_bytes(memory_per_gpu(target))}{each}: {in_gib(target.memory)} of {name} less {in_gib(target.reserve)}"
        f" for the system{seen}"
    )


def gpus_of(target: Target) -> int:
    """Count the GPUs to spread a model over."""
    return (max(target.gpu.count, 1) if target.gpu else 1) * target.nodes


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """Find the largest number up to a limit that fits, if all smaller ones do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
