"""Runs a transformers model over batches with one layer in memory at a time.

The caller of `load` must have torch and transformers.

The model is created without weights, see `skeleton`, which first records the model's inputs of each layer.
Then one layer at a time is filled with weights, runs over all batches, and is emptied.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization import skeleton, structure
from orchestrator.quantization.activation_probe import (
    InputMoments,
    Measured,
    ModuleProbe,
    Overrides,
    probed,
    probed_attention,
)
from orchestrator.quantization.libraries import library, load_torch
from orchestrator.quantization.parameter_mapping import Names, arrange, missing
from orchestrator.quantization.residence import TORCH_TYPES
from orchestrator.quantization.tensors import TransposedMatrix
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.parameter_mapping import Arranged, Target
    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.skeleton import Call
    from orchestrator.quantization.smoothing import Smoother
    from orchestrator.quantization.torch_types import HiddenStates, Model, Module, Tensor, Torch


@dataclass
class LayeredModel:
    """The model without weights, and the progress of each batch."""

    torch: Torch
    model: Model
    plan: Plan
    device: str
    names: Names
    """The model's parameters."""
    path: str
    """The module of the model that holds the layers."""
    hidden: HiddenStates = field(default_factory=list["Tensor"])
    """Hidden states for the next layer, a tensor for each batch."""
    _calls: list[list[Call]] = field(default_factory=list)
    """For each layer and batch, the layer's other inputs."""
    _masks: list[Tensor | None] = field(default_factory=list)
    """For each batch, whether there is a token; None if all are tokens."""
    _forwards: skeleton.Forwards | None = None
    """None if layers hand on hidden states alone."""
    _open: ExitStack = field(default_factory=ExitStack)
    """What the forwards need until the last layer has run."""
    _cache: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    @classmethod
    def load(cls, plan: Plan, device: str = "cpu") -> LayeredModel:
        """Create a plan's model without weights.

        Raises:
            DependencyMissingError: torch or transformers is missing.
            CheckpointError: This version of transformers does not support the model.
        """
        model = skeleton.build(plan.checkpoint.folder, TORCH_TYPES[plan.computed])
        names = Names.of(model, plan.checkpoint.tensors)
        _make_linear(model, plan, names)
        made = cls(load_torch(), model, plan, device, names, _path_of_layers(plan, names))
        made._check()
        for module in made.model.modules():
            for name, buffer in module._buffers.items():  # noqa: SLF001 - torch has no other way to replace one
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)  # noqa: SLF001
        return made

    @property
    def layers(self) -> Sequence[Module]:
        """The layers without weights."""
        layers: Any = self.model.get_submodule(self.path)  # a list of modules
        return tuple(layers)

    def _check(self) -> None:
        """Check that the model has the planned layers and parameters, and that planned modules are linear.

        Raises:
            CheckpointError: A tensor is missing, has another shape, or is not in this model.
            ModelUnsupportedError: A module is not linear.
        """
        plan, shapes = self.plan, {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        layers = {name: number for number, units in plan.layers.items() for unit in units for name in unit}
        targets = {name: self.names.target(name) for name in (*layers, *plan.ends)}
        for name, target in targets.items():
            self._check_tensor(name, target, shapes)
            if name in layers and not target.parameter.startswith(f"{self.path}.{layers[name]}."):
                message = (
                    f"{name} belongs to {target.parameter} in this transformers, not to {self.path}.{layers[name]}"
                )
                raise ModelUnsupportedError(message)
        embedding, table = self.model.get_input_embeddings(), targets[plan.embedding].parameter.rpartition(".")[0]
        if self.model.get_submodule(table) is not embedding:
            message = f"{plan.embedding} is not the embedding of {type(self.model).__name__} in this transformers"
            raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.")
        decoder = f"{self.path.rpartition('.')[0]}."
        parameters = (name for name in shapes if name.startswith(decoder) and not structure.in_tower(name))
        for name in missing(parameters, targets.values()):
            message = f"{plan.checkpoint.folder}: {name} is missing; config.json asks for shape {list(shapes[name])}"
            raise CheckpointError(message)
        self._check_experts(targets.values(), shapes)
        self._check_parts(targets, shapes)

    def _check_parts(self, targets: Mapping[str, Target], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that tensors that are put below each other have the rows of their parameter."""
        rows: Counter[str] = Counter()
        for name, target in targets.items():
            if target.expert is None and target.parts > 1:
                rows[target.parameter] += self.plan.checkpoint.tensors[name].shape[0]
        for parameter, found in rows.items():
            if found != shapes[parameter][0]:
                message = f"{self.plan.checkpoint.folder}: found {found} rows for {parameter}, expected"
                message += f" {shapes[parameter][0]} from config.json"
                raise CheckpointError(message)

    def _check_experts(self, targets: Iterable[Target], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that each gathered parameter gets the matrices of all its experts."""
        gathered = [target for target in targets if target.expert is not None]
        parts = {target.parameter: target.parts for target in gathered}
        for parameter, found in Counter(target.parameter for target in gathered).items():
            if found != (expected := shapes[parameter][0] * parts[parameter]):
                message = f"{self.plan.checkpoint.folder}: found {found} matrices of experts for {parameter}, expected"
                message += f" {expected} from config.json"
                raise CheckpointError(message)

    def _check_tensor(self, name: str, target: Target, shapes: Mapping[str, tuple[int, ...]]) -> None:
        found, asked = self.plan.checkpoint.tensors[name], shapes[target.parameter]
        if target.expert is not None:
            asked = asked[:0:-1] if target.transposed else (asked[1] // target.parts, *asked[2:])
        elif self.plan.quantizes(name):
            self._check_linear(name, target)
        if target.expert is None and target.parts > 1:
            asked = (found.shape[0], *asked[1:])  # `_check_parts` counts the rows of all parts
        if found.shape != asked:
            message = f"{found.file}: {name}: found shape {list(found.shape)}, expected {list(asked)} from config.json"
            raise CheckpointError(message)

    def _check_linear(self, name: str, target: Target) -> None:
        module = self.model.get_submodule(target.parameter.rpartition(".")[0])
        if not isinstance(module, self.torch.nn.Linear):
            kind, known = type(module).__name__, name.removesuffix(".weight")
            message = f"{known} is a {kind} of transformers, expected a linear module"
            raise ModelUnsupportedError(message, hint=f"Exclude it: quantization.exclude: [{known!r}].")

    def begin(
        self,
        embedding: NDArray[Any],
        batches: Sequence[Batch],
        tokens: NDArray[np.int64] | None = None,
        *,
        twice: bool = False,
    ) -> None:
        """Embed tokens for the first layer, and record the other inputs of each layer.

        Args:
            embedding: Its rows.
            batches: The batches to run.
            tokens: The tokens of the rows, in ascending order; by default all of them.
            twice: If the model's own code runs between layers, run it twice for each batch, first for the original
                and then for its quantized copy, and up to the head.
        """
        torch = self.torch
        module = self.model.get_input_embeddings()
        rows = self.tensor(embedding).to(module.weight.dtype)
        module.weight = torch.nn.Parameter(rows, requires_grad=False)
        known = None if tokens is None else torch.from_numpy(tokens).to(self.device)
        hook = module.register_forward_pre_hook(
            lambda _, given: given if known is None else (torch.searchsorted(known, given[0]),)
        )
        self.hidden.clear()
        self._masks = [None if batch.mask.all() else self.tensor(batch.mask).bool() for batch in batches]
        inputs = [{"input_ids": self.tensor(b.tokens), "attention_mask": self.tensor(b.mask)} for b in batches]
        with ExitStack() as needed:
            needed.callback(module.to, "meta")
            needed.callback(hook.remove)
            needed.enter_context(skeleton.computing_on(self.device))
            needed.enter_context(self._filled_when_called(besides=module))
            calls = skeleton.listen(self.model, self.layers, inputs, self.hidden)
            if calls is None:
                runs, base = ([*inputs, *inputs], self._base) if twice else (inputs, None)
                self._forwards = skeleton.Forwards.start(self.model, self.layers, runs, self.hidden, base)
                calls = self._forwards.calls
                needed.callback(self._forwards.close)
                self._open = needed.pop_all()
            self._calls = calls

    @property
    def _base(self) -> Module:
        """The model without its head."""
        return self.model.get_submodule(self.path.partition(".")[0])

    @property
    def can_restore(self) -> bool:
        """Whether the hidden states are all that a later layer needs of earlier ones."""
        return self._forwards is None

    @contextmanager
    def _filled_when_called(self, besides: Module) -> Iterator[None]:
        """Give modules outside of the layers their weights when the model first calls them, or what they are part of.

        Most models call only their embedding before the first layer. Some have more: positions, norms, projections.
        Some look at the device of a weight before they call its module. The head is not called.
        """
        sources: dict[str, dict[str, str]] = {}
        for name in self.plan.ends:
            path, _, leaf = self.names.target(name).parameter.rpartition(".")
            sources.setdefault(path, {})[leaf] = name
        filled: list[Module] = []

        def fill(module: Module, parts: Mapping[str, str]) -> None:
            for leaf, name in parts.items():
                tensor = self.tensor(self.plan.read(name)).to(getattr(module, leaf).dtype)
                setattr(module, leaf, self.torch.nn.Parameter(tensor, requires_grad=False))
            filled.append(module)

        def hook(module: Module, parts: Mapping[str, str]) -> Callable[[object, object], None]:
            return lambda *_: None if module in filled else fill(module, parts)

        head, hooks = self.model.get_output_embeddings(), []
        for path, parts in sources.items():
            module = self.model.get_submodule(path)
            if module is not besides and module is not head:
                around = self.model.get_submodule(path.rpartition(".")[0])
                hooks += [one.register_forward_pre_hook(hook(module, parts)) for one in (around, module)]
        try:
            yield
        finally:
            for one in hooks:
                one.remove()
            for module in filled:
                module.to("meta")

    def run(
        self,
        number: int,
        tensors: dict[str, Any],
        moments: InputMoments | None = None,
        smoother: Smoother | None = None,
        *,
        stays: bool = False,
    ) -> Measured:
        """Run all batches through a layer.

        Args:
            number: The layer. Layers come in order.
            tensors: Its weights by checkpoint name, within the layer.
            moments: Gets the moments of inputs.
            smoother: Smooths the layer's inputs; then what was measured is in the new units.
            stays: Keep the hidden states, for another run that leads to the next layer.
        """
        with self.resident(number, tensors) as layer:
            measured = layer.measured(len(self.hidden), tensors, moments, smoother, stays=stays)
        if not stays:
            self.forget(number)
        return measured

    @contextmanager
    def resident(self, number: int, tensors: dict[str, Any]) -> Iterator[Resident]:
        """Keep a layer in memory for a block.

        Args:
            number: The layer.
            tensors: Its weights by checkpoint name, within the layer; arrays, or tensors of torch.
        """
        layer = self.layers[number]
        outside, inside = f"{self.plan.stack}.{number}.", f"{self.path}.{number}."
        targets = {}
        for name in tensors:
            target = self.names.target(f"{outside}{name}")
            targets[name] = replace(target, parameter=target.parameter.removeprefix(inside))
        shapes = {name: parameter.shape for name, parameter in layer.state_dict().items()}
        arranged = arrange(targets, shapes, tensors)
        buffers = [(module, dict(module._buffers)) for module in layer.modules()]  # noqa: SLF001 - no checkpoint has them
        self._fill(layer, arranged.parameters)
        try:
            yield Resident(self, number, layer, arranged, self._calls[number], self._masks)
        finally:
            layer.to("meta")
            for module, kept in buffers:
                module._buffers.update(kept)  # noqa: SLF001 - the layer may be filled again

    def forget(self, number: int) -> None:
        """Release a layer's other inputs. It will not run again."""
        self._calls[number] = []
        if number == len(self._calls) - 1:
            self._open.close()

    def hand_on(self, number: int, position: int, result: object) -> None:
        """Make what a layer returned for a batch the next layer's input.

        Raises:
            ModelUnsupportedError: It is more than hidden states, but the model seemed to need nothing else.
        """
        if self._forwards is not None:
            with skeleton.refusing(self.model):
                self._forwards.hand_on(number, position, result)
            return
        first, *more = result if isinstance(result, tuple) else (result,)
        if any(self.torch.is_tensor(one) for one in more):
            message = f"{type(self.model).__name__}: a layer returns more than hidden states"
            raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.")
        self.hidden[position] = first

    @contextmanager
    def head(self, tensors: Mapping[str, Any]) -> Iterator[Callable[[Tensor], Tensor]]:
        """Keep the modules after the last layer in memory for a block.

        Args:
            tensors: The last norm and the head, or the tied embedding, by checkpoint name.

        Yields:
            Hidden states of shape [1, tokens, hidden] -> logits of shape [1, tokens, vocabulary], as the
            model calculates them. The last norm is left out if the model's own code ran up to the head.
        """
        torch, base = self.torch, self._base
        parts: dict[str, dict[str, Any]] = {}
        for name, array in tensors.items():
            path, _, leaf = self.names.target(name).parameter.rpartition(".")
            parts.setdefault(path, {})[leaf] = array
        embedding = self.names.target(self.plan.embedding).parameter.rpartition(".")[0]
        head = self._head
        norm = self._norm(parts.keys() - {embedding, head}) if self._forwards is None else None
        table = parts.pop(embedding, {})
        parts = {name: parts[name] for name in (norm,) if name} | {head: table | parts.get(head, {})}
        filled = [(self.model.get_submodule(name), arrays) for name, arrays in parts.items()]
        for module, arrays in filled:
            self._fill(module, arrays)
        known = self._forwards.output if self._forwards is not None else None
        outputs: Any = known or library("transformers.modeling_outputs").MoeModelOutputWithPast
        last = self.model.get_submodule(norm) if norm else None

        def logits(hidden: Tensor) -> Tensor:
            base.forward = lambda *_, **__: outputs(last_hidden_state=last(hidden) if last else hidden)
            tokens = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
            found: Tensor = self.model(input_ids=tokens, use_cache=False).logits
            return found

        try:
            with torch.inference_mode():
                yield logits
        finally:
            del base.forward
            for module, _ in filled:
                module.to("meta")

    @property
    def _head(self) -> str:
        """The path of the head."""
        return next(name for name, module in self.model.named_modules() if module is self.model.get_output_embeddings())

    def _norm(self, modules: Iterable[str]) -> str:
        """Return the norm between the last layer and the head.

        Raises:
            ModelUnsupportedError: There is more.
        """
        others = sorted(modules)
        if len(others) != 1:
            message = f"{type(self.model).__name__}: found {', '.join(others) or 'nothing'} between layers and head"
            raise ModelUnsupportedError(message, hint="Comparing supports models with one norm there.")
        return others[0]

    @property
    def state(self) -> Iterable[NDArray[Any]]:
        """Yield the hidden states for the next layer as arrays, one at a time."""
        return self.arrays(self.hidden)

    def restore(self, state: Iterable[NDArray[Any]]) -> None:
        """Continue from a saved state."""
        self.hidden.clear()
        self.hidden.extend(map(self.tensor, state))

    def arrays(self, tensors: Iterable[Tensor]) -> Iterable[NDArray[Any]]:
        """View tensors of torch as arrays, one at a time."""
        return map(self._array, tensors)

    def _array(self, tensor: Tensor) -> NDArray[Any]:
        if tensor.dtype == self.torch.bfloat16:
            return tensor.cpu().contiguous().view(self.torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return tensor.cpu().contiguous().numpy()

    def _fill(self, module: Module, tensors: Mapping[str, NDArray[Any] | Tensor]) -> None:
        types = {name: parameter.dtype for name, parameter in module.state_dict().items()}
        filled = {name: self.tensor(array) for name, array in tensors.items()}
        # The model may compute in another type than the checkpoint's.
        filled = {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in filled.items()}
        try:
            module.load_state_dict(filled, assign=True, strict=True)
        except RuntimeError as error:  # names and shapes that this version of transformers does not expect
            message = f"config.json and the weights make another model in this transformers: {f'{error}':.500}"
            raise CheckpointError(message) from error

    def tensor(self, array: NDArray[Any] | Tensor) -> Tensor:
        """View an array as a tensor on the device. On the CPU they share their memory."""
        if not isinstance(array, np.ndarray):
            return array.to(self.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
            if array.dtype == ml_dtypes.bfloat16:
                return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16).to(self.device)
            return self.torch.from_numpy(array).to(self.device)

    def _attended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self._cache(keys, values) if self._cache else (keys, values)


@frozen
class Resident:
    """A layer with its weights."""

    model: LayeredModel
    number: int
    layer: Module
    arranged: Arranged
    calls: Sequence[Call]
    masks: Sequence[Tensor | None]

    def measured(
        self,
        batches: int,
        tensors: Mapping[str, Any],
        moments: InputMoments | None = None,
        smoother: Smoother | None = None,
        *,
        stays: bool = False,
    ) -> Measured:
        """Run the first batches to the next layer, and record; see `LayeredModel.run`."""
        measured, first = Measured(), self.model.hidden[0] if smoother else None
        ranges = moments.ranges if moments else None
        if moments and smoother:
            moments.ranges = None  # those of smoothed inputs need another run
        again = smoother is not None and ranges is not None
        watching = smoother.watching(self) if smoother else nullcontext()
        with watching, self.running(measured=measured, moments=moments) as running:
            for position in range(batches):
                if smoother:
                    smoother.mask = self.masks[position]
                running.step(position, stays=stays or again)
        measured.joined = [names for names in self.arranged.modules.values() if len(names) > 1]
        if smoother and first is not None:
            smoother.smooth(self, first, tensors, measured, moments)
        if again and smoother and moments and ranges:
            moments.ranges = ranges
            for norm, modules in measured.smoothed.items():
                ranges.divide(modules, smoother.found[norm])
            with self.running(measured=Measured(), moments=InputMoments(ranges=ranges)) as running:
                for position in range(batches):
                    running.step(position, stays=stays)
        if moments:
            measured.headroom = moments.headroom(measured.inputs)
        return measured

    @contextmanager
    def running(
        self,
        *,
        measured: Measured | None = None,
        overrides: Overrides | None = None,
        moments: InputMoments | None = None,
    ) -> Iterator[Running]:
        """Run the layer in a block.

        Args:
            measured: Gets the largest magnitudes.
            overrides: Replaces the calculation of linear modules, keys and values.
            moments: With `measured`, gets the moments of inputs.
        """
        torch, owner = self.model.torch, self.model
        probe = ModuleProbe(torch, measured, overrides, moments)
        owner._cache = overrides.cache if overrides else probe.record_cache if measured else None  # noqa: SLF001 - one thing in two parts
        try:
            probing = probed(self.layer, self.arranged, probe)
            attention = probed_attention(owner.model, owner._attended)  # noqa: SLF001
            with probing, attention, torch.inference_mode():
                yield Running(self, moments)
            probe.finish()
        finally:
            owner._cache = None  # noqa: SLF001


@frozen
class Running:
    """A layer that can run."""

    resident: Resident
    moments: InputMoments | None

    def __call__(self, position: int, hidden: Tensor) -> Tensor:
        """Return the layer's output for the hidden states of a batch, by its number."""
        result = self._result(position, hidden, again=True)
        return result[0] if isinstance(result, tuple) else result

    def step(self, position: int, *, stays: bool) -> None:
        """Run a batch through the layer, to the next one unless it stays."""
        if stays:
            self(position, self.resident.model.hidden[position])
        else:
            self.advance(position)

    def advance(self, position: int) -> Tensor:
        """Run a batch through the layer to the next one, and return the layer's output."""
        model = self.resident.model
        result = self._result(position, model.hidden[position])
        model.hand_on(self.resident.number, position, result)
        return result[0] if isinstance(result, tuple) else result

    def _result(self, position: int, hidden: Tensor, *, again: bool = False) -> tuple[Any, ...] | Tensor:
        call = self.resident.calls[position].apart if again else self.resident.calls[position]
        if self.moments is not None:
            self.moments.mask = self.resident.masks[position]
        with skeleton.refusing(self.resident.model.model):
            result: tuple[Any, ...] | Tensor = self.resident.layer(hidden, *call.positional, **call.named)
        return result


def _make_linear(model: Model, plan: Plan, names: Names) -> None:
    """Replace modules that multiply with transposed matrices by linear ones, as ModelOpt does."""
    torch, transposing = load_torch(), library("transformers.pytorch_utils").Conv1D
    for name, tensor in plan.checkpoint.tensors.items():
        if not isinstance(tensor, TransposedMatrix):
            continue
        path = names.target(name).parameter.rpartition(".")[0]
        module = model.get_submodule(path)
        if isinstance(module, transposing):
            outputs, inputs = tensor.shape
            linear = torch.nn.Linear(inputs, outputs, device="meta", dtype=module.weight.dtype)
            model.set_submodule(path, linear.requires_grad_(requires_grad=False))


def _path_of_layers(plan: Plan, names: Names) -> str:
    """Return the module that holds the layers, by the parameter that a tensor of the first layer fills."""
    first = next(name for name in plan.checkpoint.tensors if plan.layer_of(name) == 0)
    path, numbered, _ = names.target(first).parameter.partition(".0.")
    if not numbered:
        message = f"{first}: this transformers does not keep it in a numbered layer"
        raise ModelUnsupportedError(message)
    return path
