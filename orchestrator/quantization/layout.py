"""Determines which tensors of a model are quantized, how they are grouped, and what they become.

The possible modules follow from the architecture, see `architectures`. Exclusions follow from
ModelOpt's default rules and the recipe.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.quantization import architectures
from orchestrator.quantization.architectures import ARCHITECTURES, HEAD, architecture_of
from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from orchestrator.quantization.architectures import Config

__all__ = ["ARCHITECTURES", "HEAD", "architecture_of"]

# Modules that share `weight_scale_2`, because runtimes load them as one matrix: TensorRT-LLM asserts that the scales of
# the parts are equal. A latent attention's first projections are such a matrix, too.
_FUSED = (
    ("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)

# If one norm feeds attention and MLP, ModelOpt lets the first projections of both share `weight_scale_2`, because they
# get the same tensor. Runtimes do not fuse these, so the module is separate where it is fused elsewhere.
_SAME_INPUT = {("mlp", "fc1"): ("self_attn", _FUSED[0])}

# What ModelOpt's default recipes exclude in supported architectures: routers, which
# choose experts; and small parts of recurrent layers, on which everything after them depends.
_SENSITIVE = (
    "*.mlp.gate",
    "*.block_sparse_moe.gate",
    "*.mixer.gate",
    "*.mlp.shared_expert_gate",
    "*.conv1d",
    "*.linear_attn.in_proj_a*",
    "*.linear_attn.in_proj_b*",
)

ALGORITHMS = ("W4A16_NVFP4", "NVFP4", "FP8")
"""ModelOpt's supported algorithms."""

_STORED_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_MATRIX = 2
"""A linear module's weight has outputs and inputs."""


def expected_tensors(config: Config) -> dict[str, TensorSpec]:
    """Return every tensor that an unquantized checkpoint of this configuration has, by name.

    All have the type that the configuration declares. A checkpoint may store some of them, such as routers and norms,
    in another type.

    Raises:
        CheckpointError: The architecture is not known, or the configuration lacks a dimension.
    """
    architecture = architectures.known(config)
    dtype = declared_type(config) or "F32"  # the default of transformers
    return {name: TensorSpec(name, dtype, shape) for name, shape in architecture.tensors(config).items()}


def declared_type(config: Config) -> str | None:
    """Return the type that a configuration declares for the whole model; None if it declares none.

    Raises:
        CheckpointError: A model cannot compute in that type.
    """
    declared = config.get("dtype") or config.get("torch_dtype")  # the words of transformers 5 and 4
    if declared is None:
        return None
    if declared not in _STORED_TYPES:
        message = f"config.json: dtype: found {declared!r}, expected one of {', '.join(_STORED_TYPES)}"
        raise CheckpointError(message)
    return _STORED_TYPES[declared]


def is_redundant(name: str, expected: Container[str]) -> bool:
    """Tell whether a tensor of a checkpoint only repeats other tensors or the configuration.

    Some checkpoints store the head although it is tied to the embedding, old ones also the rotation frequencies.
    Runtimes ignore both, and ModelOpt does not export them.
    """
    return name not in expected and (name == f"{HEAD}.weight" or name.endswith(".rotary_emb.inv_freq"))


def linears(tensors: Iterable[TensorSpec]) -> list[str]:
    """Return the modules that can be quantized, in order: matrices other than embedding and head.

    The embedding is a table, not a matrix product, and a quantized head breaks several versions of the runtimes.
    ModelOpt's default recipes exclude both as well, and sensitive modules, see above. (Its other default exclusions
    are of vision towers, which no supported architecture has.)
    """
    specs = {spec.name.removesuffix(".weight"): spec for spec in tensors if _is_weight(spec)}
    modules = [module for module, spec in specs.items() if len(spec.shape) == _MATRIX and not _is_table(module)]
    return [module for module in modules if not matches(module, _SENSITIVE)]


def _is_weight(tensor: TensorSpec) -> bool:
    """Tell whether a tensor is the weight of a linear module, a convolution or an embedding."""
    return tensor.name.endswith(".weight") and len(tensor.shape) >= _MATRIX


def _is_table(module: str) -> bool:
    return module == HEAD or module in _EMBEDDINGS


_EMBEDDINGS = frozenset(architecture.embedding for architecture in ARCHITECTURES.values())


@dataclass(frozen=True)
class Selection:
    """The quantized linear modules of a model."""

    groups: tuple[tuple[str, ...], ...]
    """Quantized modules in order; those of one group share `weight_scale_2`."""
    excluded: tuple[str, ...]
    """Modules with a weight that are not quantized, with embedding and head."""

    @cached_property  # called for each tensor; a model with many experts has tens of thousands
    def quantized(self) -> frozenset[str]:
        """All quantized modules."""
        return frozenset(module for group in self.groups for module in group)

    def without(self, modules: Container[str]) -> Selection:
        """Exclude more modules; whole groups of them."""
        left = tuple(group for group in self.groups if group[0] not in modules)
        more = tuple(module for group in self.groups if group[0] in modules for module in group)
        return Selection(left, (*self.excluded, *more))


def select(
    tensors: Sequence[TensorSpec], exclude: Sequence[str] = (), untouched: Container[str] = frozenset()
) -> Selection:
    """Choose what is quantized.

    Args:
        tensors: The unquantized model's.
        exclude: Shell patterns (`*`, `?`, `[…]`) of excluded module names, such as `model.layers.0.*`.
        untouched: Names of tensors that are never quantized.

    Raises:
        RecipeInvalidError: A pattern matches nothing, or only a part of what runtimes fuse.
    """
    modules = linears(tensor for tensor in tensors if tensor.name not in untouched)
    all_modules = [tensor.name.removesuffix(".weight") for tensor in tensors if _is_weight(tensor)]
    for pattern in exclude:
        if not any(matches(module, [pattern]) for module in (*all_modules, HEAD)):
            message = f"quantization.exclude: {pattern!r} matches no linear module of this model"
            raise RecipeInvalidError(message, hint=f"Modules are called like {modules[0] if modules else HEAD}.")
    quantized = [module for module in modules if not matches(module, exclude)]
    chosen = frozenset(quantized)
    for group in fusion_groups(modules):
        kept = [module for module in group if module not in chosen]
        if 0 < len(kept) < len(group):
            message = (
                f"quantization.exclude: {', '.join(kept)} would stay as it is while the rest of"
                f" {', '.join(group)} is quantized; engines fuse these into one matrix"
            )
            raise RecipeInvalidError(message, hint="Exclude all of them or none.")
    return Selection(
        groups=tuple(sharing_groups(quantized)),
        excluded=tuple(dict.fromkeys([*(module for module in all_modules if module not in chosen), HEAD])),
    )


def matches(module: str, patterns: Iterable[str]) -> bool:
    """Tell whether a module's name matches one of the shell patterns."""
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def fusion_groups(modules: Iterable[str]) -> list[tuple[str, ...]]:
    """Group modules that runtimes fuse: q, k and v; gate and up. Others are groups of one."""
    return _gathered(modules, _fused)


def sharing_groups(modules: Iterable[str]) -> list[tuple[str, ...]]:
    """Group modules that share `weight_scale_2`: fused ones, and those that ModelOpt treats as fused."""
    return _gathered(modules, _fed_alike)


def _gathered(modules: Iterable[str], key: Callable[[str], tuple[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for module in modules:
        groups.setdefault(key(module), []).append(module)
    return [tuple(group) for group in groups.values()]


def _fused(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the fused module: its parent, and the kind of projection."""
    parent, _, leaf = module.rpartition(".")
    return parent, next((kind for kind in _FUSED if leaf in kind), (leaf,))


def _fed_alike(module: str) -> tuple[str, tuple[str, ...]]:
    layer, _, block = module.rpartition(".")[0].rpartition(".")
    other = _SAME_INPUT.get((block, module.rpartition(".")[2]))
    return _fused(module) if other is None else (f"{layer}.{other[0]}", other[1])


def input_group(module: str) -> tuple[str, tuple[str, ...]]:
    """Return a common name for modules that share one `input_scale`. Runtimes use one for all experts of a layer.

    Returns:
        The parent module, without the number of an expert, and the kind of projection; equal for those that share.
    """
    parent, kind = _fed_alike(module)
    return re.sub(r"\.experts\.\d+$", ".experts", parent), kind


def listed_exclusions(config: Config, excluded: Iterable[str]) -> list[str]:
    """Return the excluded modules that ModelOpt lists."""
    architecture = architectures.known(config)
    return [module for module in excluded if not (architecture.scaled_embedding and module == architecture.embedding)]


def listed_as(module: str) -> str:
    """Return ModelOpt's name of a module in its list of formats, in which the experts of a layer are one module."""
    block, experts, _ = module.partition(".experts.")
    return f"{block}.experts" if experts else module


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
    """Summarize excluded modules as ModelOpt does, for `exclude_modules` and `ignore`.

    Each excluded module is replaced by the shortest pattern that ends at a dot of its name and matches no quantized
    module: `prefix*`, or `prefix.*` if `prefix*` would match one (layer 1 and layer 10), or the module's own name.
    """
    taken = sorted(quantized)
    return sorted({_summary(module, taken) for module in excluded})


def _summary(module: str, quantized: Sequence[str]) -> str:
    for dot in re.finditer(r"\.", module):
        prefix = module[: dot.start()]
        if not _any_begins(quantized, prefix):
            return f"{prefix}*"
        if not _any_begins(quantized, f"{prefix}."):
            return f"{prefix}.*"
    return module


def _any_begins(names: Sequence[str], prefix: str) -> bool:
    """Tell whether one of many sorted names has a prefix. Models with experts have tens of thousands of names."""
    position = bisect_left(names, prefix)
    return position < len(names) and names[position].startswith(prefix)
