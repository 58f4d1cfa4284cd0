"""Compares the architecture that a `config.json` declares with the tensors of the files.

A runtime builds the declared architecture and fills it with the tensors. What contradicts it is lost or stays random.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.errors import ArchitectureUnknownError, CheckpointError, ConfigInvalidError
from orchestrator.models import ModelShape, is_known, require_one_architecture, shape_of
from orchestrator.models.behaviour import require_loadable
from orchestrator.models.fields import NotDescribedError
from orchestrator.quantization import configs, layout, structure
from orchestrator.quantization.structure import Config, Structure
from orchestrator.quantization.tensors import FLOATS, ExpertMatrix, StoredTensor, TensorSpec

Place = tuple[int | None, str]
"""The number of a layer, None outside of the layers; and the tensor's name below it."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)")
_BESIDE = frozenset(("vision", "audio", "adapter", "mtp"))
"""Roles of tensors that are not compared: towers, and layers that predict further tokens."""
_SIZES = frozenset(("hidden_size", "vocab_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"))
"""Fields for which transformers has defaults, which are those of another model."""
_LENGTHS = frozenset(("max_position_embeddings", "sliding_window"))
"""Fields on which no tensor depends."""
_HINT = "Take the config.json that belongs to these weights."


def require_declared_architecture(config: Config, tensors: Sequence[TensorSpec]) -> None:
    """Check that an unquantized model has the tensors of its architecture, each in its shape, and no others.

    An architecture whose tensors do not follow exactly from its configuration is not compared, nor are experts that
    are stored in one tensor, which versions of transformers do differently.

    Args:
        config: The content of `config.json`.
        tensors: Those of the files.

    Raises:
        CheckpointError: A field is impossible, or the model type or a tensor is missing, or a tensor is too many or of
            another shape.
    """
    require_agreeing_names(config)
    shape = _exact_shape(config)
    if shape is None:
        return
    stacked = any(tensor.stacked for tensor in shape.tensors) or bool(layout.gathered_experts(tensors))
    compared = not (stacked or any(isinstance(spec, ExpertMatrix) for spec in tensors))
    model, has = structure.read(config, tensors), f"{structure.architecture_of(config)} by {configs.CONFIG}"
    expected = {place: (name, size) for place, name, size in _expected(shape, experts=compared)}
    found = dict(_found(model, tensors, experts=compared))
    for (layer, within), (name, size) in expected.items():
        spec = found.get((layer, within))
        if spec is None:
            where = name if layer is None else f"{model.stack}.{layer}.{within}"
            message = f"{where} is missing, which belongs to {has}"
            raise CheckpointError(message, hint=_HINT)
        if spec.dtype not in FLOATS:
            message = f"{_named(spec)}, expected one of {', '.join(FLOATS)} in a model that is not quantized"
            raise CheckpointError(message, hint=_HINT)
        if spec.shape != size:
            message = f"{_named(spec)}, expected the shape {list(size)} of {has}"
            raise CheckpointError(message, hint=_HINT)
    for place, spec in found.items():
        if place[0] is not None and place not in expected:
            message = f"{_named(spec)}, which does not belong to {has}"
            raise CheckpointError(message, hint=_HINT)


def require_agreeing_names(config: Config) -> None:
    """Check that transformers can load a configuration, and that `architectures` is not of another `model_type`.

    Raises:
        CheckpointError: There is no model type, a field is impossible, or class and type are known and differ.
    """
    try:
        require_loadable(config)
        require_one_architecture(structure.architecture_of(config), config.get("model_type"))
    except ArchitectureUnknownError:
        return
    except ConfigInvalidError as error:
        raise CheckpointError(error.message, hint=error.hint or _HINT) from None


def _exact_shape(config: Config) -> ModelShape | None:
    """Return the tensors of the architecture; None if they do not follow exactly from its configuration."""
    try:
        if not is_known(config):
            return None
        shape = shape_of(config)
    except ArchitectureUnknownError:
        return None
    except NotDescribedError as error:
        if not _LENGTHS.isdisjoint(error.missing):
            return _exact_shape(_with_lengths(config, error.missing))
        if _SIZES.isdisjoint(error.missing) or structure.lists_layers(config):
            return None
        raise CheckpointError(error.message, hint=_HINT) from None
    except ConfigInvalidError as error:
        raise CheckpointError(error.message, hint=_HINT) from None
    return shape if shape.exact else None


def _with_lengths(config: Config, names: Iterable[str]) -> Config:
    """Give a configuration lengths that it lacks. Any will do, because no tensor depends on them."""
    text, lengths = structure.text_config(config), dict.fromkeys(names, 1)
    if text is config:
        return {**config, **lengths}
    return {key: {**part, **lengths} if part is text else part for key, part in config.items()}


def _expected(shape: ModelShape, *, experts: bool) -> Iterator[tuple[Place, str, tuple[int, ...]]]:
    """Yield the place, the name and the shape of each tensor of an architecture."""
    for tensor in shape.tensors:
        if tensor.role in _BESIDE or (tensor.role == "expert" and not experts):
            continue
        for name in tensor.names():
            if not experts and ".experts." in name:  # their biases
                continue
            within = _LAYER.search(name)
            yield (int(within[1]), within[2]) if within else (None, _last_two(name)), name, tensor.shape


def _found(model: Structure, tensors: Sequence[TensorSpec], *, experts: bool) -> Iterator[tuple[Place, TensorSpec]]:
    gathered = set(layout.gathered_experts(tensors))
    for spec in tensors:
        layer = model.layer_of(spec.name)
        if not experts and (".experts." in spec.name or spec.name in gathered):
            continue
        if layer is not None and not model.is_redundant(spec.name):
            yield (layer, spec.name.removeprefix(f"{model.stack}.{layer}.")), spec
        elif layer is None and not (model.is_tower(spec.name) or model.is_further(spec.name)):
            yield (None, _last_two(spec.name)), spec


def _named(spec: TensorSpec) -> str:
    """Name a tensor and its file, if it is in one."""
    return f"{spec.file.name}: found {spec}" if isinstance(spec, StoredTensor) else f"found {spec}"


def _last_two(name: str) -> str:
    """Return a tensor's name without the parents of its module, which differ among versions of transformers."""
    return ".".join(name.split(".")[-2:])
