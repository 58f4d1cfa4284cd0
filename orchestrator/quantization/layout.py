"""What a model's tensors are called, which of them are quantized and which belong together.

Names, shapes and fusion follow from the architecture in `config.json`. All architectures known here are built like
Llama: a stack of layers with `self_attn.{q,k,v,o}_proj` and `mlp.{gate,up,down}_proj`. Some store projections that
engines fuse as one matrix already, some have many experts in place of one MLP.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"

# Engines load these as one matrix, with one scale: TensorRT-LLM asserts that the scales of the parts are equal.
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))

_GATED = ("gate_proj", "up_proj")

# Routers choose experts; their matrices are small and decide much. As ModelOpt's default recipes name them.
_ROUTERS = ("*.mlp.gate", "*.block_sparse_moe.gate")

ALGORITHMS = ("W4A16_NVFP4", "NVFP4", "FP8")
"""Ways of ModelOpt to quantize whose tensors are known here."""

_STORED_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Experts:
    """What many small MLPs in place of one are called."""

    block: str
    """The module of a layer that holds the router `gate` and `experts.0`, `experts.1`, …"""
    gate: str
    up: str
    down: str
    count: tuple[str, ...]
    """The keys of the configuration that may say how many there are."""
    size: str
    """The key that says how many inner numbers each has."""


@dataclass(frozen=True)
class Architecture:
    """How one class of models differs from Llama."""

    attention_bias: Callable[[Mapping[str, Any]], tuple[str, ...]]
    """From the configuration, the projections of the attention that have a bias."""
    query_key_norm: bool = False
    """Queries and keys are normalized per head."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Of the numbers between the parts of a layer."""
    fused: bool = False
    """Queries, keys and values are one matrix, gate and up are another."""
    experts: Experts | None = None
    tied: bool = False
    """The head is the embedding where the configuration does not say."""
    scaled_embedding: bool = False
    """The embedding is a class of its own, which ModelOpt does not list among what is not quantized."""


def _biased_if_configured(config: Mapping[str, Any]) -> tuple[str, ...]:
    return ("q_proj", "k_proj", "v_proj", "o_proj") if config.get("attention_bias") else ()


def _unbiased(config: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001 - one of several rules
    return ()


def _biased_inputs(config: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001 - one of several rules
    return ("q_proj", "k_proj", "v_proj")


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(_biased_if_configured),
    "MistralForCausalLM": Architecture(_unbiased),
    "Qwen2ForCausalLM": Architecture(_biased_inputs),
    "Qwen3ForCausalLM": Architecture(_biased_if_configured, query_key_norm=True),
    "Qwen3MoeForCausalLM": Architecture(
        _biased_if_configured,
        query_key_norm=True,
        experts=Experts(
            "mlp", "gate_proj", "up_proj", "down_proj", ("num_experts", "num_local_experts"), "moe_intermediate_size"
        ),
    ),
    "MixtralForCausalLM": Architecture(
        _unbiased, experts=Experts("block_sparse_moe", "w1", "w3", "w2", ("num_local_experts",), "intermediate_size")
    ),
    "Gemma3ForCausalLM": Architecture(
        _biased_if_configured,
        query_key_norm=True,
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        tied=True,
        scaled_embedding=True,
    ),
    "Phi3ForCausalLM": Architecture(_unbiased, fused=True),
}


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the architecture that a `config.json` declares, known here or not.

    Raises:
        CheckpointError: It does not declare exactly one.
    """
    declared = config.get("architectures")
    if not isinstance(declared, list) or len(declared) != 1 or not isinstance(declared[0], str):
        message = f"config.json: architectures: found {declared!r}, expected a list with one name"
        raise CheckpointError(message)
    return declared[0]


def expected_tensors(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Return every tensor that an unquantized checkpoint of this configuration has, by name.

    Raises:
        CheckpointError: The architecture is not known, or the configuration lacks a dimension.
    """
    name = architecture_of(config)
    if name not in ARCHITECTURES:
        message = f"config.json: architectures: found {name}, whose tensors are not known here"
        raise CheckpointError(message, hint=f"Known architectures: {', '.join(ARCHITECTURES)}.")
    dtype = _stored_type(config)
    return {name: TensorSpec(name, dtype, shape) for name, shape in _shapes(ARCHITECTURES[name], config).items()}


def _stored_type(config: Mapping[str, Any]) -> str:
    # transformers 5 says dtype, 4 said torch_dtype; either defaults to FP32.
    declared = config.get("dtype") or config.get("torch_dtype") or "float32"
    if declared not in _STORED_TYPES:
        message = f"config.json: dtype: found {declared!r}, expected one of {', '.join(_STORED_TYPES)}"
        raise CheckpointError(message)
    return _STORED_TYPES[declared]


def _shapes(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, vocabulary = _dimension(config, "hidden_size"), _dimension(config, "vocab_size")
    shapes: dict[str, tuple[int, ...]] = {f"{EMBEDDING}.weight": (vocabulary, hidden)}
    for layer in range(_dimension(config, "num_hidden_layers")):
        for name, shape in _layer_shapes(architecture, config, layer).items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", architecture.tied):
        shapes[f"{HEAD}.weight"] = (vocabulary, hidden)
    return shapes


def _layer_shapes(architecture: Architecture, config: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    hidden = _dimension(config, "hidden_size")
    attention, head = _attention_shapes(architecture, config)
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
    shapes.update(_mlp_shapes(architecture, config, layer))
    shapes.update({f"{norm}.weight": (hidden,) for norm in architecture.norms})
    for name in architecture.attention_bias(config):
        shapes[f"self_attn.{name}.bias"] = attention[name][:1]
    if architecture.query_key_norm:
        shapes.update({"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)})
    return shapes


def _attention_shapes(architecture: Architecture, config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the projections of the attention, and how many numbers one head has."""
    hidden, heads = _dimension(config, "hidden_size"), _dimension(config, "num_attention_heads")
    key_heads = _dimension(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    head = _dimension(config, "head_dim") if config.get("head_dim") else hidden // heads
    inputs: dict[str, tuple[int, ...]] = {
        "q_proj": (heads * head, hidden),
        "k_proj": (key_heads * head, hidden),
        "v_proj": (key_heads * head, hidden),
    }
    if architecture.fused:
        inputs = {"qkv_proj": ((heads + 2 * key_heads) * head, hidden)}
    return {**inputs, "o_proj": (hidden, heads * head)}, head


def _mlp_shapes(architecture: Architecture, config: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    hidden = _dimension(config, "hidden_size")
    experts = architecture.experts
    if experts and _has_experts(config, layer):
        said = next((key for key in experts.count if key in config), experts.count[0])
        inner, count = _dimension(config, experts.size), _dimension(config, said)
        router: dict[str, tuple[int, ...]] = {f"{experts.block}.gate.weight": (count, hidden)}
        parts = {experts.gate: (inner, hidden), experts.up: (inner, hidden), experts.down: (hidden, inner)}
        return router | {
            f"{experts.block}.experts.{number}.{name}.weight": shape
            for number in range(count)
            for name, shape in parts.items()
        }
    inner = _dimension(config, "intermediate_size")
    inputs = {"gate_up_proj": (2 * inner, hidden)} if architecture.fused else dict.fromkeys(_GATED, (inner, hidden))
    mlp: dict[str, tuple[int, ...]] = {**inputs, "down_proj": (hidden, inner)}
    shapes = {f"mlp.{name}.weight": shape for name, shape in mlp.items()}
    if config.get("mlp_bias"):
        shapes.update({f"mlp.{name}.bias": shape[:1] for name, shape in mlp.items()})
    return shapes


def _has_experts(config: Mapping[str, Any], layer: int) -> bool:
    """Say whether a layer of a model with experts has them: some configurations leave layers out."""
    dense = config.get("mlp_only_layers") or []
    return layer not in dense and (layer + 1) % int(config.get("decoder_sparse_step") or 1) == 0


def _dimension(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        message = f"config.json: {key}: found {value!r}, expected a whole number from 1"
        raise CheckpointError(message)
    return value


def is_redundant(name: str, expected: Container[str]) -> bool:
    """Say whether a tensor of a checkpoint only repeats what the expected ones and the configuration say.

    Some checkpoints store the head although it is tied to the embedding, old ones also the rotation frequencies.
    Engines ignore both, and ModelOpt does not export them.
    """
    return name not in expected and (name == f"{HEAD}.weight" or name.endswith(".rotary_emb.inv_freq"))


def linears(tensors: Iterable[TensorSpec]) -> list[str]:
    """Return the modules whose weights can be quantized: the matrices, other than embedding and head, in order.

    The embedding is a table, not a matrix product, and a quantized head breaks several versions of the engines;
    ModelOpt's default recipes leave both alone as well, and routers. (Its other default exclusions are of vision towers
    and state-space layers, which no architecture known here has.)
    """
    return [module for module in _matrices(tensors) if not matches(module, _ROUTERS)]


def _matrices(tensors: Iterable[TensorSpec]) -> list[str]:
    modules = (tensor.name.removesuffix(".weight") for tensor in tensors if _is_matrix(tensor))
    return [module for module in modules if module not in (EMBEDDING, HEAD)]


def _is_matrix(tensor: TensorSpec) -> bool:
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2  # noqa: PLR2004 - out and in


@dataclass(frozen=True)
class Selection:
    """Which linear modules of a model are quantized."""

    groups: tuple[tuple[str, ...], ...]
    """Quantized modules in order; those of one group are fused by engines and share `weight_scale_2`."""
    excluded: tuple[str, ...]
    """Linear modules that stay as they are, with embedding and head."""

    @property
    def quantized(self) -> frozenset[str]:
        """All quantized modules."""
        return frozenset(module for group in self.groups for module in group)


def select(tensors: Sequence[TensorSpec], exclude: Sequence[str] = ()) -> Selection:
    """Choose what is quantized.

    Args:
        tensors: The unquantized model's.
        exclude: Shell patterns (`*`, `?`, `[…]`) of module names, such as `model.layers.0.*`, that stay as they are.

    Raises:
        RecipeInvalidError: A pattern matches nothing, or only a part of what engines fuse.
    """
    modules = linears(tensors)
    for pattern in exclude:
        if not any(matches(module, [pattern]) for module in (*modules, EMBEDDING, HEAD)):
            message = f"quantization.exclude: {pattern!r} matches no linear module of this model"
            raise RecipeInvalidError(message, hint=f"Modules are called like {modules[0] if modules else HEAD}.")
    quantized = [module for module in modules if not matches(module, exclude)]
    groups = fusion_groups(modules)
    for group in groups:
        kept = [module for module in group if module not in quantized]
        if 0 < len(kept) < len(group):
            message = (
                f"quantization.exclude: {', '.join(kept)} would stay as it is while the rest of"
                f" {', '.join(group)} is quantized; engines fuse these into one matrix"
            )
            raise RecipeInvalidError(message, hint="Exclude all of them or none.")
    return Selection(
        groups=tuple(group for group in groups if group[0] in quantized),
        excluded=(EMBEDDING, *(module for module in _matrices(tensors) if module not in quantized), HEAD),
    )


def matches(module: str, patterns: Iterable[str]) -> bool:
    """Say whether a module's name matches one of the shell patterns."""
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def fusion_groups(modules: Iterable[str]) -> list[tuple[str, ...]]:
    """Gather modules that engines fuse: q, k and v; gate and up. Others are groups of one."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for module in modules:
        parent, _, leaf = module.rpartition(".")
        kind = next((names for names in _FUSED if leaf in names), (leaf,))
        groups.setdefault((parent, kind), []).append(module)
    return [tuple(group) for group in groups.values()]


def input_group(module: str) -> tuple[str, tuple[str, ...]]:
    """Name the modules that share one `input_scale`: engines give all experts of a layer the same.

    Returns:
        The parent module, without the number of an expert, and the kind of projection; equal for those that share.
    """
    parent, _, leaf = module.rpartition(".")
    return re.sub(r"\.experts\.\d+$", ".experts", parent), next((kind for kind in _FUSED if leaf in kind), (leaf,))


def listed_exclusions(config: Mapping[str, Any], excluded: Iterable[str]) -> list[str]:
    """Return which of the modules that stay as they are ModelOpt lists."""
    architecture = ARCHITECTURES[architecture_of(config)]
    return [module for module in excluded if not (architecture.scaled_embedding and module == EMBEDDING)]


def quantized_specs(weight: TensorSpec, algorithm: str) -> list[TensorSpec]:
    """Return the tensors that a weight of shape [out, in] becomes in a ModelOpt checkpoint.

    Args:
        weight: The unquantized weight.
        algorithm: One of `ALGORITHMS`, as `quant_algo` names it.
    """
    rows, columns = weight.shape
    scale, scale_2 = f"{weight.name}_scale", f"{weight.name}_scale_2"
    activations = TensorSpec(f"{weight.name.removesuffix('weight')}input_scale", "F32", ())
    if algorithm == "FP8":
        return [TensorSpec(weight.name, "F8_E4M3", (rows, columns)), TensorSpec(scale, "F32", ()), activations]
    nvfp4_weight = [
        TensorSpec(weight.name, "U8", (rows, columns // 2)),
        TensorSpec(scale, "F8_E4M3", (rows, columns // nvfp4.BLOCK)),
        TensorSpec(scale_2, "F32", ()),
    ]
    return nvfp4_weight if algorithm == "W4A16_NVFP4" else [*nvfp4_weight, activations]


def exclude_modules(excluded: Iterable[str], quantized: Iterable[str]) -> list[str]:
    """Summarize what is not quantized the way ModelOpt does, for `exclude_modules` and `ignore`.

    Each excluded module is replaced by the shortest pattern that ends at a dot of its name and matches no quantized
    module: `prefix*`, or `prefix.*` where `prefix*` would (layer 1 and layer 10), or the module's own name.
    """
    taken = tuple(quantized)
    return sorted({_summary(module, taken) for module in excluded})


def _summary(module: str, quantized: Sequence[str]) -> str:
    for dot in re.finditer(r"\.", module):
        prefix = module[: dot.start()]
        if not any(other.startswith(prefix) for other in quantized):
            return f"{prefix}*"
        if not any(other == prefix or other.startswith(f"{prefix}.") for other in quantized):
            return f"{prefix}.*"
    return module
