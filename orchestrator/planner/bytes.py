"""Calculates bytes from a model's shape: stored, read by one step, and added by a sequence. Nothing is estimated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

from orchestrator.models.shape import Memory, ModelShape, Role, Tensor
from orchestrator.planner.scheme import Algorithm, KvDtype, Scheme
from orchestrator.quantization.format_names import FUSED, PAIR_BYTES, PRODUCT_BYTES, PRODUCT_COPIES
from orchestrator.values import frozen

KV_BYTES: dict[KvDtype, float] = {"bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5 + 1 / 16}
"""Bytes of one number in the KV cache; NVFP4 has an 8-bit scale for 16."""

_BLOCKS: dict[Algorithm, tuple[int, int]] = {
    "Q8_0": (32, 34),
    "Q4_0": (32, 18),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Numbers of a block along a row, and its bytes (llama.cpp, ggml-common.h)."""


BESIDE: Mapping[Role, str] = MappingProxyType(
    {
        "vision": "vision",
        "audio": "audio",
        "adapter": "adapters",
        "mtp": "layers that propose tokens (not loaded)",
    }
)
"""Names of the parts beside the layers of text."""


@frozen
class Stored:
    """A tensor as a checkpoint holds it."""

    suffix: str
    """The ending of its name in place of `.weight`, such as `.weight_scale`."""
    dtype: str
    """The type's name in safetensors."""
    shape: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * _ITEM[self.dtype]


_ITEM = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1}


@lru_cache(maxsize=4096)  # layers repeat their shapes
def stored(shape: tuple[int, ...], algorithm: Algorithm, *, native: bool = False) -> tuple[Stored, ...]:
    """Return what one tensor of the unquantized model becomes.

    Args:
        shape: [out, in] of a matrix; any shape if it is not quantized.
        algorithm: The algorithm; none of llama.cpp's.
        native: Use the publisher's names of the scales.
    """
    if algorithm in ("BF16", "F32"):
        return (Stored("", algorithm, shape),)
    if algorithm in _BLOCKS:
        message = f"{algorithm} is a format of llama.cpp's files"
        raise ValueError(message)
    return tuple(_quantized(shape, algorithm, native=native))


def _quantized(shape: tuple[int, ...], algorithm: Algorithm, *, native: bool) -> list[Stored]:
    rows, columns = shape
    match algorithm:
        case "FP8":
            return [Stored("", "F8_E4M3", shape), Stored("_scale", "F32", ()), Stored("input_scale", "F32", ())]
        case "FP8_BLOCK":
            blocks = tuple(-(-size // 128) for size in shape)
            return [Stored("", "F8_E4M3", shape), Stored("_scale_inv", "F32", blocks)]
        case "NVFP4":
            return [*_nvfp4(shape), Stored("input_scale", "F32", ())]
        case "W4A16_NVFP4":
            return _nvfp4(shape)
        case "MXFP4":
            names = ("_blocks", "_scales") if native else ("", "_scale")
            return [Stored(names[0], "U8", (rows, columns // 2)), Stored(names[1], "U8", (rows, -(-columns // 32)))]
        case _:  # INT4_AWQ
            return [
                Stored("", "U8", (rows, -(-columns // 2))),
                Stored("_scale", "BF16", (rows, -(-columns // 128))),
                Stored("pre_quant_scale", "BF16", (columns,)),
            ]


def _nvfp4(shape: tuple[int, ...]) -> list[Stored]:
    rows, columns = shape
    return [
        Stored("", "U8", (rows, -(-columns // 2))),
        Stored("_scale", "F8_E4M3", (rows, -(-columns // 16))),
        Stored("_scale_2", "F32", ()),
    ]


def tensor_bytes(tensor: Tensor, scheme: Scheme, layers: int) -> int:
    """Return the bytes of a tensor, of all experts together, with its scales."""
    if scheme.as_stored and tensor.stored is not None:
        return tensor.stored
    return sum(_bytes_of(tensor.shape, algorithm) * count for algorithm, count in scheme.split(tensor, layers))


@lru_cache(maxsize=4096)
def _bytes_of(shape: tuple[int, ...], algorithm: Algorithm) -> int:
    if algorithm in _BLOCKS:
        block, size = _BLOCKS[algorithm]
        return math.prod(shape[:-1]) * -(-shape[-1] // block) * size
    return sum(part.size for part in stored(shape, algorithm))


def kv_scale_bytes(shape: ModelShape, scheme: Scheme) -> int:
    """Return the bytes of the cache's scales in a checkpoint: one for keys and one for values in each layer."""
    return 8 * shape.attention_layers if scheme.kv_scales and not scheme.as_stored else 0


@lru_cache(maxsize=512)  # a search for the longest context calculates the same sum many times
def _sizes(shape: ModelShape, scheme: Scheme) -> tuple[tuple[int, float, bool], ...]:
    """Return each tensor's bytes, the share that a token reads, and whether serving uses it."""
    layers = len(shape.layers)
    return tuple((tensor_bytes(tensor, scheme, layers), tensor.used, tensor.role != "mtp") for tensor in shape.tensors)


@lru_cache(maxsize=512)
def checkpoint_bytes(shape: ModelShape, scheme: Scheme) -> int:
    """Return the bytes of a checkpoint's tensors with scales, without the files' headers."""
    return sum(size for size, _, _ in _sizes(shape, scheme)) + kv_scale_bytes(shape, scheme)


@lru_cache(maxsize=512)
def loaded_bytes(shape: ModelShape, scheme: Scheme) -> int:
    """Return the bytes of weights in memory while the model serves: without layers that propose tokens."""
    return sum(size for size, _, serves in _sizes(shape, scheme) if serves)


def bytes_beside(shape: ModelShape, scheme: Scheme) -> dict[str, int]:
    """Return the bytes of what is not part of the layers of text, by name."""
    found: dict[str, int] = {}
    for tensor in shape.tensors:
        if tensor.role in BESIDE:
            name = BESIDE[tensor.role]
            found[name] = found.get(name, 0) + tensor_bytes(tensor, scheme, len(shape.layers))
    return found


def largest_layer(shape: ModelShape) -> int:
    """Return the bytes of the largest layer before quantization."""
    sizes: dict[int, int] = {}
    for tensor in shape.tensors:
        if tensor.layer is not None and tensor.role != "mtp":
            each = 4 if tensor.dtype == "F32" else 2
            sizes[tensor.layer] = sizes.get(tensor.layer, 0) + each * tensor.elements
    return max(sizes.values(), default=0)


def input_products(shape: ModelShape) -> int:
    """Return the bytes that GPTQ needs for products of inputs: those of the largest layer, and of one module more."""
    sizes = [
        sum(inputs**2 * count for inputs, count in found) + PRODUCT_COPIES * max(inputs for inputs, _ in found) ** 2
        for found in _inputs_of_layers(shape)
    ]
    return PRODUCT_BYTES * max(sizes, default=0)


def input_pairs(shape: ModelShape) -> int:
    """Return the bytes that `local_hessian` needs for the products of inputs of a block, in the largest layer."""
    sizes = [sum(inputs * count for inputs, count in found) for found in _inputs_of_layers(shape)]
    return PAIR_BYTES * max(sizes, default=0)


def _inputs_of_layers(shape: ModelShape) -> list[list[tuple[int, int]]]:
    """Return, for each layer, the sizes of inputs of quantized modules and how often there is one.

    Modules that runtimes run as one matrix get the same input, and each expert has its own.
    """
    layers: dict[int, dict[str, tuple[int, int]]] = {}
    for tensor in shape.tensors:
        if tensor.quantizable and tensor.layer is not None and tensor.role != "mtp":
            parent, _, leaf = tensor.module.rpartition(".")
            fused = next((names[0] for names in FUSED if leaf in names), leaf)
            layers.setdefault(tensor.layer, {})[f"{parent}.{fused}"] = (tensor.shape[-1], tensor.count)
    return [list(found.values()) for found in layers.values()]


def weights_read_per_step(shape: ModelShape, scheme: Scheme, batch: float = 1) -> float:
    """Return the bytes of weights that one step reads if `batch` requests each get one more token.

    If one token reads the share `u` of a tensor, a step reads 1 - (1 - u)^batch of it: of E experts with k chosen, that
    is the expected number of distinct ones, E (1 - (1 - k/E)^batch), if tokens choose independently and evenly.
    """
    return sum(size * (1 - math.pow(1 - used, batch)) for used, size in _by_use(shape, scheme))


@lru_cache(maxsize=512)  # a queue asks for a step many times
def _by_use(shape: ModelShape, scheme: Scheme) -> tuple[tuple[float, int], ...]:
    """Return the bytes of which a token reads one share, by that share."""
    found: dict[float, int] = {}
    for size, used, _ in _sizes(shape, scheme):
        if used:
            found[used] = found.get(used, 0) + size
    return tuple(found.items())


def weights_read_of(shape: ModelShape, scheme: Scheme, role: Role) -> float:
    """Return the bytes of the weights of one role that a token reads; a tied embedding is also the head."""
    layers, tied = len(shape.layers), not any(tensor.role == "head" for tensor in shape.tensors)
    found = (
        tensor
        for tensor in shape.tensors
        if tensor.role == role or (tied and role == "head" and tensor.role == "embedding" and tensor.used == 1)
    )
    return sum(tensor_bytes(tensor, scheme, layers) * tensor.used for tensor in found)


def kv_bytes_per_token(shape: ModelShape, dtype: KvDtype = "bf16") -> float:
    """Return the bytes that one more token adds to the cache while no window is full."""
    return sum(count * _per_token(layer, dtype) for layer, count in _kinds(shape) if not layer.shared)


def _per_token(layer: Memory, dtype: KvDtype) -> float:
    return layer.values_per_token * KV_BYTES[dtype] + layer.index_bytes_per_token


def kv_bytes(shape: ModelShape, context: int, dtype: KvDtype = "bf16") -> float:
    """Return the bytes of the cache for one sequence of `context` tokens. Layers with a window keep only the window."""
    kept = ((layer, count) for layer, count in _kinds(shape) if not layer.shared)
    return sum(count * _per_token(layer, dtype) * _least(context, layer.window) for layer, count in kept)


def kv_bytes_read(shape: ModelShape, context: int, dtype: KvDtype = "bf16") -> float:
    """Return the bytes of the cache that one step reads for one sequence of `context` tokens."""
    return sum(
        count * layer.values_per_token * KV_BYTES[dtype] * _least(context, layer.window, layer.lookback)
        + count * layer.index_bytes_per_token * context
        for layer, count in _kinds(shape)
    )


def state_bytes(shape: ModelShape) -> int:
    """Return the bytes of recurrent states (Mamba) of one sequence of any length. A step reads and writes them."""
    return sum(
        layer.state_values * shape.state_bytes_per_value + 2 * layer.convolution_values for layer in shape.layers
    )


def flops_per_token(shape: ModelShape, context: int) -> float:
    """Return the floating-point operations of one token after `context` others: two per weight, and attention."""
    kinds = _kinds(shape)
    looks = sum(count * layer.score_width * _least(context, layer.window, layer.lookback) for layer, count in kinds)
    states = sum(count * 3 * layer.state_values for layer, count in kinds)  # decay, input, output
    return 2.0 * (_matrices(shape) + looks + states)


@lru_cache(maxsize=512)
def _kinds(shape: ModelShape) -> tuple[tuple[Memory, int], ...]:
    """Count layers that are alike. A plan asks for their bytes thousands of times."""
    return tuple(Counter(shape.layers).items())


@lru_cache(maxsize=512)
def _matrices(shape: ModelShape) -> float:
    return sum(t.elements * t.used for t in shape.tensors if len(t.shape) > 1 and _multiplies(t))


def _multiplies(tensor: Tensor) -> bool:
    return tensor.role != "embedding" or tensor.used == 1  # a tied embedding is also the head


def _least(context: int, *limits: int | None) -> int:
    return min([context, *(limit for limit in limits if limit is not None)])


@dataclass(frozen=True, slots=True)
class Kept:
    """The tensors of a checkpoint for one tensor of the unquantized model."""

    source: str
    """The unquantized tensor's name."""
    quantized: bool
    parts: tuple[tuple[str, Stored], ...]
    """The tensors by name."""


def kept_tensors(shape: ModelShape, scheme: Scheme) -> Iterator[Kept]:
    """Name everything that a checkpoint contains, in ModelOpt's layout or as published.

    With many experts this list has hundreds of thousands of names.
    """
    layers = len(shape.layers)
    for tensor in shape.tensors:
        names = tensor.names()
        for algorithm, count in scheme.split(tensor, layers):
            parts = stored(tensor.shape, algorithm, native=scheme.native)
            for _ in range(1 if tensor.stacked else count):
                source = next(names)
                named = tuple((_named(source, part), part) for part in parts)
                yield Kept(source, len(parts) > 1, named + _cache_scales(source, scheme))


def stored_tensors(shape: ModelShape, scheme: Scheme) -> Iterator[tuple[str, Stored]]:
    """Name every tensor of a checkpoint, as `kept_tensors` does."""
    for kept in kept_tensors(shape, scheme):
        yield from kept.parts


def _cache_scales(source: str, scheme: Scheme) -> tuple[tuple[str, Stored], ...]:
    """Return the scales of keys and values, which are written beside the projection of the keys."""
    parent, _, leaf = source.removesuffix(".weight").rpartition(".")
    if not scheme.kv_scales or leaf not in ("k_proj", "qkv_proj", "kv_a_proj_with_mqa"):
        return ()
    scale = Stored("", "F32", ())
    return (f"{parent}.k_proj.k_scale", scale), (f"{parent}.v_proj.v_scale", scale)


def _named(name: str, part: Stored) -> str:
    if part.suffix and not part.suffix.startswith("_"):
        return f"{name.rpartition('.')[0]}.{part.suffix}"
    return name + part.suffix
