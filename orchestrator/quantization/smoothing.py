"""Smooths inputs: a norm puts its numbers out divided by powers of two, which multiply the weights that get them.

Four bits share one scale among 16 numbers, so a large one costs those beside it their precision. The inputs of some
columns are much larger than those of others, always the same ones. If a norm's weight (and its bias) is divided by
`2^e` there, and the columns of all weights that read the norm's output are multiplied by `2^e`, the model calculates
the same bits: powers of two change no digit. `e` is `log2 sqrt(largest input / largest weight)` of the column, less the
mean of all columns, rounded (SmoothQuant, arXiv 2211.10438, with alpha 0.5).

Which modules read a norm's output is seen while the layer runs. If all of them can be multiplied, is proven: the
layer runs a batch once more with the divided norm and has to put out the same bits. Another reader, a norm that adds 1
to its weight or a number that leaves its type's range would change them. Such a norm is left as it is, and counted.
"""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization import layout, report
from orchestrator.quantization.activation_probe import InputMoments, Measured, Overrides
from orchestrator.quantization.files import read_json
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.torch_arrays import as_array, as_tensor
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.formats.e2m1 import Numbers
    from orchestrator.quantization.model import Resident
    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.torch_types import Module, Tensor

    Exponents = NDArray[np.int8]

_LARGEST = 8
"""Of exponents. A trained model of 135M has up to 4."""


def exponents_of(inputs: NDArray[Any], weights: NDArray[Any]) -> Exponents:
    """Calculate the exponent of each column.

    Args:
        inputs: The largest magnitude of each input.
        weights: The largest magnitude of each column, in all weights that are quantized.
    """
    found = np.zeros(len(inputs), np.int8)
    used = (inputs > 0) & (weights > 0) & np.isfinite(inputs) & np.isfinite(weights)
    if used.any():
        wanted = np.log2(inputs[used].astype(np.float64) / weights[used]) / 2
        found[used] = np.rint(wanted - wanted.mean()).clip(-_LARGEST, _LARGEST)
    return found


def scaled(rows: Numbers, exponents: Exponents) -> Numbers:
    """Multiply rows, of shape [..., in], or the weight of a norm by 2^exponents, in their type."""
    if isinstance(rows, np.ndarray):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
            return as_array(scaled(as_tensor(rows, "cpu"), exponents))
    powers = as_tensor(np.exp2(exponents.astype(np.float32)), rows.device)
    return rows * powers.to(rows.dtype)


def changes_of(smoothed: Mapping[str, Sequence[str]], found: Mapping[str, Exponents]) -> dict[str, Exponents]:
    """Return the exponents by which each tensor is multiplied that smoothing changes.

    Args:
        smoothed: By norm, the modules that get its output.
        found: By norm, the exponents by which its output is divided.
    """
    changes: dict[str, Exponents] = {}
    for norm, modules in smoothed.items():
        changes |= {f"{norm}.{leaf}": -found[norm] for leaf in ("weight", "bias")}
        changes |= {f"{module}.weight": found[norm] for module in modules}
    return changes


def read(checkpoint: Checkpoint, original: Checkpoint) -> dict[str, Exponents]:
    """Read the exponents of each tensor of a quantized checkpoint that smoothing changed, from the ratio of its norms.

    Which modules make up for a norm is in the report beside the checkpoint; without one, nothing was smoothed.

    Raises:
        CheckpointError: A ratio is no power of two, or the report names a norm that there is not.
    """
    file = checkpoint.folder / report.FILE
    listed = read_json(file).get("smoothing", {}).get("norms", {}) if file.is_file() else {}
    found: dict[str, Exponents] = {}
    for norm, patterns in listed.items():
        exponents = _ratio(checkpoint, original, f"{norm}.weight")
        modules = [name.removesuffix(".weight") for name in original.tensors if name.endswith(".weight")]
        found |= changes_of({norm: [name for name in modules if layout.matches(name, patterns)]}, {norm: exponents})
    return found


def _ratio(checkpoint: Checkpoint, original: Checkpoint, name: str) -> Exponents:
    if name not in checkpoint.tensors or name not in original.tensors:
        message = f"{checkpoint.folder / report.FILE}: {name} was smoothed, but is not in both checkpoints"
        raise CheckpointError(message)
    before, after = (one.read(name).astype(np.float64) for one in (original, checkpoint))
    kept = (before == 0) & (after == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions, exponents = np.frexp(np.where(kept, 1.0, before / after))
    wrong = (fractions != 0.5) | (abs(exponents - 1) > _LARGEST)  # noqa: PLR2004 - the fraction of a power of two
    if wrong.any():
        column = int(wrong.argmax())
        message = f"{name}[{column}]: found {after[column]:g}, and {before[column]:g} in the original, whose ratio is"
        message += f" no power of two from 2^-{_LARGEST} to 2^{_LARGEST}; no other makes up for smoothed weights"
        raise CheckpointError(message)
    return (exponents - 1).astype(np.int8)


@dataclass
class Smoother:
    """Smooths one layer: sees what its norms put out, and then finds exponents. Names are those within the layer."""

    hidden: int
    """How many numbers a norm of hidden states puts out."""
    quantizes: Callable[[str], bool]
    """Tells whether a module is quantized."""
    mask: Tensor | None = None
    """Whether there is a token, as in `InputMoments`."""
    found: dict[str, Exponents] = field(default_factory=dict)
    """By the norm."""
    _largest: dict[str, Tensor] = field(default_factory=dict)
    """By the norm's module of transformers: the largest magnitude of each number that it put out."""
    _outputs: dict[str, Tensor] = field(default_factory=dict)
    """What norms put out last; kept, so that no other tensor gets its memory."""
    _readers: dict[str, dict[str, None]] = field(default_factory=dict)
    """Modules of transformers that got it."""

    @classmethod
    def of(cls, plan: Plan, number: int) -> Smoother:
        """Make that of a layer."""
        return cls(plan.structure.hidden, lambda module: plan.quantizes(f"{plan.stack}.{number}.{module}.weight"))

    @contextmanager
    def watching(self, layer: Resident) -> Iterator[None]:
        """Record what norms put out in a block, and which modules with weights get it."""
        with ExitStack() as hooks:
            for path, module in layer.layer.named_modules():
                if self._is_norm(layer, path, module):
                    hooks.callback(module.register_forward_hook(self._on_output(path)).remove)
                elif path in layer.arranged.modules or path in layer.arranged.experts:
                    hooks.callback(module.register_forward_pre_hook(self._on_input(path), with_kwargs=True).remove)
            yield
        self._outputs.clear()

    def _is_norm(self, layer: Resident, path: str, module: Module) -> bool:
        own = {name: parameter.shape for name, parameter in module.named_parameters(recurse=False)}
        named = len(layer.arranged.modules.get(path, ())) == 1
        return named and "weight" in own and own.keys() <= {"weight", "bias"} and set(own.values()) == {(self.hidden,)}

    def _on_output(self, path: str) -> Callable[[Module, object, Tensor], None]:
        def hook(_: Module, __: object, output: Tensor) -> None:
            mask = self.mask if self.mask is not None and output.shape[:-1] == self.mask.shape else None
            largest = _largest(output if mask is None else output.masked_fill(~mask[..., None], 0))
            self._largest[path] = largest.maximum(self._largest.get(path, largest))
            self._outputs[path] = output

        return hook

    def _on_input(self, path: str) -> Callable[[Module, tuple[object, ...], Mapping[str, object]], None]:
        is_tensor = load_torch().is_tensor

        def hook(_: Module, positional: tuple[object, ...], named: Mapping[str, object]) -> None:
            tensors = [given for given in (*positional, *named.values()) if is_tensor(given)]
            places = {given.untyped_storage().data_ptr() for given in tensors}
            for norm, output in self._outputs.items():
                if output.untyped_storage().data_ptr() in places:
                    self._readers.setdefault(norm, {})[path] = None

        return hook

    def smooth(
        self,
        layer: Resident,
        hidden: Tensor,
        tensors: Mapping[str, Any],
        measured: Measured,
        moments: InputMoments | None,
    ) -> None:
        """Find the exponents, and convert what was measured to the new units.

        Args:
            layer: The layer with its weights, which has run over all batches.
            hidden: Its hidden states of the first batch.
            tensors: Its weights.
            measured: Its records.
            moments: The moments of inputs.
        """
        norms = {path: layer.arranged.modules[path][0] for path in self._readers}
        folded = {norm: one for path, norm in norms.items() if (one := self._folded(layer, path, tensors))}
        exact = _exact(layer, hidden, [one for one in folded.values() if one.fits])
        measured.unsmoothed += [norm for norm, one in folded.items() if one not in exact]
        for norm, one in folded.items():
            if one in exact:
                self.found[norm], measured.smoothed[norm] = one.exponents, one.modules
                measured.inputs |= {module: one.largest for module in one.modules if module in measured.inputs}
                if moments is not None:
                    moments.rescale(one.modules, one.exponents)

    def _folded(self, layer: Resident, path: str, tensors: Mapping[str, Any]) -> _Folded | None:
        """Return what could be folded into a norm; None if nothing that reads it is quantized."""
        readers = [reader for reader in self._readers[path] if reader in layer.arranged.modules]
        named = [name for reader in readers for name in layer.arranged.modules[reader]]
        named += self._experts(layer, path)
        shapes = {name: tuple(tensors[f"{name}.weight"].shape) for name in named if f"{name}.weight" in tensors}
        modules = [name for name, shape in shapes.items() if shape[1:] == (self.hidden,)]
        weights = [layer.model.tensor(tensors[f"{name}.weight"]) for name in modules if self.quantizes(name)]
        if not weights:
            return None
        columns = load_torch().stack([_largest(weight) for weight in weights]).amax(0)
        inputs = as_array(self._largest[path].float())
        exponents = exponents_of(inputs, as_array(columns.float()))
        largest, fits = float(np.ldexp(inputs, -exponents).max()), bool(scaled(columns, exponents).isfinite().all())
        return _Folded(path, modules, readers, exponents, largest, fits)

    def _experts(self, layer: Resident, path: str) -> list[str]:
        """Return the modules of all experts of a module that gets a norm's output, whether a token reached them."""
        found = []
        for reader in filter(layer.arranged.experts.__contains__, self._readers[path]):
            module = layer.layer.get_submodule(reader)
            for leaf, names in layer.arranged.experts[reader].leaves.items():
                numbers = range(len(getattr(module, leaf)))
                found += [name.format(number) for number in numbers for name in names.values()]
        return found


def _largest(rows: Tensor) -> Tensor:
    """Return the largest magnitude of each column, of numbers of shape [..., in]."""
    return load_torch().linalg.vector_norm(rows.flatten(0, -2), ord=math.inf, dim=0)


@frozen(eq=False)
class _Folded:
    """A norm that may be smoothed."""

    path: str
    """Its module of transformers."""
    modules: list[str]
    """The modules whose columns are multiplied."""
    readers: list[str]
    """Their modules of transformers, except experts."""
    exponents: Exponents
    largest: float
    """The largest magnitude that the smoothed norm puts out."""
    fits: bool
    """Whether the weights are still in the range of their type."""


def _exact(layer: Resident, hidden: Tensor, folded: Sequence[_Folded]) -> Sequence[_Folded]:
    """Return those that change no bit of the layer's output."""
    if not folded:
        return folded
    expected = _bits(layer, hidden, [])
    if _bits(layer, hidden, folded).equal(expected):
        return folded
    return [one for one in folded if len(folded) > 1 and _bits(layer, hidden, [one]).equal(expected)]


def _bits(layer: Resident, hidden: Tensor, folded: Sequence[_Folded]) -> Tensor:
    """Run the first batch through the layer with smoothed norms, and return the bits of its output.

    To multiply an input by a power of two is to multiply the columns of a weight, and takes less memory.
    """
    torch = load_torch()
    exponents = {name: one.exponents for one in folded for name in one.modules}

    def linear(name: str, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        given = scaled(given, exponents[name]) if name in exponents else given
        return torch.nn.functional.linear(given, weight, bias)

    with ExitStack() as changed, layer.running(overrides=Overrides(linear, lambda *both: both)) as running:
        for one in folded:
            norm = layer.layer.get_submodule(one.path)
            for leaf in dict(norm.named_parameters(recurse=False)):
                changed.enter_context(_multiplied(norm, leaf, -one.exponents))
            for module in map(layer.layer.get_submodule, one.readers):
                replaced = type(module).forward is torch.nn.Linear.forward  # by `linear`; some routers are not
                if not replaced and "weight" in dict(module.named_parameters(recurse=False)):
                    changed.enter_context(_multiplied(module, "weight", one.exponents))
        return running(0, hidden).contiguous().view(torch.uint8)


@contextmanager
def _multiplied(module: Module, leaf: str, exponents: Exponents) -> Iterator[None]:
    before = getattr(module, leaf)
    setattr(module, leaf, load_torch().nn.Parameter(scaled(before.data, exponents), requires_grad=False))
    try:
        yield
    finally:
        setattr(module, leaf, before)
