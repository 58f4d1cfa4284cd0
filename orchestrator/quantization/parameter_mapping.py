"""Maps a checkpoint's tensors to the parameters of a transformers layer: names differ, and experts are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.errors import CheckpointError

# Names of modules in a checkpoint and in newer versions of transformers.
_RENAMED = (("block_sparse_moe.", "mlp."),)

# Parameters in which newer versions of transformers gather the projections of experts: the
# parameter and the half of its rows. Experts without a gate have the last.
_GATHERED = {
    "gate_proj": (("gate_up_proj", 0),),
    "w1": (("gate_up_proj", 0),),
    "up_proj": (("gate_up_proj", 1), ("up_proj", None)),
    "w3": (("gate_up_proj", 1),),
    "down_proj": (("down_proj", None),),
    "w2": (("down_proj", None),),
}


@dataclass(frozen=True)
class Arranged:
    """A layer's weights in the form of its module."""

    parameters: dict[str, Any]
    """Arrays, or tensors of torch."""
    modules: dict[str, str]
    """Modules of the model -> modules of the checkpoint, for those that are one in both."""
    experts: dict[str, str]
    """Modules that gather experts -> the prefix of an expert's number in the checkpoint."""


def gather(names: Mapping[str, tuple[int, ...]], parameters: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Map each tensor of the checkpoint to a layer's parameters.

    Args:
        names: The tensors' shapes by name, within the layer.
        parameters: The layer's parameters by name.

    Returns:
        The parameter, and the position in it (None: the whole parameter).

    Raises:
        CheckpointError: The layer has no parameter for a tensor.
    """
    places: dict[str, tuple[str, Any]] = {}
    for name, shape in names.items():
        known = _renamed(name, parameters)
        if known in parameters:
            places[name] = (known, None)
            continue
        before, _, rest = known.partition(".experts.")
        number, _, leaf = rest.removesuffix(".weight").partition(".")
        candidates = [(f"{before}.experts.{target}", half) for target, half in _GATHERED.get(leaf, ())]
        parameter, half = next((found for found in candidates if found[0] in parameters), ("", None))
        if not parameter:
            message = f"{name}: this transformers has no place for it in the layer"
            raise CheckpointError(message)
        rows = slice(None) if half is None else slice(half * shape[0], (half + 1) * shape[0])
        places[name] = (parameter, (int(number), rows))
    return places


def _renamed(name: str, parameters: Mapping[str, Any]) -> str:
    for old, new in _RENAMED:
        if name.startswith(old) and not any(parameter.startswith(old) for parameter in parameters):
            return new + name.removeprefix(old)
    return name


def arrange(layer: Any, tensors: dict[str, Any]) -> Arranged:  # noqa: ANN401 - a module of torch
    """Rename and arrange a checkpoint's tensors for a layer's module.

    Args:
        layer: The module. Its parameters need no memory.
        tensors: Arrays, or tensors of torch, by name within the layer. Those copied into a larger tensor of their
        type become views of it.

    Raises:
        CheckpointError: The layer has no parameter for a tensor.
    """
    parameters = dict(layer.named_parameters()) | dict(layer.named_buffers())
    parameters = {name: value for name, value in parameters.items() if name in layer.state_dict()}
    places = gather({name: array.shape for name, array in tensors.items()}, parameters)
    filled: dict[str, Any] = {}
    modules: dict[str, str] = {}
    experts: dict[str, str] = {}
    for name, (parameter, where) in places.items():
        if where is None:
            filled[parameter] = tensors[name]
            modules[parameter.rpartition(".")[0]] = name.rpartition(".")[0]
        else:
            experts[parameter.rpartition(".")[0]] = name.partition(".experts.")[0] + ".experts"
            whole = filled.get(parameter)
            if whole is None:
                whole = filled[parameter] = _empty_like(tensors[name], tuple(parameters[parameter].shape))
            whole[where] = tensors[name]
            if tensors[name].dtype == whole.dtype:
                tensors[name] = whole[where]  # the same numbers need only one copy
    return Arranged(filled, modules, experts)


def _empty_like(part: Any, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - an array or a tensor of torch
    return np.empty(shape, part.dtype) if isinstance(part, np.ndarray) else part.new_empty(shape)
