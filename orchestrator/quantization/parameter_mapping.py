"""Maps a checkpoint's tensors to the parameters of a transformers model.

Names differ between the two, and newer versions of transformers gather the weights of experts in one parameter. The
library's own list of conversions says how.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization.libraries import library, load_torch
from orchestrator.quantization.tensors import ExpertMatrix, StoredTensor
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.torch_types import Model, Tensor

    Part = NDArray[Any] | Tensor

_GATHERING = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])
"""Operations of transformers that gather experts: a matrix for each, of one or several weights below each other."""


class Renaming(Protocol):
    """A conversion of transformers that changes a name."""

    def rename_source_key(self, name: str) -> tuple[str, str | None]:
        """Return the name after it, and the pattern that it matched."""


class Converter(Renaming, Protocol):
    """A conversion of transformers that changes tensors."""

    @property
    def operations(self) -> Sequence[object]:
        """Its operations, in order."""

    @property
    def source_patterns(self) -> Sequence[str]:
        """The patterns of the names that it converts."""


@frozen
class Target:
    """The position of a tensor in a parameter."""

    parameter: str
    expert: int | None = None
    """The number of a gathered expert; None: the tensor is the whole parameter, or one of its parts."""
    part: int = 0
    """Which of the weights below each other."""
    parts: int = 1
    transposed: bool = False
    """The parameter has the matrix of an expert as [inputs, outputs]."""


@frozen
class Names:
    """The names of one model's parameters."""

    parameters: Container[str]
    prefix: str
    """Of the base model. Some checkpoints leave it out, or have it in addition."""
    renamings: Sequence[Renaming] = ()
    """Of transformers: `WeightRenaming`, or a pattern and its replacement for version 4."""
    converters: Sequence[Converter] = ()
    """Of transformers: `WeightConverter`."""
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    """The checkpoint's. A matrix of an expert may be a part of a stored tensor."""
    _known: dict[str, Target] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, tensors: Mapping[str, StoredTensor]) -> Names:
        """Ask transformers for the conversions from a checkpoint's tensors to a model's parameters."""
        parameters, prefix = frozenset(model.state_dict()), model.base_model_prefix
        if library("transformers").__version__.startswith("4."):
            old = getattr(model, "_checkpoint_conversion_mapping", None) or {}
            return cls(parameters, prefix, [_Replacement(*pair) for pair in old.items()], tensors=tensors)
        conversions = library("transformers.conversion_mapping").get_model_conversion_mapping(model)
        gathering = [conversion for conversion in conversions if hasattr(conversion, "operations")]
        return cls(parameters, prefix, [c for c in conversions if c not in gathering], gathering, tensors)

    def target(self, name: str) -> Target:
        """Return the position of a tensor of the checkpoint.

        Raises:
            CheckpointError: The model has no parameter for it.
            ModelUnsupportedError: transformers calculates the parameter in a way that is not supported here.
        """
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> Target:
        tensor = self.tensors.get(name)
        if isinstance(tensor, ExpertMatrix):
            whole = self.target(tensor.stored.name).parameter
            return Target(whole, tensor.expert, tensor.part, tensor.parts, transposed=tensor.whole)
        renamed = self.renamed(name)
        if (found := self._present(renamed)) is not None:
            return Target(found)
        for converter in self.converters:
            converted, pattern = converter.rename_source_key(renamed)
            if pattern is not None and (found := self._present(converted)) is not None:
                return _converted(name, renamed, found, converter, pattern)
        if (found := self._present(name)) is not None:  # some renamings hit names that they are not meant for
            return Target(found)
        message = f"{name}: this transformers has no parameter for it"
        raise CheckpointError(message)

    def renamed(self, name: str) -> str:
        """Return the name that transformers gives to a tensor when it loads it."""
        for renaming in self.renamings:
            name, _ = renaming.rename_source_key(name)
        return name

    def _present(self, name: str) -> str | None:
        candidates = (name, name.removeprefix(f"{self.prefix}."), f"{self.prefix}.{name}")
        return next((candidate for candidate in candidates if candidate in self.parameters), None)


@frozen
class _Replacement:
    """A renaming of transformers 4."""

    pattern: str
    replacement: str

    def rename_source_key(self, name: str) -> tuple[str, str | None]:
        return re.sub(self.pattern, self.replacement, name), None


def _converted(name: str, renamed: str, parameter: str, converter: Converter, pattern: str) -> Target:
    operations = [type(operation).__name__ for operation in converter.operations]
    sources = list(converter.source_patterns)
    if operations == ["Concatenate"] and getattr(converter.operations[0], "dim", 0) == 0:
        return Target(parameter, None, sources.index(pattern), len(sources))
    pieces = pattern.replace("\\.", ".").split("*")  # transformers escapes some dots of its patterns, and others not
    number = re.search(r"(\d+)".join(map(re.escape, pieces)), renamed) if len(pieces) > 1 else None
    if operations not in _GATHERING or number is None:
        message = f"{name}: transformers makes {parameter} of it by {', '.join(operations)}, which onepass does not do"
        raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.")
    return Target(parameter, int(number.group(1)), sources.index(pattern), len(sources))


@frozen
class GatheredExperts:
    """A module that holds the weights of all experts of a layer."""

    leaves: dict[str, dict[int, str]] = field(default_factory=dict)
    """By parameter of the module, the checkpoint's modules of the weights below each other, within the layer, with `{}`
    for the expert's number."""


@frozen
class Arranged:
    """A layer's weights in the form of its module."""

    parameters: dict[str, Any]
    """Arrays, or tensors of torch."""
    modules: dict[str, list[str]]
    """Modules of the model -> modules of the checkpoint; several if their weights are below each other."""
    experts: dict[str, GatheredExperts]
    """By module of the model."""


def arrange(targets: Mapping[str, Target], shapes: Mapping[str, Sequence[int]], tensors: dict[str, Any]) -> Arranged:
    """Rename and arrange a checkpoint's tensors for a module.

    Args:
        targets: The position of each tensor, in the module.
        shapes: The shapes of the module's parameters.
        tensors: Arrays, or tensors of torch, by name. Those copied into a larger tensor of their type become views
            of it.
    """
    arranged = Arranged({}, {}, {})
    joined: dict[str, list[str]] = {}
    for name, target in sorted(targets.items(), key=lambda item: item[1].part):
        module, _, leaf = target.parameter.rpartition(".")
        if target.expert is None:
            joined.setdefault(target.parameter, []).append(name)
            of = arranged.modules.setdefault(module, [])
            of.extend({name.rpartition(".")[0]}.difference(of))
            continue
        numbered = re.sub(rf"\.{target.expert}(?=\.)", ".{}", name, count=1).removesuffix(".weight")
        arranged.experts.setdefault(module, GatheredExperts()).leaves.setdefault(leaf, {})[target.part] = numbered
        whole = arranged.parameters.get(target.parameter)
        if whole is None:
            shape = tuple(shapes[target.parameter])
            whole = arranged.parameters[target.parameter] = _empty_like(tensors[name], shape)
        if target.transposed:
            whole[target.expert] = tensors[name].T
            continue
        rows = tensors[name].shape[0]
        where = (target.expert, slice(target.part * rows, (target.part + 1) * rows))
        whole[where] = tensors[name]
        if tensors[name].dtype == whole.dtype:
            _let_go(tensors[name])
            tensors[name] = whole[where]  # the same numbers need only one copy
    for parameter, names in joined.items():
        one = len(names) == 1
        arranged.parameters[parameter] = tensors[names[0]] if one else _join(names, shapes[parameter], tensors)
    return arranged


def _join(names: Sequence[str], shape: Sequence[int], tensors: dict[str, Part]) -> Part:
    """Put tensors below each other, and make them views of the result if they have its type."""
    whole: Any = _empty_like(tensors[names[0]], tuple(shape))
    first = 0
    for name in names:
        rows = slice(first, first + tensors[name].shape[0])
        whole[rows] = tensors[name]
        if tensors[name].dtype == whole.dtype:
            _let_go(tensors[name])
            tensors[name] = whole[rows]
        first = rows.stop
    joined: Part = whole
    return joined


def _let_go(part: Part) -> None:
    """Keep the memory of a tensor that is dropped until a GPU has copied it: the next layer is read meanwhile."""
    tensor: Any = part
    if getattr(tensor, "is_cuda", False):
        tensor.record_stream(load_torch().cuda.current_stream(tensor.device))


def _empty_like(part: Part, shape: tuple[int, ...]) -> Part:
    return np.empty(shape, part.dtype) if isinstance(part, np.ndarray) else part.new_empty(shape)


def missing(parameters: Iterable[str], targets: Iterable[Target]) -> list[str]:
    """Return the parameters that no tensor fills."""
    filled = {target.parameter for target in targets}
    return [name for name in parameters if name not in filled]
