"""Creates a transformers model without weights, and records what its forward gives each layer.

The types are those in which transformers computes with the loaded model: the type that the model computes in,
or one that the model's class requires. Newer versions keep the weights of some routers in FP32, older ones do not.

The model's own forward runs with layers that only record their inputs. So each layer later gets the exact mask,
rotation and positions of the model, whether all layers are alike or sliding and full attention
alternate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization.forwards import Forward, StoppedError
from orchestrator.quantization.libraries import library, load_torch
from orchestrator.values import frozen

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.quantization.torch_types import Dtype, HiddenStates, Model, ModelClass, Module, Tensor, Torch


_FAILURES = (TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError)
"""Errors of a model's code whose layers run one by one."""

_COMPARED_LAST = 16
"""Tensors of one batch: a mask, positions and a rotation of each kind of layers."""


def build(folder: Path, computed: str) -> Model:
    """Create a checkpoint's model without weights, on the processor.

    Args:
        folder: Of the checkpoint.
        computed: The type that the model computes in, as torch names it.

    Raises:
        DependencyMissingError: torch or transformers is missing.
        CheckpointError: This version of transformers does not support the model.
    """
    torch, transformers = load_torch(), library("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if hasattr(config, "quantization_config"):  # weights are decoded when they are read
            del config.quantization_config
        _check_rotation(folder, config)
        config._experts_implementation = "eager"  # noqa: SLF001 - the one that calls a linear function per expert
        with _parameters_without_memory(torch):
            model = _class_for(config).from_config(config, dtype=getattr(torch, computed))
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        message = f"{folder}: transformers {transformers.__version__} cannot build this model: {error}"
        raise CheckpointError(message) from error
    _keep_in_fp32(torch, model, getattr(torch, computed))
    model.eval()
    return model


def _class_for(config: object) -> ModelClass:
    """Return the family of classes that has a configuration's model: of text, or of images and text."""
    transformers = library("transformers")
    multimodal = getattr(transformers, "AutoModelForImageTextToText", None)
    found: ModelClass = transformers.AutoModelForCausalLM
    if multimodal is not None and type(config) in multimodal._model_mapping:  # noqa: SLF001 - only this lists them
        found = multimodal
    return found


def _check_rotation(folder: Path, config: object) -> None:
    """Refuse a rotation that this transformers would ignore: version 4 does not read `rope_parameters`."""
    rotation, version = getattr(config, "rope_parameters", None), library("transformers").__version__
    if not version.startswith("4.") or not rotation:
        return
    meant = {"rope_type": "default", "rope_theta": getattr(config, "rope_theta", None)}
    if rotation != meant:
        message = (
            f"{folder}: config.json: rope_parameters: found {rotation}, which transformers {version} does not read"
        )
        hint = "Use an image with transformers 5, or write rope_theta and rope_scaling into config.json."
        raise CheckpointError(message, hint=hint)


def _keep_in_fp32(torch: Torch, model: Model, computed: Dtype) -> None:
    """Convert parameters and buffers to FP32 that transformers always loads in FP32."""
    kept = list(model._keep_in_fp32_modules_strict or ())  # noqa: SLF001 - only this attribute lists them
    if computed == torch.float16:
        kept += model._keep_in_fp32_modules or ()  # noqa: SLF001
    # transformers 5 searches for a pattern anywhere in a name, 4 for whole parts of it.
    whole = library("transformers").__version__.startswith("4.")
    pattern = "|".join(rf"(^|\.){name}($|\.)" if whole else name.replace("*", ".*") for name in kept)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if kept and re.search(pattern, name) and tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32)


@contextmanager
def _parameters_without_memory(torch: Torch) -> Iterator[None]:
    """Create parameters in this block without memory. Other data of modules stays real."""
    kind = torch.nn.Module
    register = kind.register_parameter

    def without_memory(module: Module, name: str, parameter: Tensor | None) -> None:
        if parameter is not None:
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    kind.register_parameter = without_memory
    try:
        yield
    finally:
        kind.register_parameter = register


@contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Make models report a device in a block. Some move what they are given to that of their first parameter."""
    kind, there = library("transformers").PreTrainedModel, load_torch().device(device)
    kind.device = property(lambda _: there)
    try:
        yield
    finally:
        del kind.device


# --- what layers are given -----------------------------------------------------------------------------------------


@frozen
class Call:
    """A layer's inputs besides hidden states."""

    positional: Any
    named: Any

    @property
    def apart(self) -> Call:
        """The same, of which a layer may change dictionaries and lists: later layers read from the model's own."""
        return Call(_apart(self.positional), _apart(self.named))


def _apart(value: Any) -> Any:  # noqa: ANN401 - what a model gives to its layers
    if isinstance(value, dict):
        return {key: _apart(part) for key, part in value.items()}
    return type(value)(map(_apart, value)) if type(value) in (list, tuple) else value


def listen(
    model: Model,
    layers: Sequence[Module],
    inputs: Iterable[Mapping[str, Any]],
    hidden: HiddenStates,
) -> list[list[Call]] | None:
    """Run a model's own forward with layers that only record their inputs.

    Args:
        model: Its embedding has its weights.
        layers: The model's.
        inputs: The model's arguments by name, for each batch.
        hidden: Gets the first layer's hidden states, a tensor for each batch.

    Returns:
        For each layer and batch, the layer's other inputs; None if layers hand on more than hidden states, or if some
        are not called once.
    """
    torch = load_torch()
    notes = _Notes(_Shared(torch), hidden, [[] for _ in layers])
    try:
        with _replaced_forwards(layers, notes.layer), torch.inference_mode():
            for given in inputs:
                with suppress(StoppedError):
                    model(**given, use_cache=False)
        each_once = all(len(calls) == len(hidden) for calls in notes.calls)
    except (_HandsOnMoreError, *_FAILURES):  # the code between the layers needs what real layers return
        each_once = False
    if each_once:
        return notes.calls
    hidden.clear()
    return None


@frozen
class _Notes:
    """Replaces all layers."""

    shared: _Shared
    hidden: HiddenStates
    calls: list[list[Call]]
    returned: list[object] = field(default_factory=list)
    """What the layer before returned, as a tuple and alone. Models of version 4 pass on the one or the other."""

    def layer(self, number: int, *positional: object, **named: object) -> object:
        """Record a layer's inputs, and return the hidden states.

        Some models of transformers 4 take the first element of a layer's result. The others pass on the tuple, which
        no layer reads.
        """
        hidden, call = _inputs(positional, named, self.shared)
        changed = number and all(hidden is not one for one in self.returned)
        if changed or any(isinstance(value, (dict, list)) for value in (*call.positional, *call.named.values())):
            raise _HandsOnMoreError
        self.calls[number].append(call)
        if number == 0:
            self.hidden.append(hidden)
        if number == len(self.calls) - 1:
            raise StoppedError
        tupled = library("transformers").__version__.startswith("4.")
        self.returned[:] = [(hidden,), hidden]
        return self.returned[0 if tupled else 1]


class _HandsOnMoreError(Exception):
    """Hidden states change between two layers, or layers may write to what they are given."""


def _inputs(positional: Sequence[Any], named: Mapping[str, Any], shared: _Shared) -> tuple[Tensor, Call]:
    """Return a layer's hidden states, and its other inputs."""
    others = dict(named)
    hidden, *more = positional or (others.pop("hidden_states"),)
    return hidden, Call(shared.of(tuple(more)), {name: shared.of(value) for name, value in others.items()})


@dataclass
class Forwards:
    """The forwards of all batches of a model whose layers hand on more than hidden states."""

    layers: Sequence[Module]
    hidden: HiddenStates
    """The hidden states for the next layer, a tensor for each batch."""
    calls: list[list[Call]]
    """As `listen` returns them, of the layers that were reached."""
    _shared: _Shared
    _ends: bool
    """Whether the model's code after the last layer runs, too."""
    output: Any = None
    """The class of what the model without its head returns, once it did."""
    _batches: list[Forward] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def start(
        cls,
        model: Model,
        layers: Sequence[Module],
        inputs: Iterable[Mapping[str, Any]],
        hidden: HiddenStates,
        base: Module | None = None,
    ) -> Forwards:
        """Run each batch to the first layer; see `listen`.

        Args:
            model: Its embedding has its weights.
            layers: The model's.
            inputs: The model's arguments by name, for each batch.
            hidden: Gets the hidden states.
            base: The model without its head. If given, its output becomes the hidden states after the last layer.
        """
        torch = load_torch()
        made = cls(layers, hidden, [[] for _ in layers], _Shared(torch), base is not None)
        made._open.enter_context(_replaced_forwards(layers, made._layer))
        if base is not None:
            made._open.callback(base.register_forward_hook(made._end).remove)

        def work(given: Mapping[str, Any]) -> None:
            with torch.inference_mode():
                model(**given, use_cache=False)

        for given in inputs:
            made._batches.append(Forward(partial(work, given)))
            with refusing(model):
                made._batches[-1].start()
        return made

    def hand_on(self, number: int, batch: int, result: object) -> None:
        """Give the model what a layer returned for a batch, and run it to the next layer.

        Raises:
            ModelUnsupportedError: The next layer is not called.
        """
        last = number == len(self.layers) - 1
        if self._ends or not last:
            self._batches[batch].hand_on(result)
        if last:
            self._batches[batch].stop()
        elif len(self.calls[number + 1]) != batch + 1:
            message = f"transformers does not call layer {number + 1} once after layer {number}"
            raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.")

    def close(self) -> None:
        """Give the layers their own forwards again."""
        self._open.close()

    def _layer(self, number: int, *positional: object, **named: object) -> object:
        """Replace a layer: record its inputs and wait for its result. The caller's thread gets the real layer."""
        batch = self._current()
        if batch is None:
            layer = self.layers[number]
            return type(layer).forward(layer, *positional, **named)
        hidden, call = _inputs(positional, named, self._shared)
        self.calls[number].append(call)
        if number:
            self.hidden[batch] = hidden
        else:
            self.hidden.append(hidden)
        return self._batches[batch].wait_for_result()

    def _end(self, base: Module, given: object, output: Any) -> None:  # noqa: ANN401, ARG002 - a hook of torch
        batch = self._current()
        if batch is not None:
            self.hidden[batch], self.output = output[0], type(output)
            self._batches[batch].wait_for_result()

    def _current(self) -> int | None:
        return next((number for number, one in enumerate(self._batches) if one.is_current), None)


@dataclass
class _Shared:
    """Keeps one of equal tensors: batches of one length have the same masks and rotations."""

    torch: Torch
    _kept: dict[tuple[Any, ...], list[Tensor]] = field(default_factory=dict)
    _last: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """The last tensors that were compared, by their identity, and what was kept for each: all layers get the same."""

    def of(self, value: object) -> object:
        if self.torch.is_tensor(value):
            return self._tensor(value)
        if isinstance(value, tuple):
            return tuple(self.of(part) for part in value)
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._last:
            if len(self._last) == _COMPARED_LAST:
                self._last.clear()
            self._last[id(tensor)] = tensor, self._compared(tensor)
        return self._last[id(tensor)][1]

    def _compared(self, tensor: Tensor) -> Tensor:
        kept = self._kept.setdefault((tuple(tensor.shape), tensor.dtype), [])
        for other in kept[-4:]:  # the current batch's and the one before: enough if all are alike
            if other is tensor or self.torch.equal(other, tensor):
                return other
        kept.append(tensor)
        return tensor


@contextmanager
def refusing(model: Model) -> Iterator[None]:
    """Refuse a model whose code fails in a block because its layers run one by one.

    Raises:
        ModelUnsupportedError: Names the model and the failure.
    """
    try:
        yield
    except _FAILURES as error:
        message = f"{type(model).__name__}: its layers cannot run one by one: {type(error).__name__}: {f'{error}':.300}"
        raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.") from error


@contextmanager
def _replaced_forwards(layers: Sequence[Module], forward: Callable[..., object]) -> Iterator[None]:
    """Make layers call a function, with their number first, instead of their forward."""
    for number, layer in enumerate(layers):
        layer.forward = _bound(forward, number)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _bound(forward: Callable[..., object], number: int) -> Callable[..., object]:
    return lambda *positional, **named: forward(number, *positional, **named)
