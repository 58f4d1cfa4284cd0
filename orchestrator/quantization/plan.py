"""Decides and checks what happens to each tensor of a checkpoint before any data is read."""

from __future__ import annotations

import re
from dataclasses import field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, ModelUnsupportedError, RecipeInvalidError
from orchestrator.models.weight_files import require_no_link_out
from orchestrator.quantization import configs, format_names, layout, packed, structure
from orchestrator.quantization.agreement import require_agreeing_names, require_declared_architecture
from orchestrator.quantization.experts import is_whole, join_unquantized, split_experts, whole_name, whole_spec
from orchestrator.quantization.files import copy_durably, write_json
from orchestrator.quantization.frequencies import require_calculated
from orchestrator.quantization.schemes import SCHEMES, Fp8, searching
from orchestrator.quantization.tensors import DTYPES, FLOATS, TensorSpec
from orchestrator.quantization.tied import has_own_head
from orchestrator.quantization.transposed import turned, turned_back
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.formats.e2m1 import Numbers
    from orchestrator.quantization.schemes import Scheme
    from orchestrator.quantization.structure import Structure

# Files that are copied with the weights if they exist: the tokenizer, chat and sampling settings, the code that
# config.json names (a folder has it only if the recipe trusts it), and the licence, whose text most licences
# require.
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.tiktoken",
    "*.model",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)

_SERVED_AS_IT_IS = "A checkpoint that is quantized already is served as it is: method none."

# The key projections. The scales of keys and values are written beside them.
_KEYS = ("k_proj", "qkv_proj", "query_key_value", "kv_a_proj_with_mqa")

# Modules that are attention by their name, whatever their projections are called. Linear attention keeps a state, not
# keys and values.
_ATTENTION = re.compile(r"(self_|cross_)?att(n|ention)")

# Why a layer gets no scales for keys and values.
EXCLUDED = "its attention is excluded"
_NO_ATTENTION = "it has no attention"


@frozen
class Plan:
    """The units of work, in order."""

    checkpoint: Checkpoint
    config: Mapping[str, Any]
    structure: Structure
    scheme: Scheme
    selection: layout.Selection
    units: tuple[tuple[str, ...], ...]
    """Names of tensors: weights that stay together, or one tensor that is copied."""
    exclude: tuple[str, ...]
    kv_cache: str
    types: Mapping[str, str]
    """The type that each tensor is read as. A quantized weight has the type that `config.json` declares, as
    in ModelOpt. All others keep the type of the checkpoint."""
    formats: Mapping[str, Scheme] = field(default_factory=dict)
    """Modules with a scheme of their own."""

    @classmethod
    def make(
        cls,
        source: Path,
        scheme: Scheme,
        exclude: Sequence[str] = (),
        kv_cache: str = "none",
        formats: Mapping[str, str] | None = None,
        *,
        schemes: Mapping[str, Scheme] = SCHEMES,
    ) -> Plan:
        """Read a checkpoint's headers and decide.

        Args:
            source: The folder of an unquantized checkpoint, or of one that `packed` reads in BF16.
            scheme: The scheme of the weights.
            exclude: Shell patterns of modules that are not quantized.
            kv_cache: One of `format_names.KV_CACHE_FORMATS`.
            formats: By module, its format if that is not the scheme's; `bf16` excludes it, too.
            schemes: By the format, the scheme of those modules.

        Raises:
            RecipeInvalidError: A pattern that matches nothing or splits what runtimes fuse, or an unknown name.
            CheckpointError: The source cannot be read, is quantized already or contradicts its configuration.
        """
        if kv_cache not in format_names.KV_CACHE_FORMATS:
            message = f"quantization.kv_cache: found {kv_cache!r}, whose scales the one-pass quantizer cannot make"
            raise RecipeInvalidError(message, hint=f"It can make {', '.join(format_names.KV_CACHE_FORMATS)}.")
        checkpoint, config = packed.opened(source)
        _require_unquantized(source, config)
        require_agreeing_names(config)
        if has_own_head(checkpoint, config):
            config = structure.untied(config)
        found = structure.read(config, checkpoint.tensors.values())
        require_declared_architecture(config, list(checkpoint.tensors.values()))
        require_calculated(checkpoint, config)
        checkpoint = split_experts(checkpoint, config, found)
        _check_experts(checkpoint, found.hidden)
        checkpoint = turned(checkpoint, layout.linears(found, checkpoint.tensors.values()))
        own = formats or {}
        named = [tensor for name, tensor in checkpoint.tensors.items() if not found.is_redundant(name)]
        selection = layout.select(found, named, exclude, runs=scheme.calibrated)
        selection = selection.without({module for module, name in own.items() if name not in schemes})
        checkpoint = turned_back(join_unquantized(checkpoint, selection.quantized), selection.quantized)
        kept = [name for name in checkpoint.tensors if not found.is_redundant(name)]
        plan = cls(
            checkpoint,
            config,
            found,
            scheme,
            selection,
            _units(kept, selection),
            tuple(exclude),
            kv_cache,
            _types(checkpoint, config, kept, selection),
            {module: schemes[name] for module, name in own.items() if name in schemes},
        )
        plan._check_weights()
        if kv_cache != "none":
            plan._check_cache()
        return plan

    def quantizes(self, tensor: str) -> bool:
        """Tell whether a tensor is a weight that is quantized."""
        return tensor.endswith(".weight") and tensor.removesuffix(".weight") in self.selection.quantized

    def scheme_of(self, weight: str) -> Scheme:
        """Return the scheme of a quantized weight."""
        scheme = self.formats.get(weight.removesuffix(".weight"), self.scheme)
        if isinstance(scheme, Fp8) and is_whole(self.checkpoint.tensors[weight]):
            return replace(scheme, in_fp32=True)
        return scheme

    def by_scheme(self, weights: Sequence[str]) -> list[tuple[str, ...]]:
        """Split quantized weights by their schemes, which may share a scale only among themselves."""
        found: dict[str, list[str]] = {}
        for weight in weights:
            found.setdefault(self.scheme_of(weight).algorithm, []).append(weight)
        return [tuple(part) for part in found.values()]

    @cached_property
    def algorithms(self) -> dict[str, str]:
        """ModelOpt's algorithm of each quantized module, in the order of the model. Experts are one module."""
        modules = [module for group in self.selection.groups for module in group]
        modules.sort(key=lambda module: (self.layer_of(module) or 0, *layout.declared_order(module)))
        return {layout.listed_as(module): self.scheme_of(f"{module}.weight").algorithm for module in modules}

    @cached_property
    def outputs(self) -> list[list[TensorSpec]]:
        """The tensors that each unit writes."""
        return [
            [spec for name in unit for spec in self._output(name)]
            + [TensorSpec(name, "F32", ()) for name in self.cache_scales(unit)]
            for unit in self.units
        ]

    @cached_property
    def layers(self) -> dict[int, list[tuple[str, ...]]]:
        """The units of each layer."""
        found: dict[int, list[tuple[str, ...]]] = {}
        for unit in self.units:
            number = self.layer_of(unit[0])
            if number is not None:
                found.setdefault(number, []).append(unit)
        return dict(sorted(found.items()))

    @property
    def ends(self) -> list[str]:
        """The language model's own tensors outside of layers: its embedding, its last norm, its head."""
        names = [name for unit in self.units for name in unit if self.layer_of(name) is None]
        return [name for name in names if not (self.structure.is_further(name) or self.structure.is_tower(name))]

    def write_companions(self, output: Path) -> None:
        """Write all files of a quantized checkpoint except tensors."""
        copy_companions(self.checkpoint.folder, output)
        listed = layout.listed_exclusions(self.structure, self.selection.excluded)
        excluded = layout.exclude_modules(listed, self.selection.quantized)
        algorithms = self.algorithms
        if len(set(algorithms.values())) > 1:
            quantization = configs.mixed(algorithms, self.kv_cache)
            added = configs.mixed_quantization_config(algorithms, self.kv_cache)
        else:
            algorithm = next(iter(algorithms.values()), self.scheme.algorithm)
            quantization = configs.hf_quant_config(algorithm, excluded, self.kv_cache)
            added = configs.quantization_config(algorithm, excluded, self.kv_cache)
        write_json(output / configs.CONFIG, configs.quantized_config(self.config, added), allow_nan=True)
        write_json(output / configs.QUANT_CONFIG, quantization)

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer that a tensor belongs to."""
        return self.structure.layer_of(name)

    @property
    def computed(self) -> str:
        """The type that the model computes in: that of `config.json`, or else that of the stored embedding.

        A model may keep some of its weights in another type, see `skeleton`.
        """
        return layout.declared_type(self.config) or self.checkpoint.tensors[self.embedding].dtype

    @property
    def stack(self) -> str:
        """The prefix of a layer's number in a name."""
        return self.structure.stack

    @property
    def embedding(self) -> str:
        """The embedding's name."""
        return f"{self.structure.embedding}.weight"

    def cache_scales(self, unit: Sequence[str]) -> tuple[str, ...]:
        """Return the scales of keys and values for the unit beside which they are written; none for all others.

        They are named after the projections of keys and values even if these are one matrix, or the output of a
        latent one. ModelOpt leaves them out if a pattern excludes the whole attention.
        """
        attention = _attention_with_keys(unit)
        if self.kv_cache == "none" or attention is None or self.layer_of(unit[0]) is None:
            return ()
        if layout.matches(f"{attention}.k_bmm_quantizer", [f"{pattern}*quantizer" for pattern in self.exclude]):
            return ()
        return (f"{attention}.k_proj.k_scale", f"{attention}.v_proj.v_scale")

    @cached_property
    def layers_without_cache_scales(self) -> dict[int, str]:
        """The layers whose keys and values get no scales, each with the reason."""
        without: dict[int, str] = {}
        for number, units in self.layers.items():
            if not any(self.cache_scales(unit) for unit in units):
                excluded = any(_attention_with_keys(unit) for unit in units)
                without[number] = EXCLUDED if excluded else _NO_ATTENTION
        return without

    def read(self, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Read a tensor, or some of its rows, in its target type."""
        return self.checkpoint.read(name, first, last).astype(DTYPES[self.types[name]], copy=False)

    def rows(self, name: str, chunk_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read a tensor in runs of rows, see `Checkpoint.rows`, in its target type."""
        for first, rows in self.checkpoint.rows(name, chunk_bytes):
            yield first, rows.astype(DTYPES[self.types[name]], copy=False)

    def spec(self, name: str) -> TensorSpec:
        """Return a tensor of the source with its target type."""
        return TensorSpec(name, self.types[name], self.checkpoint.tensors[name].shape)

    def written(self, weight: str, name: str, rows: Numbers, first: int = 0) -> tuple[str, Numbers, int]:
        """Return how rows of what a weight becomes are written: the tensor, its rows, and the first of them."""
        matrix = self.checkpoint.tensors[weight]
        if not is_whole(matrix):
            return name, rows, first
        return whole_name(matrix, name), rows.T[None], matrix.expert

    def scalar(self, weight: str, name: str) -> str | None:
        """Return the tensor in which a scalar of a weight is written; None if another expert's weight has it."""
        matrix = self.checkpoint.tensors[weight]
        if not is_whole(matrix):
            return name
        return whole_name(matrix, name) if matrix.expert == 0 else None

    def _output(self, name: str) -> list[TensorSpec]:
        if not self.quantizes(name):
            return [self.spec(name)]
        specs, matrix = self.scheme_of(name).specs(self.spec(name)), self.checkpoint.tensors[name]
        if not is_whole(matrix):
            return specs
        return [whole_spec(matrix, spec) for spec in specs] if matrix.expert == 0 else []

    def _check_cache(self) -> None:
        """Refuse a model whose keys and values would get no scales because their projections are not recognized."""
        hint = f"Set quantization.kv_cache: none. Known projections of keys are {', '.join(_KEYS)}."
        for number, units in self.layers.items():
            names = [name for unit in units for name in unit if len(self.checkpoint.tensors[name].shape) > 1]
            attention = [name for name in names if any(map(_ATTENTION.fullmatch, name.split(".")[:-2]))]
            if attention and not any(map(_attention_with_keys, units)):
                message = (
                    f"quantization.kv_cache: found {', '.join(attention)} in the attention of {self.stack}.{number};"
                    " none of them is known to compute keys"
                )
                raise ModelUnsupportedError(message, hint=hint)
        if not any(map(self.cache_scales, self.units)):
            reasons = ", ".join(sorted(set(self.layers_without_cache_scales.values())))
            message = f"quantization.kv_cache: found {self.kv_cache!r}, but no layer gets scales: {reasons}"
            raise RecipeInvalidError(message, hint="Set quantization.kv_cache: none.")

    def _check_weights(self) -> None:
        for name in filter(self.quantizes, self.checkpoint.tensors):
            weight = self.checkpoint.tensors[name]
            if weight.dtype not in FLOATS:
                message = f"{weight.file}: {name}: found {weight.dtype}, expected one of {', '.join(FLOATS)}"
                raise CheckpointError(message)
            columns = self.scheme_of(name).columns
            if weight.shape[1] % columns:
                message = f"{weight.file}: {name}: found {weight.shape[1]} inputs, expected a multiple of {columns}"
                raise CheckpointError(message, hint="Exclude this module in the recipe.")


def _attention_with_keys(unit: Sequence[str]) -> str | None:
    """Return the attention to which a unit's projection of keys belongs."""
    modules = [name.removesuffix(".weight").rpartition(".") for name in unit]
    return next((parent for parent, _, leaf in modules if leaf in _KEYS), None)


def _require_unquantized(source: Path, config: Mapping[str, Any]) -> None:
    """Check that neither configuration of a checkpoint declares a quantization.

    Raises:
        CheckpointError: One does.
    """
    for name in ("quantization_config", "compression_config"):
        if config.get(name) is not None:
            message = f"{source}: config.json has a {name}; expected an unquantized checkpoint"
            raise CheckpointError(message, hint=_SERVED_AS_IT_IS)
    if (source / configs.QUANT_CONFIG).exists():
        message = f"{source}: found {configs.QUANT_CONFIG}; expected an unquantized checkpoint"
        raise CheckpointError(message, hint=_SERVED_AS_IT_IS)


def copy_companions(source: Path, output: Path) -> None:
    """Copy the files that belong to the weights.

    Raises:
        PathEscapesError: One is a link out of the folder.
    """
    files = sorted({file for pattern in _COMPANIONS for file in source.glob(pattern) if file.is_file()})
    require_no_link_out(source, files)
    for file in files:
        copy_durably(file, output / file.name)


def scheme_named(
    number_format: str,
    *,
    shared_scales: bool = False,
    scale_search: str = format_names.MAX,
    rounding: str = format_names.NEAREST,
    input_scales: str = format_names.MAX,
) -> Scheme:
    """Find a format's scheme.

    Args:
        number_format: Its name.
        shared_scales: See `Fp8.shared`.
        scale_search: See `Nvfp4.search`.
        rounding: See `Nvfp4.rounding`.
        input_scales: See `Nvfp4.input_scales`.

    Raises:
        RecipeInvalidError: The one-pass quantizer does not make this format.
    """
    if number_format not in SCHEMES:
        message = f"quantization.format: found {number_format!r}, which the one-pass quantizer cannot make"
        hint = f"It can make {', '.join(SCHEMES)}; method modelopt makes int4_awq and others."
        raise RecipeInvalidError(message, hint=hint)
    scheme = searching(scale_search, rounding, input_scales)[number_format]
    if shared_scales and number_format == "fp8":
        return Fp8(shared=True)
    return scheme


def _units(kept: Sequence[str], selection: layout.Selection) -> tuple[tuple[str, ...], ...]:
    group_of = {f"{group[0]}.weight": tuple(f"{module}.weight" for module in group) for group in selection.groups}
    followers = {name for group in group_of.values() for name in group[1:]}
    return tuple(group_of.get(name, (name,)) for name in kept if name not in followers)


def _types(
    checkpoint: Checkpoint, config: Mapping[str, Any], kept: Sequence[str], selection: layout.Selection
) -> dict[str, str]:
    """Return the target type of each tensor, see `Plan.types`."""
    stored = {name: checkpoint.tensors[name].dtype for name in kept}
    declared = layout.declared_type(config)
    return stored | ({f"{module}.weight": declared for module in selection.quantized} if declared else {})


def _check_experts(checkpoint: Checkpoint, hidden: int) -> None:
    """Refuse experts that are stored as one tensor for a layer. Their matrices have a side of the hidden size."""
    for name in layout.gathered_experts(checkpoint.tensors.values()):
        tensor = checkpoint.tensors[name]
        if hidden not in tensor.shape[1:]:
            continue
        message = f"{tensor.file}: found {tensor}, all experts of a layer in one tensor, which onepass cannot split"
        raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.")
