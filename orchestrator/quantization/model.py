"""A model of transformers with one layer in memory at a time, run to see how large its activations get.

Needs torch and transformers, which whoever calls `load` must have; nothing else in this room imports them.

The whole model exists as a skeleton whose parameters have shapes but no memory. First its own forward runs over every
batch with layers that only note what they are given: so each layer later gets the very mask, rotation and positions
that the model means for it, whether all layers are alike or sliding and full attention alternate. Then one layer at a
time is filled with weights, runs over all batches, and is emptied again.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError, DependencyMissingError
from orchestrator.quantization.architectures import HEAD

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.samples import Batch

_ATTENTION = "orchestrator"
"""The name under which transformers finds our attention: its own, with an eye on keys and values."""

# What modules are called in a checkpoint and, in newer versions of transformers, in the model.
_RENAMED = (("block_sparse_moe.", "mlp."),)

# Where the projections of an expert lie in the parameters that newer versions of transformers gather them in: the
# parameter and which half of its rows. Experts without a gate have the last.
_GATHERED = {
    "gate_proj": (("gate_up_proj", 0),),
    "w1": (("gate_up_proj", 0),),
    "up_proj": (("gate_up_proj", 1), ("up_proj", None)),
    "w3": (("gate_up_proj", 1),),
    "down_proj": (("down_proj", None),),
    "w2": (("down_proj", None),),
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
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """What formats do to the layer's output: by the first module of a group and the format, see `sensitivity`."""

    def saw(self, module: str, largest: float, tokens: int) -> None:
        """Add what went into a module."""
        self.inputs[module] = max(self.inputs.get(module, 0.0), largest)
        if ".experts." in module:
            self.tokens[module] = self.tokens.get(module, 0) + tokens

    def saw_cache(self, keys: Any, values: Any) -> tuple[Any, Any]:  # noqa: ANN401 - tensors of torch
        """Look at keys and values that go into the cache; they stay what they are."""
        self.keys, self.values = max(self.keys, _largest(keys)), max(self.values, _largest(values))
        return keys, values


@dataclass(frozen=True)
class Instead:
    """What is computed in place of parts of a layer."""

    linear: Callable[[str, Any, Any, Any], Any]
    """A linear module: from its name in the checkpoint within the layer, its input, weight and bias (or None). Of the
    gate and up of an expert that are one matrix, the name is the gate's."""
    cache: Callable[[Any, Any], tuple[Any, Any]]
    """Keys and values, after their rotation: what attention is to see of them."""


@dataclass
class LayeredModel:
    """The skeleton, and for each batch how far it has come."""

    torch: Any
    model: Any
    device: str
    hidden: MutableSequence[Any] = field(default_factory=list)
    """What goes into the next layer, a tensor for each batch."""
    _calls: list[list[_Call]] = field(default_factory=list)
    """For each layer and batch, what else the model gives the layer."""
    _cache: Callable[[Any, Any], tuple[Any, Any]] | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> LayeredModel:
        """Build the skeleton of a checkpoint's model.

        Raises:
            DependencyMissingError: There is no torch or no transformers.
            CheckpointError: This transformers does not know the model.
        """
        torch, transformers = library("torch"), library("transformers")
        made = cls(torch, None, device)
        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            config._experts_implementation = "eager"  # noqa: SLF001 - the one that calls a linear function per expert
            with _parameters_without_memory(torch):
                made.model = transformers.AutoModelForCausalLM.from_config(config)
        except (ValueError, KeyError, OSError, ImportError) as error:
            message = f"{folder}: transformers {transformers.__version__} cannot build this model: {error}"
            raise CheckpointError(message) from error
        made.model.eval()
        made._watch_attention()
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

    def begin(self, embedding: NDArray[Any], batches: Sequence[Batch], tokens: NDArray[np.int64] | None = None) -> None:
        """Turn tokens into what the first layer gets, and learn what else each layer gets.

        Args:
            embedding: Its rows.
            batches: What runs through the model.
            tokens: Which tokens the rows are of, in ascending order; all of them when left out.
        """
        torch = self.torch
        self.hidden.clear()
        self._calls = [[] for _ in self.layers]
        module = self.model.get_input_embeddings()
        module.weight = torch.nn.Parameter(self.tensor(embedding), requires_grad=False)
        known = None if tokens is None else torch.from_numpy(tokens).to(self.device)
        hook = module.register_forward_pre_hook(
            lambda _, given: given if known is None else (torch.searchsorted(known, given[0]),)
        )
        shared = _Shared(torch)
        tupled = library("transformers").__version__.startswith("4.")
        with _replaced_forwards(self.layers, self._note(shared, tupled=tupled)), torch.inference_mode():
            for batch in batches:
                given = {"input_ids": batch.tokens, "attention_mask": batch.mask}
                on_device = {name: torch.from_numpy(rows).to(self.device) for name, rows in given.items()}
                with suppress(_EnoughError):
                    self.model(**on_device, use_cache=False)
        hook.remove()
        module.to("meta")

    def run(self, number: int, tensors: dict[str, Any]) -> Measured:
        """Run all batches through a layer.

        Args:
            number: The layer; they come in order.
            tensors: Its weights as the checkpoint names them, within the layer.
        """
        measured = Measured()
        with self.resident(number, tensors) as layer, layer.running(measured=measured) as forward:
            for position, hidden in enumerate(self.hidden):
                self.hidden[position] = forward(position, hidden)
        self.forget(number)
        return measured

    @contextmanager
    def resident(self, number: int, tensors: dict[str, Any]) -> Iterator[Resident]:
        """Have a layer in memory for a block.

        Args:
            number: The layer.
            tensors: Its weights as the checkpoint names them, within the layer; arrays, or tensors of torch.
        """
        layer = self.layers[number]
        arranged = _arrange(layer, tensors)
        self._fill(layer, arranged.parameters)
        try:
            yield Resident(self, layer, arranged, self._calls[number])
        finally:
            layer.to("meta")

    def forget(self, number: int) -> None:
        """Drop what a layer is given besides hidden states: it will not run again."""
        self._calls[number] = []

    @contextmanager
    def head(self, tensors: Mapping[str, Any]) -> Iterator[Callable[[Any], Any]]:
        """Have what comes after the last layer in memory for a block.

        Args:
            tensors: The last norm and the head, or the embedding that it is tied to, as the checkpoint names them.

        Yields:
            Hidden states of shape [1, tokens, hidden] -> logits of shape [1, tokens, vocabulary], with whatever the
            model does to them.
        """
        torch, base = self.torch, self.model.base_model
        head = {name.removeprefix(f"{HEAD}."): array for name, array in tensors.items() if name.startswith(f"{HEAD}.")}
        vectors = {name: array for name, array in tensors.items() if array.ndim == 1 and not name.startswith(HEAD)}
        (table,) = [array for name, array in tensors.items() if array.ndim > 1 and not name.startswith(HEAD)] or [None]
        (last,) = {name.rpartition(".")[0] for name in vectors}
        norm = base.get_submodule(last.partition(".")[2])  # the base model is called otherwise in some checkpoints
        filled = [
            (norm, {name.removeprefix(f"{last}."): array for name, array in vectors.items()}),
            (self.model.get_submodule(HEAD), {"weight": table, **head}),
        ]
        for module, parts in filled:
            self._fill(module, parts)
        outputs: Any = library("transformers.modeling_outputs").MoeModelOutputWithPast

        def logits(hidden: Any) -> Any:  # noqa: ANN401 - a tensor of torch
            base.forward = lambda *_, **__: outputs(last_hidden_state=norm(hidden))
            tokens = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
            return self.model(input_ids=tokens, use_cache=False).logits

        try:
            with torch.inference_mode():
                yield logits
        finally:
            del base.forward
            for module, _ in filled:
                module.to("meta")

    @property
    def state(self) -> Iterable[NDArray[Any]]:
        """What goes into the next layer, as arrays, one at a time."""
        return map(self._array, self.hidden)

    def restore(self, state: Iterable[NDArray[Any]]) -> None:
        """Go on from a state that was kept."""
        self.hidden.clear()
        self.hidden.extend(map(self.tensor, state))

    def _array(self, tensor: Any) -> NDArray[Any]:  # noqa: ANN401 - a tensor of torch
        array: NDArray[Any]
        if tensor.dtype == self.torch.bfloat16:
            array = tensor.cpu().contiguous().view(self.torch.uint16).numpy().view(ml_dtypes.bfloat16)
        else:
            array = tensor.cpu().contiguous().numpy()
        return array

    def _fill(self, module: Any, tensors: Mapping[str, Any]) -> None:  # noqa: ANN401 - a module of torch
        filled = {name: self.tensor(array) for name, array in tensors.items()}
        try:
            module.load_state_dict(filled, assign=True, strict=True)
        except RuntimeError as error:  # names and shapes that this version of transformers does not expect
            message = f"config.json and the weights make another model in this transformers: {f'{error}':.500}"
            raise CheckpointError(message) from error

    def tensor(self, array: Any) -> Any:  # noqa: ANN401 - a tensor of torch, or what becomes one
        """View an array as a tensor on the device; on the CPU they share their memory."""
        if isinstance(array, self.torch.Tensor):
            return array.to(self.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to
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

    def _watch_attention(self) -> None:
        """Have the model's attention, the one that transformers chose for it, show keys and values."""
        config = self.model.config
        _register_attention(config._attn_implementation, self._attended)  # noqa: SLF001 - nothing else says it
        config._attn_implementation = _ATTENTION  # noqa: SLF001

    def _attended(self, keys: Any, values: Any) -> tuple[Any, Any]:  # noqa: ANN401 - tensors of torch
        return self._cache(keys, values) if self._cache else (keys, values)


@dataclass(frozen=True)
class Resident:
    """A layer that has its weights."""

    model: LayeredModel
    layer: Any
    arranged: _Arranged
    calls: Sequence[_Call]

    @contextmanager
    def running(
        self, *, measured: Measured | None = None, instead: Instead | None = None
    ) -> Iterator[Callable[[int, Any], Any]]:
        """Run the layer in a block.

        Args:
            measured: Where to note how large things get.
            instead: What to compute in place of linear modules, keys and values.

        Yields:
            The number of a batch, and what goes into the layer -> what comes out of it.
        """
        torch, owner = self.model.torch, self.model

        def forward(position: int, hidden: Any) -> Any:  # noqa: ANN401 - a tensor of torch
            call = self.calls[position]
            result = self.layer(hidden, *call.positional, **call.named)
            return result[0] if isinstance(result, tuple) else result

        owner._cache = instead.cache if instead else measured.saw_cache if measured else None  # noqa: SLF001 - one thing in two parts
        try:
            with (
                _watched(torch, self.layer, self.arranged, _Eyes(torch, measured, instead)),
                torch.inference_mode(),
            ):
                yield forward
        finally:
            owner._cache = None  # noqa: SLF001


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

    parameters: dict[str, Any]
    """Arrays, or tensors of torch."""
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


def _arrange(layer: Any, tensors: dict[str, Any]) -> _Arranged:  # noqa: ANN401 - a module of torch
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
            tensors[name] = whole[where]  # the same numbers: one copy of them is enough
    return _Arranged(filled, modules, experts)


def _empty_like(part: Any, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - an array or a tensor of torch
    return np.empty(shape, part.dtype) if isinstance(part, np.ndarray) else part.new_empty(shape)


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


@dataclass(frozen=True)
class _Eyes:
    """What is done where a linear module computes: look at what goes in, compute something else, or both."""

    torch: Any
    measured: Measured | None
    instead: Instead | None

    def look(self, name: str, given: Any) -> None:  # noqa: ANN401 - a tensor of torch
        if self.measured is not None and given.numel():
            self.measured.saw(name, _largest(given), given.numel() // given.shape[-1])


@contextmanager
def _watched(torch: Any, layer: Any, filled: _Arranged, eyes: _Eyes) -> Iterator[None]:  # noqa: ANN401 - of torch
    """Watch, or replace, every linear module of a layer."""
    linears = [
        (module, filled.modules[name])
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear) and name in filled.modules
    ]
    hooks = [module.register_forward_pre_hook(_linear_hook(name, eyes)) for module, name in linears]
    replaced = [_replace_linear(module, name, eyes.instead) for module, name in linears if eyes.instead]
    replaced += [
        _watch_experts(torch, layer.get_submodule(name), prefix, eyes) for name, prefix in filled.experts.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in replaced:
            del module.forward


def _linear_hook(name: str, eyes: _Eyes) -> Callable[[Any, Any], None]:
    return lambda _, positional: eyes.look(name, positional[0])


def _replace_linear(module: Any, name: str, instead: Instead) -> Any:  # noqa: ANN401 - a module of torch
    """Compute something else; the module's own forward is put back by deleting ours."""
    module.forward = lambda given: instead.linear(name, given, module.weight, module.bias)
    return module


def _watch_experts(torch: Any, experts: Any, prefix: str, eyes: _Eyes) -> Any:  # noqa: ANN401 - of torch
    """Watch, or replace, each expert of a module that gathers them; its forward is put back by deleting ours."""
    forward = experts.forward
    leaves = ("w1", "w3", "w2") if prefix.startswith("block_sparse_moe") else ("gate_proj", "up_proj", "down_proj")
    gated = hasattr(experts, "gate_up_proj")
    first, second = experts.gate_up_proj if gated else experts.up_proj, experts.down_proj

    def names_of(weight: Any) -> list[str]:  # noqa: ANN401 - a tensor of torch
        storage = weight.untyped_storage().data_ptr()
        for whole, names in ((first, leaves[:2] if gated else leaves[1:2]), (second, leaves[2:])):
            if storage == whole.untyped_storage().data_ptr():
                number = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
                return [f"{prefix}.{number}.{name}" for name in names]
        return []

    linear = torch.nn.functional.linear

    def intercept(self: Any, function: Any, types: Any, positional: Any = (), named: Any = None) -> Any:  # noqa: ANN401, ARG001 - as torch calls it
        names = names_of(positional[1]) if function is linear else []
        for name in names:
            eyes.look(name, positional[0])
        if names and eyes.instead:
            return eyes.instead.linear(names[0], positional[0], positional[1], None)
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


def _register_attention(chosen: str, attended: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    """Give transformers an attention that asks `attended` what to see of keys and values, after their rotation.

    Args:
        chosen: What then attends: an implementation that transformers shares, or `eager`, of which each model has its
            own, because the others cannot do what it needs (cap scores, sinks).
        attended: Is shown keys and values, and says which to use.
    """
    models: Any = library("transformers.modeling_utils")
    masks: Any = library("transformers.masking_utils")

    def attend(module: Any, queries: Any, keys: Any, values: Any, mask: Any, **options: Any) -> Any:  # noqa: ANN401 - of torch
        if chosen == "eager":
            function = library(type(module).__module__).eager_attention_forward
        else:
            function = models.ALL_ATTENTION_FUNCTIONS[chosen]
        return function(module, queries, *attended(keys, values), mask, **options)

    models.AttentionInterface.register(_ATTENTION, attend)
    masks.AttentionMaskInterface.register(_ATTENTION, masks.ALL_MASK_ATTENTION_FUNCTIONS[chosen])


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
