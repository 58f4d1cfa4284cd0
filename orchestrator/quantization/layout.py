"""Determines which tensors of a model are quantized, how they are grouped, and what they become.

Candidates are the matrices in the layers of the language model, see `structure`. Exclusions follow from names:
ModelOpt's default rules, and the recipe.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.quantization.format_names import FUSED
from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.structure import HEAD, in_tower, text_config
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from orchestrator.quantization.structure import Config, Structure

# Attention, and the modules in it that read anything but the layer's hidden states. All others there get the same
# tensor, whatever they are called: queries, keys, values, gates, indexers.
_ATTENTION = re.compile(r"(?P<block>(.+\.)?(self_|linear_|multi_head_)?att(n|ention))\.(?P<within>.+)")
_READ_OTHERS = re.compile(
    r"(.+\.)?(o|out|output|dense|proj|c_proj|o_proj|out_proj|to_out|[wW]o|wo_b)(\.(linear|dense|0))?"
)
_READ_QUERIES = ("q_b_proj", "wq_b")
_NUMBERED_FIRST_OF_MLP = re.compile(r"c_fc_\d")

# Both branches of a recurrent block (Griffin) read its input.
_BRANCHES = ("linear_x", "linear_y")

# RWKV's token shift: a vector beside a module, which mixes this token with the one before for that module alone.
_MIXTURE = "time_mix_"

# Queries are of another tensor here than keys and values.
_CROSS_ATTENTION = re.compile(r"(encoder|cross)_?att(n|ention)$")

# The first projections of an MLP. In a layer with one norm, that norm feeds attention and MLP, and ModelOpt lets the
# first projections of both share `weight_scale_2`, because they get the same tensor. Runtimes do not fuse these.
_FIRST_OF_MLP = ("gate_proj", "up_proj", "fc1", "gate_up_proj", "c_fc", "fc_in", "dense_h_to_4h")

# What ModelOpt's default recipes exclude (`default_disabled_quantizers.yaml`): routers, which choose experts, and small
# parts of recurrent layers, on which everything after them depends. Its exclusions of towers are not repeated: nothing
# outside of the language model's layers is quantized.
_SENSITIVE = (
    "*.gate",
    "*.mlp.gate.*",
    "*router*",
    "*block_sparse_moe.gate.*",
    "*.shared_expert_gate",
    "*.conv1d",
    "*linear_attn.conv1d*",
    "*.linear_attn.in_proj_a*",
    "*.linear_attn.in_proj_b*",
    "*output_layer*",
    "*proj_out.*",
)

# Products of a part of the inputs with each part of the weight (DeepSeek-V4), which ModelOpt does not know.
_GROUPED = ("*.wo_a", "*.o_a_proj")

# The last part of names of modules whose weight has two dimensions and is no matrix product.
_TABLES = ("*norm*", "*embed*", "wte", "wpe", "ln_*", "*conv*")

Group = tuple[str, tuple[str, ...]]
"""A common name of modules: what they are part of, and their kinds."""

ALGORITHMS = ("W4A16_NVFP4", "NVFP4", "FP8")
"""ModelOpt's supported algorithms."""

_STORED_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_MATRIX = 2
"""A linear module's weight has outputs and inputs."""


def declared_type(config: Config) -> str | None:
    """Return the type that a configuration declares for the whole model; None if it declares none.

    Raises:
        CheckpointError: A model cannot compute in that type.
    """
    places = (config, text_config(config))
    declared = next((part[key] for part in places for key in ("dtype", "torch_dtype") if part.get(key)), None)
    if declared is None:
        return None
    if not isinstance(declared, str) or declared not in _STORED_TYPES:
        message = f"config.json: dtype: found {declared!r}, expected one of {', '.join(_STORED_TYPES)}"
        raise CheckpointError(message)
    return _STORED_TYPES[declared]


def linears(structure: Structure, tensors: Iterable[TensorSpec]) -> list[str]:
    """Return the modules that can be quantized, in order: matrices in the layers of the language model.

    The embedding is a table, not a matrix product, and a quantized head breaks several versions of the runtimes.
    ModelOpt's default recipes exclude both as well, sensitive modules, see above, and towers.
    """
    weights = [spec for spec in tensors if _is_weight(spec) and structure.layer_of(spec.name) is not None]
    modules = [spec.name.removesuffix(".weight") for spec in weights if len(spec.shape) == _MATRIX]
    products = [module for module in modules if not matches(module.rpartition(".")[2], _TABLES)]
    return [module for module in products if not matches(module, (*_SENSITIVE, *_GROUPED))]


def gathered_experts(tensors: Iterable[TensorSpec]) -> list[str]:
    """Return the tensors that hold a matrix for each expert of a layer."""
    return [spec.name for spec in tensors if _is_gathered(spec)]


def _is_gathered(tensor: TensorSpec) -> bool:
    several = len(tensor.shape) == _MATRIX + 1 and min(tensor.shape) > 1
    return several and not in_tower(tensor.name) and not re.search("conv|bias|norm|emb", tensor.name)


def _is_weight(tensor: TensorSpec) -> bool:
    """Tell whether a tensor is the weight of a linear module, a convolution or an embedding."""
    return tensor.name.endswith(".weight") and len(tensor.shape) >= _MATRIX


@frozen
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
    structure: Structure, tensors: Sequence[TensorSpec], exclude: Sequence[str] = (), *, runs: bool = True
) -> Selection:
    """Choose what is quantized.

    Args:
        structure: The unquantized model's.
        tensors: Its tensors.
        exclude: Shell patterns (`*`, `?`, `[…]`) of excluded module names, such as `model.layers.0.*`.
        runs: The model runs, which tells better than names what gets the same tensor.

    Raises:
        RecipeInvalidError: A pattern matches nothing, or only a part of what runtimes fuse.
    """
    modules = linears(structure, tensors)
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
    alike = {} if runs else named_alike(structure, tensors, chosen)
    return Selection(
        groups=tuple(sharing_groups(quantized, _layers_with_one_norm(tensors), alike)),
        excluded=tuple(_excluded(all_modules, chosen, tied=structure.tied)),
    )


def _excluded(modules: Iterable[str], quantized: Container[str], *, tied: bool) -> list[str]:
    """Return the modules that stay as they are. A tied head counts although it is not stored."""
    kept = [module for module in modules if module not in quantized]
    return [*kept, HEAD] if tied else kept


def matches(module: str, patterns: Iterable[str]) -> bool:
    """Tell whether a module's name matches one of the shell patterns."""
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def fusion_groups(modules: Iterable[str]) -> list[tuple[str, ...]]:
    """Group modules that runtimes fuse: q, k and v; gate and up. Others are groups of one."""
    return _gathered(modules, _fused)


def named_alike(structure: Structure, tensors: Iterable[TensorSpec], modules: Container[str]) -> dict[str, Group]:
    """Tell by names and shapes which modules get the same tensor, for a model that does not run.

    Args:
        structure: The model's.
        tensors: All tensors.
        modules: The linear modules to tell of.

    Returns:
        By module, a common name for those that get the same tensor; only modules whose group differs from what runtimes
        fuse.
    """
    found: dict[str, Group] = {}
    by_module = {tensor.name.removesuffix(".weight"): tensor for tensor in tensors}
    for module, weight in by_module.items():
        parent, _, leaf = module.rpartition(".")
        if module not in modules or f"{parent}.{_MIXTURE}{leaf}" in by_module:
            continue
        attention = _ATTENTION.fullmatch(module)
        if _NUMBERED_FIRST_OF_MLP.fullmatch(leaf):
            found[module] = parent, ("c_fc",)
        elif leaf in _BRANCHES:
            found[module] = parent, _BRANCHES
        elif attention and leaf in _READ_QUERIES:
            found[module] = attention["block"], (*_READ_QUERIES, str(weight.shape[1]))
        elif attention and weight.shape[1] == structure.hidden and not _READ_OTHERS.fullmatch(attention["within"]):
            found[module] = attention["block"], FUSED[0]
    return found


def sharing_groups(
    modules: Iterable[str], one_norm: Container[str] = (), alike: Mapping[str, Group] | None = None
) -> list[tuple[str, ...]]:
    """Group modules that share `weight_scale_2`: fused ones, and those that ModelOpt treats as fused.

    Args:
        modules: The quantized modules.
        one_norm: Layers in which one norm feeds attention and MLP.
        alike: See `named_alike`.
    """
    modules, alike = list(modules), alike or {}
    attention = {
        (alike[module][0] if module in alike else module.rpartition(".")[0]).rpartition(".")[0]: alike.get(
            module, _fused(module)
        )
        for module in modules
        if module.rpartition(".")[2] in FUSED[0] or alike.get(module, _fused(module))[1] == FUSED[0]
    }

    def key(module: str) -> Group:
        parent, _, leaf = module.rpartition(".")
        layer = parent.rpartition(".")[0]
        if leaf in _FIRST_OF_MLP and layer in one_norm and layer in attention:
            return attention[layer]
        return alike.get(module, _fused(module))

    return _gathered(modules, key)


def joined(units: Iterable[tuple[str, ...]], fed_alike: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Join groups of modules of which some get the same tensor, in the order of their first modules.

    Args:
        units: Groups.
        fed_alike: By module, another one that gets the same tensor.
    """
    groups: list[list[str]] = []
    group_of: dict[str, list[str]] = {}
    for unit in units:
        given = [fed_alike.get(module, module) for module in unit]
        group = next((group_of[name] for name in given if name in group_of), None)
        if group is None:
            groups.append(group := [])
        group.extend(unit)
        group_of.update(dict.fromkeys(given, group))
    return [tuple(group) for group in groups]


def _layers_with_one_norm(tensors: Iterable[TensorSpec]) -> set[str]:
    """Return the prefixes under which exactly one norm is found; of interest are those of layers."""
    norms: dict[str, set[str]] = {}
    for spec in tensors:
        *parents, _ = spec.name.split(".")
        for depth, part in enumerate(parents):
            if "norm" in part or part.startswith("ln_"):
                norms.setdefault(".".join(parents[:depth]), set()).add(part)
    return {parent for parent, found in norms.items() if len(found) == 1}


def _gathered(modules: Iterable[str], key: Callable[[str], Group]) -> list[tuple[str, ...]]:
    groups: dict[Group, list[str]] = {}
    for module in modules:
        groups.setdefault(key(module), []).append(module)
    return [tuple(group) for group in groups.values()]


def _fused(module: str) -> Group:
    """Return the fused module: its parent, and the kind of projection."""
    parent, _, leaf = module.rpartition(".")
    if _stays_whole(module):
        return parent, ("experts",)
    if _CROSS_ATTENTION.search(parent):
        return parent, (leaf,)
    return parent, next((kind for kind in FUSED if leaf in kind), (leaf,))


def input_group(module: str) -> Group:
    """Return a common name for modules that share one `input_scale`. Runtimes use one for all experts of a layer.

    Returns:
        The parent module, without the number of an expert, and the kind of projection; equal for those that share.
    """
    parent, kind = _fused(module)
    return re.sub(r"\.experts\.\d+$", ".experts", parent), kind


def listed_exclusions(structure: Structure, excluded: Iterable[str]) -> list[str]:
    """Return the excluded modules as ModelOpt lists them. Experts that stay in one tensor are one module."""
    listed = (listed_as(module) if _stays_whole(module) else module for module in excluded)
    return [module for module in listed if not (structure.scaled_embedding and module == structure.embedding)]


def expert_of(module: str) -> str:
    """Return the expert to which a module belongs, such as `mlp.experts.3`."""
    block, _, rest = module.rpartition(".")
    return f"{block.rpartition('.')[0]}.{rest}" if _stays_whole(module) else block


def _stays_whole(module: str) -> bool:
    """Tell whether a module is an expert whose weight stays in one tensor with the others', see `experts`."""
    parent, _, leaf = module.rpartition(".")
    return leaf.isdecimal() and parent.rpartition(".experts.")[2] in ("gate_up_proj", "down_proj")


def declared_order(module: str) -> tuple[bool, int]:
    """Sort the modules of a layer as models declare them: attention first, and fused projections before others."""
    leaf = module.rpartition(".")[2]
    ranks = [rank for rank, name in enumerate(name for kind in FUSED for name in kind) if name == leaf]
    return "attn" not in module, ranks[0] if ranks else sum(map(len, FUSED))


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
