"""Activation probe: records the inputs of a running layer's modules, or replaces their calculation."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization import layout
from orchestrator.quantization.formats.nvfp4 import BLOCK, pairs_of
from orchestrator.quantization.input_ranges import InputRanges, range_of
from orchestrator.quantization.libraries import library, load_torch, short_numbers_are_exact
from orchestrator.quantization.parameter_mapping import Arranged, GatheredExperts
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.schemes import Scheme
    from orchestrator.quantization.torch_types import Linear, Model, Module, Tensor, Torch

    Function = Callable[..., Any]
    """A function of torch or transformers."""

_EAGER = "eager_attention_forward"
"""The name of a model's own attention in its module."""

_KEYS, _VALUES = "keys", "values"
"""What the cache gets, among the names of modules."""

_COUNTED_LATER = 64
"""Numbers that are kept until the largest is calculated: starting a function of a GPU for each batch takes longer."""

_ATTENTION_INPUTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""The inputs of torch's attention that a caller may leave unnamed."""


@dataclass
class Measured:
    """The records of all batches in one layer. Names are those of the checkpoint, within the layer."""

    inputs: dict[str, float] = field(default_factory=dict)
    """The largest input magnitude of each linear module. A module that no token reached is missing."""
    tokens: dict[str, int] = field(default_factory=dict)
    """How many tokens reached each module of an expert."""
    keys: float = 0.0
    values: float = 0.0
    attended: bool = False
    """Whether attention got keys and values."""
    fed_alike: dict[str, str] = field(default_factory=dict)
    """By module that gets the same tensor as an earlier one, the first that got it."""
    joined: list[list[str]] = field(default_factory=list)
    """Modules whose weights transformers puts below each other, in one matrix."""
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Errors of the layer's output: by the first module of a group and the format, see `sensitivity`."""
    singular: list[str] = field(default_factory=list)
    """Modules whose inputs have products without an inverse, see `InputProducts`; only with GPTQ."""
    smoothed: dict[str, list[str]] = field(default_factory=dict)
    """By norm that puts its numbers out divided by powers of two, the modules that get it, see `smoothing`."""
    unsmoothed: list[str] = field(default_factory=list)
    """Norms that quantized modules get, but that cannot be divided."""
    headroom: dict[str, float] = field(default_factory=dict)
    """The largest input magnitude that is represented with headroom, as in `inputs`, see `input_ranges`."""

    @classmethod
    def restored(cls, entry: Mapping[str, Any]) -> Measured:
        """Make it from the output of `dataclasses.asdict`."""
        return cls(**entry)


ENOUGH_TOKENS = 64
"""Fewer do not tell the mean square of an input: of 64 normal numbers it has a standard deviation of 18 %."""


@frozen
class InputProducts:
    """The sum of `x xᵀ` over the inputs `x` that some modules got."""

    modules: tuple[str, ...]
    sums: Tensor
    """FP32 of shape [in, in], on the device."""
    tokens: int

    @property
    def is_singular(self) -> bool:
        """Whether it cannot have an inverse: of fewer tokens than inputs, or with an input that was always zero."""
        return self.tokens < len(self.sums) or not (self.sums.diagonal() > 0).all()


@dataclass
class InputMoments:
    """Sums of the squares of each input of a layer's modules, over the tokens of all batches but not over padding.

    Padding counts in experts, whose tokens come without their places. Modules that get the same tensor share a sum.
    Tokens whose inputs are all zero are not counted in experts: some get zeros for the tokens of others.
    """

    mask: Tensor | None = None
    """Whether there is a token, of shape [samples, length], for the present batch; None if all are tokens."""
    keeps_products: bool = False
    """Sum the products of every two inputs as well."""
    ranges: InputRanges | None = None
    """Counts how large blocks are as well."""
    keeps_blocks: bool = False
    """Sum the products of every two inputs of a block of `nvfp4.BLOCK` as well."""
    _sums: dict[str, Tensor] = field(default_factory=dict)
    """FP64 of shape [in], on the device; by the first module that gets the tensor."""
    _products: dict[str, Tensor] = field(default_factory=dict)
    """FP32 of shape [in, in], on the device; by the first module that gets the tensor."""
    _blocks: dict[str, Tensor] = field(default_factory=dict)
    """FP32 of shape [in/16, 16, 16], on the device; by the first module that gets the tensor."""
    _tokens: dict[str, Any] = field(default_factory=dict)
    """How many tokens are in a sum: a number, or a tensor of one on the device."""
    _first: dict[str, str] = field(default_factory=dict)
    """By module that shares a sum, the first one."""

    @classmethod
    def of(cls, schemes: Collection[Scheme]) -> InputMoments | None:
        """Sum what some schemes need to know of inputs; None if it is nothing."""
        pairs = any(scheme.weighs_pairs and not scheme.compensates for scheme in schemes)
        compensates = any(scheme.compensates for scheme in schemes)
        ranges = InputRanges() if any(scheme.leaves_headroom for scheme in schemes) else None
        if not (compensates or ranges or any(scheme.weighs_errors for scheme in schemes)):
            return None
        return cls(keeps_products=compensates, keeps_blocks=pairs, ranges=ranges)

    def saw(self, torch: Torch, names: Sequence[str], given: Tensor) -> None:
        """Add an input, by the names of the modules that get it."""
        first, *others = names
        mask = self.mask if self.mask is not None and given.shape[:-1] == self.mask.shape else None
        if mask is not None:
            given = torch.where(mask[..., None], given, 0.0)
        tokens = given.reshape(-1, given.shape[-1])
        count = tokens.any(-1).sum() if _of_expert(first) else len(tokens) if mask is None else mask.sum()
        norm = torch.linalg.vector_norm(tokens, dim=0, dtype=torch.float64)
        self._sums[first] = self._sums[first].addcmul(norm, norm) if first in self._sums else norm.square()
        self._tokens[first] = count + self._tokens.get(first, 0)
        if self.keeps_products:
            self._multiply(torch, first, tokens)
        if self.ranges is not None:
            self.ranges.saw(torch, first, tokens)
        if self.keeps_blocks and tokens.shape[-1] % BLOCK == 0:
            self._multiply_blocks(torch, first, tokens)
        for name in others:
            self.share(name, first)

    def _multiply(self, torch: Torch, first: str, tokens: Tensor) -> None:
        numbers = tokens.float()
        with short_numbers_are_exact(torch, tokens):
            if first in self._products:
                self._products[first].addmm_(numbers.T, numbers)
            else:
                self._products[first] = numbers.T @ numbers

    def _multiply_blocks(self, torch: Torch, first: str, tokens: Tensor) -> None:
        numbers = tokens.float().reshape(len(tokens), -1, BLOCK).permute(1, 2, 0)
        with short_numbers_are_exact(torch, tokens):
            products = numbers @ numbers.mT
        self._blocks[first] = self._blocks[first] + products if first in self._blocks else products

    def share(self, name: str, first: str) -> None:
        """Record that a module gets the same tensor as an earlier one."""
        self._first[name] = first

    def rescale(self, modules: Sequence[str], exponents: NDArray[np.int8]) -> None:
        """Convert what was summed to the units of inputs that are divided by 2^exponents."""
        torch = load_torch()
        powers = torch.from_numpy(np.exp2(-exponents.astype(np.float32)))
        with torch.inference_mode():  # in which they were summed
            for first in self._sums.keys() & set(modules):
                factors = powers.to(self._sums[first].device)
                self._sums[first] *= factors.square()
                if first in self._products:
                    self._products[first].mul_(factors).mul_(factors[:, None])
                if first in self._blocks:
                    blocks = factors.reshape(-1, BLOCK)
                    self._blocks[first].mul_(blocks[:, :, None]).mul_(blocks[:, None])

    def importance(self, *, pairs: bool = False) -> dict[str, NDArray[np.float32]]:
        """Return the mean square of each input over the largest, by module. Modules share arrays.

        Modules that too few tokens reached are missing, and those whose inputs are all zero or are not finite.

        Args:
            pairs: Return those of pairs of inputs in place of them, see `nvfp4.pairs_of`.
        """
        found: dict[str, NDArray[np.float32]] = {}
        for first, sums in self._sums.items():
            squares = sums.cpu().numpy()
            largest = float(squares.max(initial=0))
            if int(self._tokens[first]) >= ENOUGH_TOKENS and 0 < largest < np.inf:
                found[first] = (squares / largest).astype(np.float32)
        if pairs:
            blocks = {first: self._blocks[first].cpu().numpy() for first in found.keys() & self._blocks.keys()}
            found = {first: pairs_of(sums) for first, sums in blocks.items() if np.isfinite(sums).all()}
        shared = {name: found[first] for name, first in self._first.items() if first in found}
        return {**found, **shared}

    def headroom(self, largest: Mapping[str, float]) -> dict[str, float]:
        """Return the largest magnitude of inputs that is represented with headroom, by module.

        All experts of a layer share a scale, so their blocks count together.

        Args:
            largest: The largest magnitude of calibration.
        """
        counts, groups = self.ranges.counts() if self.ranges else {}, dict[layout.Group, tuple[Any, float]]()
        named = {first: layout.input_group(f".{first}") for first in counts}
        for first, group in named.items():
            before, most = groups.get(group, (0, 0.0))
            groups[group] = before + counts[first], max(most, largest[first])
        ranges = {group: range_of(*found) for group, found in groups.items()}
        found = {first: ranges[group] for first, group in named.items()}
        return {**found, **{name: found[first] for name, first in self._first.items() if first in found}}

    def taken_products(self) -> Iterator[InputProducts]:
        """Yield the products of the modules that `importance` knows, and keep them no longer.

        Products that are too large for FP32 are left out as well.
        """
        known = self.importance()
        while self._products:
            first, sums = self._products.popitem()
            if first in known and float(sums.diagonal().sum()) < np.inf:
                others = (name for name, shared in self._first.items() if shared == first)
                yield InputProducts((first, *others), sums, int(self._tokens[first]))
            del sums


def _of_expert(name: str) -> bool:
    return ".experts." in f".{name}"  # within the layer, experts may come first


@frozen
class Overrides:
    """Replacements for parts of a layer."""

    linear: Callable[[str, Tensor, Tensor, Tensor | None], Tensor]
    """A linear module: from its name in the checkpoint within the layer, its input, weight and bias (or None). If
    several are one matrix, such as the gate and up of an expert, the name is that of the first."""
    cache: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Keys and values, after their rotation: what attention gets instead."""


@frozen
class ModuleProbe:
    """The action at a linear module: record its input, replace its calculation, or both.

    What is recorded stays on the device until `finish`: to read one number, the processor waits for all that a GPU has
    to do before.
    """

    torch: Torch
    measured: Measured | None
    overrides: Overrides | None
    moments: InputMoments | None = None
    _inputs: dict[int, tuple[weakref.ref[Tensor], str, Tensor | None]] = field(default_factory=dict)
    """The inputs so far: a weak reference to each, the first module that got it, and the largest magnitude."""
    _largest: dict[str, list[Tensor]] = field(default_factory=dict)
    """By module, and for keys and values: tensors of one number, whose largest counts."""

    def record(self, name: str, given: Tensor) -> None:
        """Record a module's input, and whether it is the same tensor as an earlier module's.

        Args:
            name: The module's name in the checkpoint within the layer.
            given: The input.
        """
        if self.measured is None:
            return
        found = self._inputs.get(id(given))
        if found is None or found[0]() is not given:
            self._inputs[id(given)] = (weakref.ref(given), name, self.record_alike([name], given))
            return
        _, first, largest = found
        self._keep(name, largest, given)
        if first != name:
            self.measured.fed_alike.setdefault(name, first)
            if self.moments is not None:
                self.moments.share(name, first)

    def record_alike(self, names: Sequence[str], given: Tensor) -> Tensor | None:
        """Record an input by the names of the modules that get it, and return its largest magnitude if it has any."""
        if self.measured is None or not given.numel():
            return None
        largest = self._magnitude(given)
        for name in names:
            self._keep(name, largest, given)
        if self.moments is not None:
            self.moments.saw(self.torch, names, given)
        return largest

    def record_cache(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Record keys and values for the cache without changing them."""
        for name, given in ((_KEYS, keys), (_VALUES, values)):
            self._add(name, self._magnitude(given))
        return keys, values

    def finish(self) -> None:
        """Put what was recorded into `measured`. A number that is not finite wins over all others."""
        if self.measured is None or not self._largest:
            return
        every = [self.torch.stack(found).amax().float() for found in self._largest.values()]
        numbers: list[float] = self.torch.stack(every).tolist()
        found = dict(zip(self._largest, numbers, strict=True))
        self.measured.attended = _KEYS in found
        self.measured.keys, self.measured.values = found.pop(_KEYS, 0.0), found.pop(_VALUES, 0.0)
        self.measured.inputs.update(found)

    def _keep(self, name: str, largest: Tensor | None, given: Tensor) -> None:
        if largest is None or self.measured is None:
            return
        self._add(name, largest)
        if _of_expert(name):
            tokens = given.numel() // given.shape[-1]
            self.measured.tokens[name] = self.measured.tokens.get(name, 0) + tokens

    def _magnitude(self, given: Tensor) -> Tensor:
        """Return the largest magnitude, by one function of a GPU; exact, and not a number if one is none."""
        return self.torch.linalg.vector_norm(given, ord=math.inf)

    def _add(self, name: str, largest: Tensor) -> None:
        found = self._largest.setdefault(name, [])
        found.append(largest)
        if len(found) == _COUNTED_LATER:
            found[:] = [self.torch.stack(found).amax()]


@contextmanager
def probed(layer: Module, arranged: Arranged, probe: ModuleProbe) -> Iterator[None]:
    """Record, or replace, every linear module of a layer in a block.

    Args:
        layer: The module; it has its weights.
        arranged: The source of its weights.
        probe: The action.
    """
    linears = [
        (module, arranged.modules[name])
        for name, module in layer.named_modules()
        if isinstance(module, probe.torch.nn.Linear) and name in arranged.modules
    ]
    hooks = [module.register_forward_pre_hook(_linear_hook(names, probe)) for module, names in linears]
    plain = [pair for pair in linears if type(pair[0]).forward is probe.torch.nn.Linear.forward]  # some routers are not
    replaced = [_replace_linear(module, names[0], probe.overrides) for module, names in plain if probe.overrides]
    replaced += [_probe_experts(layer.get_submodule(name), found, probe) for name, found in arranged.experts.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in replaced:
            del module.forward


def _linear_hook(names: Sequence[str], probe: ModuleProbe) -> Callable[[Module, tuple[Tensor, ...]], None]:
    def hook(_: Module, positional: tuple[Tensor, ...]) -> None:
        for name in names:
            probe.record(name, positional[0])

    return hook


def _replace_linear(module: Linear, name: str, overrides: Overrides) -> Module:
    """Replace the calculation. Deleting our forward restores the module's own."""
    module.forward = lambda given: overrides.linear(name, given, module.weight, module.bias)
    return module


def _probe_experts(experts: Module, gathered: GatheredExperts, probe: ModuleProbe) -> Module:
    """Record, or replace, each expert of a module that gathers them. Deleting our forward restores its own."""
    forward = experts.forward
    weights = [(getattr(experts, leaf), sorted(names.items())) for leaf, names in gathered.leaves.items()]
    products = _ExpertProducts(probe, [(whole, [name for _, name in names]) for whole, names in weights])

    def seen(*positional: object, **named: object) -> object:
        with _intercepting(probe.torch, products.call):
            return forward(*positional, **named)

    experts.forward = seen
    return experts


@frozen
class _ExpertProducts:
    """The products of inputs and matrices of experts: one for each expert, or one of all experts."""

    probe: ModuleProbe
    weights: list[tuple[Tensor, list[str]]]
    """Parameters of the module, and the names of the weights below each other, with `{}` for the expert's number."""

    def call(self, function: Function, positional: tuple[Any, ...], named: Mapping[str, Any]) -> object:
        """Call a function of torch, and record, or replace, what multiplies with experts."""
        torch: Any = self.probe.torch  # whose functions are compared here
        linear, products = torch.nn.functional.linear, (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
        if function not in (linear, torch.bmm, *products) or not (found := self._names(positional[1])):
            return function(*positional, **named)
        given, weight = positional[:2]
        each = list(zip(found, given, weight, strict=True) if function is torch.bmm else [(found[0], given, weight)])
        for names, part, _ in each:
            self.probe.record_alike(names, part)
        if self.probe.overrides is None:
            return function(*positional, **named)
        replaced = [
            self.probe.overrides.linear(names[0], part, matrix if function is linear else matrix.T, None)
            for names, part, matrix in each
        ]
        return torch.stack(replaced) if function is torch.bmm else replaced[0]

    def _names(self, weight: Tensor) -> list[list[str]]:
        """Return the modules of each expert whose matrix is in a factor; none if it is another tensor."""
        storage = weight.untyped_storage().data_ptr()
        for whole, names in self.weights:
            if storage == whole.untyped_storage().data_ptr():
                first = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
                count = len(weight) if weight.dim() == whole.dim() else 1
                return [[name.format(number) for name in names] for number in range(first, first + count)]
        return []


def _intercepting(
    torch: Torch, call: Callable[[Function, tuple[Any, ...], Mapping[str, Any]], object]
) -> AbstractContextManager[object]:
    """Return a block in which `call` gets each function of torch that is called, and its arguments."""

    def intercept(
        _: object,
        function: Function,
        __: object,
        positional: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> object:
        return call(function, positional, named or {})

    mode = torch.overrides.TorchFunctionMode
    block: AbstractContextManager[object] = type("Intercepting", (mode,), {"__torch_function__": intercept})()
    return block


# --- attention -----------------------------------------------------------------------------------------------------


@contextmanager
def probed_attention(model: Model, attended: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Make a model's attention pass keys and values to `attended` in a block.

    Replaced are the functions that transformers shares among models, those named `eager` that models have of their
    own, because the others do not support what these need (capped scores, sinks), and torch's, which some models of
    transformers 4.57 call themselves (Qwen2-MoE, OLMoE, Nemotron; ModelOpt edits the call in their source). The
    configuration keeps the name of the function, which some models look at.

    Args:
        model: The model.
        attended: Gets keys and values, after their rotation, and returns those to use.
    """
    shared: Any = library("transformers.modeling_utils").ALL_ATTENTION_FUNCTIONS
    torchs: Any = library("torch.nn.functional")
    modules = {type(module).__module__ for module in model.modules()}
    namespaces: list[dict[str, Any]] = [vars(torchs), *(vars(library(name)) for name in modules)]
    passing, direct = _Passing(attended), torchs.scaled_dot_product_attention
    with ExitStack() as replaced:
        for name in list(shared):
            function = shared[name]
            shared[name] = partial(passing.attend, function)
            replaced.callback(shared.pop, name)  # the library's own is in another dictionary behind it
        for namespace in namespaces:
            found = {_EAGER: passing.attend} if _EAGER in namespace else {}
            found |= {name: passing.attend_directly for name, value in namespace.items() if value is direct}
            for name, replacement in found.items():
                replaced.callback(namespace.__setitem__, name, namespace[name])
                namespace[name] = partial(replacement, namespace[name])
        yield


@dataclass
class _Passing:
    """Passes keys and values on, once if one function of attention calls torch's."""

    attended: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    _within: bool = False

    def attend(
        self,
        function: Function,
        module: Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *positional: object,
        **named: object,
    ) -> object:
        """Call a function of transformers' interface."""
        found = self.attended(key, value)
        before, self._within = self._within, True
        try:
            return function(module, query, *found, *positional, **named)
        finally:
            self._within = before

    def attend_directly(self, function: Function, *positional: object, **named: object) -> object:
        """Call torch's function."""
        if self._within:
            return function(*positional, **named)
        given: dict[str, Any] = {**dict(zip(_ATTENTION_INPUTS, positional, strict=False)), **named}
        given["key"], given["value"] = self.attended(given["key"], given["value"])
        return function(**given)
