"""A model of transformers with one layer in memory at a time, run to see how large its activations get.

Needs torch and transformers, which whoever calls `load` must have; nothing else in this room imports them.

The whole model exists as a skeleton whose parameters have shapes but no memory. First its own forward runs over every
batch with layers that only note what they are given: so each layer later gets the very mask, rotation and positions
that the model means for it, whether all layers are alike or sliding and full attention alternate. Then one layer at a
time is filled with weights, runs over all batches, and is emptied again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError, DependencyMissingError
from orchestrator.quantization.layout import EMBEDDING

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.samples import Batch

_ATTENTION = "orchestrator"
"""The name under which transformers finds our attention: its own, with an eye on keys and values."""

# What modules are called in a checkpoint and, in newer versions of transformers, in the model.
_RENAMED = (("block_sparse_moe.", "mlp."),)

# Where the projections of an expert lie in the parameters that newer versions of transformers gather them in.
_GATHERED = {
    "gate_proj": ("gate_up_proj", 0),
    "w1": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "w3": ("gate_up_proj", 1),
    "down_proj": ("down_proj", None),
    "w2": ("down_proj", None),
}

Tensors = Mapping[str, "NDArray[Any]"]


@dataclass
class Measured:
    """What was seen while all batches ran through one layer; names are those of the checkpoint, within the layer."""

    inputs: dict[str, float] = field(default_factory=dict)
    """The largest magnitude that went into each linear module; one that nothing reached is missing."""
    tokens: dict[str, int] = field(default_factory=dict)
    """How many tokens reached each module of an expert."""
    keys: float = 0.0
    values: float = 0.0

    def saw(self, module: str, largest: float, tokens: int) -> None:
        """Add what went into a module."""
        self.inputs[module] = max(self.inputs.get(module, 0.0), largest)
        if ".experts." in module:
            self.tokens[module] = self.tokens.get(module, 0) + tokens


@dataclass
class LayeredModel:
    """The skeleton, and for each batch how far it has come."""

    torch: Any
    model: Any
    device: str
    hidden: list[Any] = field(default_factory=list)
    """What goes into the next layer, a tensor for each batch."""
    _calls: list[list[_Call]] = field(default_factory=list)
    """For each layer and batch, what else the model gives the layer."""
    _cache: Measured | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> LayeredModel:
        """Build the skeleton of a checkpoint's model.

        Raises:
            DependencyMissingError: There is no torch or no transformers.
            CheckpointError: This transformers does not know the model.
        """
        torch, transformers = library("torch"), library("transformers")
        made = cls(torch, None, device)
        _register_attention(made._watch_cache)
        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            config._experts_implementation = "eager"  # noqa: SLF001 - the one that calls a linear function per expert
            with _parameters_without_memory(torch):
                made.model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=_ATTENTION)
        except (ValueError, KeyError, OSError, ImportError) as error:
            message = f"{folder}: transformers {transformers.__version__} cannot build this model: {error}"
            raise CheckpointError(message) from error
        made.model.eval()
        for module in made.model.modules():
            for name, buffer in module._buffers.items():  # noqa: SLF001 - torch has no other way to replace one
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)  # noqa: SLF001
        return made

    @property
    def layers(self) -> Sequence[Any]:
        """The layers' skeletons."""
        layers: Sequence[Any] = self.model.model.layers
        return layers

    def begin(self, embedding: NDArray[Any], batches: Sequence[Batch]) -> None:
        """Turn tokens into what the first layer gets, and learn what else each layer gets."""
        torch = self.torch
        self.hidden, self._calls = [], [[] for _ in self.layers]
        module = self.model.get_submodule(EMBEDDING)
        self._fill(module, {"weight": embedding})
        shared = _Shared(torch)
        tupled = library("transformers").__version__.startswith("4.")
        with _replaced_forwards(self.layers, self._note(shared, tupled=tupled)), torch.inference_mode():
            for batch in batches:
                tokens = {"input_ids": batch.tokens, "attention_mask": batch.mask}
                on_device = {name: torch.from_numpy(rows).to(self.device) for name, rows in tokens.items()}
                with suppress(_EnoughError):
                    self.model(**on_device, use_cache=False)
        module.to("meta")

    def run(self, number: int, tensors: Tensors) -> Measured:
        """Run all batches through a layer.

        Args:
            number: The layer; they come in order.
            tensors: Its weights as the checkpoint names them, within the layer.
        """
        torch, layer, measured = self.torch, self.layers[number], Measured()
        filled = _arrange(layer, tensors)
        self._fill(layer, filled.parameters)
        self._cache = measured
        with _watched(torch, layer, filled, measured), torch.inference_mode():
            for position, call in enumerate(self._calls[number]):
                result = layer(self.hidden[position], *call.positional, **call.named)
                self.hidden[position] = result[0] if isinstance(result, tuple) else result
        self._cache = None
        self._calls[number] = []
        layer.to("meta")
        return measured

    @property
    def state(self) -> list[NDArray[Any]]:
        """What goes into the next layer, as arrays."""
        return [self._array(tensor) for tensor in self.hidden]

    def restore(self, state: Sequence[NDArray[Any]]) -> None:
        """Go on from a state that was kept."""
        self.hidden = [self._tensor(array) for array in state]

    def _array(self, tensor: Any) -> NDArray[Any]:  # noqa: ANN401 - a tensor of torch
        array: NDArray[Any]
        if tensor.dtype == self.torch.bfloat16:
            array = tensor.cpu().contiguous().view(self.torch.uint16).numpy().view(ml_dtypes.bfloat16)
        else:
            array = tensor.cpu().contiguous().numpy()
        return array

    def _fill(self, module: Any, tensors: Tensors) -> None:  # noqa: ANN401 - a module of torch
        filled = {name: self._tensor(array) for name, array in tensors.items()}
        try:
            module.load_state_dict(filled, assign=True, strict=True)
        except RuntimeError as error:  # names and shapes that this version of transformers does not expect
            message = f"config.json and the weights make another model in this transformers: {f'{error}':.500}"
            raise CheckpointError(message) from error

    def _tensor(self, array: NDArray[Any]) -> Any:  # noqa: ANN401 - a tensor of torch
        """View an array as a tensor; on the CPU they share their memory."""
        if array.dtype == ml_dtypes.bfloat16:
            return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16).to(self.device)
        return self.torch.from_numpy(array).to(self.device)

    def _note(self, shared: _Shared, *, tupled: bool) -> Callable[..., Any]:
        """Return what layers do while they only note what they are given.

        Args:
            shared: Where what they are given is kept.
            tupled: Some models of transformers 4 take the first of what a layer returns. Those that do not pass on the
                tuple, which no layer looks at.
        """

        def forward(number: int, hidden: Any, *positional: Any, **named: Any) -> Any:  # noqa: ANN401 - what layers get
            self._calls[number].append(_Call(shared.of(positional), shared.of(named)))
            if number == 0:
                self.hidden.append(hidden)
            if number == len(self.layers) - 1:
                raise _EnoughError
            return (hidden,) if tupled else hidden

        return forward

    def _watch_cache(self, keys: Any, values: Any) -> None:  # noqa: ANN401 - tensors of torch
        if self._cache is not None:
            self._cache.keys = max(self._cache.keys, _largest(keys))
            self._cache.values = max(self._cache.values, _largest(values))


@dataclass(frozen=True)
class _Call:
    """What a layer is given besides hidden states."""

    positional: Any
    named: Any


class _EnoughError(Exception):
    """The last layer was reached."""


@dataclass
class _Shared:
    """Keeps one of equal tensors: batches of one length have the same masks and rotations."""

    torch: Any
    _kept: dict[tuple[Any, ...], list[Any]] = field(default_factory=dict)

    def of(self, value: Any) -> Any:  # noqa: ANN401 - whatever a layer is given
        if isinstance(value, self.torch.Tensor):
            return self._tensor(value)
        if isinstance(value, tuple):
            return tuple(self.of(part) for part in value)
        if isinstance(value, dict):
            return {name: self.of(part) for name, part in value.items()}
        return value

    def _tensor(self, tensor: Any) -> Any:  # noqa: ANN401
        kept = self._kept.setdefault((tuple(tensor.shape), tensor.dtype), [])
        for other in kept[-4:]:  # the current batch's and the one before: enough where all are alike
            if other is tensor or self.torch.equal(other, tensor):
                return other
        kept.append(tensor)
        return tensor


# --- filling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arranged:
    """A layer's weights as its module wants them."""

    parameters: dict[str, NDArray[Any]]
    modules: dict[str, str]
    """Modules of the model -> modules of the checkpoint, for those that are one in both."""
    experts: dict[str, str]
    """Modules that gather experts -> what stands before the number of an expert in the checkpoint."""


def gather(names: Mapping[str, tuple[int, ...]], parameters: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Say where in a layer's parameters each tensor of the checkpoint goes.

    Args:
        names: The tensors' shapes by name, within the layer.
        parameters: The layer's parameters by name.

    Returns:
        The parameter, and where in it (None: it is the parameter).

    Raises:
        CheckpointError: The layer has no place for a tensor.
    """
    places: dict[str, tuple[str, Any]] = {}
    for name, shape in names.items():
        known = _renamed(name, parameters)
        if known in parameters:
            places[name] = (known, None)
            continue
        before, _, rest = known.partition(".experts.")
        number, _, leaf = rest.removesuffix(".weight").partition(".")
        target, half = _GATHERED.get(leaf, ("", None))
        parameter = f"{before}.experts.{target}"
        if parameter not in parameters:
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


def _arrange(layer: Any, tensors: Tensors) -> _Arranged:  # noqa: ANN401 - a module of torch
    parameters = dict(layer.named_parameters()) | dict(layer.named_buffers())
    parameters = {name: value for name, value in parameters.items() if name in layer.state_dict()}
    places = gather({name: array.shape for name, array in tensors.items()}, parameters)
    filled: dict[str, NDArray[Any]] = {}
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
                whole = filled[parameter] = np.empty(tuple(parameters[parameter].shape), tensors[name].dtype)
            whole[where] = tensors[name]
    return _Arranged(filled, modules, experts)


@contextmanager
def _parameters_without_memory(torch: Any) -> Iterator[None]:  # noqa: ANN401 - the library
    """Give parameters that are made in this block a shape but no memory; what else modules keep stays real."""
    kind = torch.nn.Module
    register = kind.register_parameter

    def without_memory(module: Any, name: str, parameter: Any) -> None:  # noqa: ANN401 - of torch
        if parameter is not None:
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    kind.register_parameter = without_memory
    try:
        yield
    finally:
        kind.register_parameter = register


# --- watching ------------------------------------------------------------------------------------------------------


@contextmanager
def _replaced_forwards(layers: Sequence[Any], forward: Callable[..., Any]) -> Iterator[None]:
    """Have layers call a function, with their number first, in place of doing their work."""
    for number, layer in enumerate(layers):
        layer.forward = _bound(forward, number)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _bound(forward: Callable[..., Any], number: int) -> Callable[..., Any]:
    return lambda *positional, **named: forward(number, *positional, **named)


@contextmanager
def _watched(torch: Any, layer: Any, filled: _Arranged, measured: Measured) -> Iterator[None]:  # noqa: ANN401 - of torch
    """Measure what goes into every linear module of a layer."""
    hooks = [
        module.register_forward_pre_hook(_linear_hook(filled.modules[name], measured))
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear) and name in filled.modules
    ]
    watchers = [
        _watch_experts(torch, layer.get_submodule(name), prefix, measured) for name, prefix in filled.experts.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for experts in watchers:
            del experts.forward


def _linear_hook(name: str, measured: Measured) -> Callable[[Any, Any], None]:
    def look(module: Any, positional: Any) -> None:  # noqa: ANN401, ARG001 - as torch calls it
        given = positional[0]
        if given.numel():
            measured.saw(name, _largest(given), given.numel() // given.shape[-1])

    return look


def _watch_experts(torch: Any, experts: Any, prefix: str, measured: Measured) -> Any:  # noqa: ANN401 - of torch
    """Measure what goes into each expert of a module that gathers them; its forward is put back by deleting ours."""
    forward = experts.forward
    leaves = ("w1", "w3", "w2") if prefix.startswith("block_sparse_moe") else ("gate_proj", "up_proj", "down_proj")
    first, second = experts.gate_up_proj, experts.down_proj

    def saw(given: Any, weight: Any) -> None:  # noqa: ANN401 - tensors of torch
        storage = weight.untyped_storage().data_ptr()
        for whole, names in ((first, leaves[:2]), (second, leaves[2:])):
            if storage == whole.untyped_storage().data_ptr() and given.numel():
                number = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
                largest = _largest(given)
                for name in names:
                    measured.saw(f"{prefix}.{number}.{name}", largest, given.numel() // given.shape[-1])

    linear = torch.nn.functional.linear

    def intercept(self: Any, function: Any, types: Any, positional: Any = (), named: Any = None) -> Any:  # noqa: ANN401, ARG001 - as torch calls it
        if function is linear:
            saw(positional[0], positional[1])
        return function(*positional, **(named or {}))

    mode: Any = importlib.import_module("torch.overrides").TorchFunctionMode
    watching = type("Watching", (mode,), {"__torch_function__": intercept})

    def watched(*positional: Any, **named: Any) -> Any:  # noqa: ANN401 - as the layer calls it
        with watching():
            return forward(*positional, **named)

    experts.forward = watched
    return experts


def _largest(tensor: Any) -> float:  # noqa: ANN401 - a tensor of torch
    return float(tensor.abs().amax())


def _register_attention(watch: Callable[[Any, Any], None]) -> None:
    """Give transformers an attention that shows keys and values, after their rotation, to `watch`."""
    models: Any = library("transformers.modeling_utils")
    masks: Any = library("transformers.masking_utils")
    functions = models.ALL_ATTENTION_FUNCTIONS

    def attend(module: Any, queries: Any, keys: Any, values: Any, mask: Any, **options: Any) -> Any:  # noqa: ANN401 - of torch
        watch(keys, values)
        return functions["sdpa"](module, queries, keys, values, mask, **options)

    models.AttentionInterface.register(_ATTENTION, attend)
    masks.AttentionMaskInterface.register(_ATTENTION, masks.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def library(name: str) -> Any:  # noqa: ANN401 - a library without types here
    """Import a library that calibration needs.

    Raises:
        DependencyMissingError: It is not there.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"calibration runs the model and needs torch and transformers: {error}"
        raise DependencyMissingError(
            message, hint="`make setup-torch` installs them beside the command; the images have them"
        ) from error
