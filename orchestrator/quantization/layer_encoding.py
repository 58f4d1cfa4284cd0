"""Decides which weights of a layer share a scale, and encodes a layer's weights in memory, as they would be written."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization import layout
from orchestrator.quantization.formats import fp8
from orchestrator.quantization.hessian import changes_of
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.linear_override import Stored
from orchestrator.quantization.onepass import largest_magnitude
from orchestrator.quantization.smoothing import scaled
from orchestrator.quantization.torch_arrays import as_array
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from orchestrator.quantization.activation_probe import InputMoments, Measured
    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.schemes import Scheme
    from orchestrator.quantization.smoothing import Exponents
    from orchestrator.quantization.tensors import StoredTensor


@frozen
class Weights:
    """The weights of a layer as they are encoded or copied: smoothed, some rows at a time."""

    tensors: Mapping[str, Any]
    """By name, arrays or tensors of torch."""
    source: Mapping[str, StoredTensor]
    """The checkpoint's."""
    changes: Mapping[str, Exponents] = field(default_factory=dict)
    """See `smoothing.changes_of`."""
    cut: Callable[[Any], Iterable[tuple[int, Any]]] = lambda rows: ((0, rows),)
    """Cuts a tensor into runs of rows, and tells the first row of each."""

    def whole(self, name: str) -> Any:  # noqa: ANN401 - an array, or a tensor of torch
        """Return a weight."""
        return self._smoothed(name, self.tensors[name])

    def pieces(self, name: str) -> Iterator[tuple[int, Any]]:
        """Yield runs of rows; what has one dimension is one piece."""
        if self.tensors[name].ndim == 1:
            yield 0, self.whole(name)
            return
        for first, rows in self.cut(self.tensors[name]):
            yield first, self._smoothed(name, rows)

    def largest(self, name: str) -> float:
        """Return the largest magnitude of a weight."""
        pieces = self.pieces(name) if name in self.changes else [(0, self.tensors[name])]
        return max(largest_magnitude(rows, self.source[name], first) for first, rows in pieces)

    def _smoothed(self, name: str, rows: Any) -> Any:  # noqa: ANN401 - as in `whole`
        return scaled(rows, self.changes[name]) if name in self.changes else rows


def weight_groups(plan: Plan, number: int, measured: Measured) -> list[tuple[str, ...]]:
    """Return the quantized weights of a layer. Those that get the same tensor share their scales, too."""
    prefix = f"{plan.stack}.{number}."
    alike = {f"{prefix}{one}.weight": f"{prefix}{other}.weight" for one, other in measured.fed_alike.items()}
    units = [unit for unit in plan.layers[number] if plan.quantizes(unit[0])]
    return [part for group in layout.joined(units, alike) for part in plan.by_scheme(group)]


def weight_scales(
    plan: Plan, group: Sequence[str], weights: Weights, measured: Measured
) -> list[tuple[str, np.float32]]:
    """Return the scale of each weight of a group. Those that are one matrix in transformers share it."""
    modules = {name.removesuffix(".weight") for name in group}
    wholes = [tuple(f".{name}" for name in names) for names in measured.joined]
    one_matrix = any(all(module.endswith(whole) for module in modules) for whole in wholes)
    scheme, amax = plan.scheme_of(group[0]), [weights.largest(name) for name in group]
    if scheme.shares(tuple(group)) or one_matrix:
        amax = [max(amax)] * len(amax)
    return [(name, scheme.weight_scale(largest)) for name, largest in zip(group, amax, strict=True)]


def scales_of_layer(plan: Plan, number: int, weights: Weights, measured: Measured) -> dict[str, np.float32]:
    """Return the scale of each quantized weight of a layer."""
    groups = weight_groups(plan, number, measured)
    return dict(pair for group in groups for pair in weight_scales(plan, group, weights, measured))


def rounded(
    plans: Sequence[Plan], number: int, weights: Weights, measured: Measured, moments: InputMoments
) -> list[dict[str, NDArray[Any]]]:
    """Round a layer's weights by GPTQ.

    Args:
        plans: They differ in their schemes alone, all of which compensate. They use the same products.
        number: The layer.
        weights: Its weights.
        measured: What calibration recorded. It gets the modules whose products have no inverse.
        moments: The products of inputs, which are kept no longer.

    Returns:
        For each plan, what the weights become, by name within the layer.
    """
    prefix = f"{plans[0].stack}.{number}."
    found: list[dict[str, NDArray[Any]]] = [{} for _ in plans]
    scales = [scales_of_layer(plan, number, weights, measured) for plan in plans]
    for inputs in moments.taken_products():
        names = [f"{prefix}{module}.weight" for module in inputs.modules]
        if not any(_compensates(plans[0], name) for name in names):
            continue
        singular, changes = inputs.is_singular, changes_of(load_torch(), inputs.sums)
        for module, name in zip(inputs.modules, names, strict=True):
            if not _compensates(plans[0], name):
                continue
            for plan, scale, kept in zip(plans, scales, found, strict=True):
                encoded = plan.scheme_of(name).encode(weights.whole(name), scale[name], changes=changes)
                for suffix, part in encoded.items():
                    kept[f"{module}.weight{suffix}"] = part if isinstance(part, np.ndarray) else as_array(part)
            measured.singular.extend([module] if singular else [])
    return found


@frozen
class Known:
    """What calibration found of a layer."""

    measured: Measured
    importance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Of inputs, by module within the layer."""
    rounded: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """See `rounded`."""


@frozen
class EncodedLayer:
    """The quantized weights of a layer."""

    stored: dict[str, Stored]
    """By module within the layer."""
    as_mse: int
    """Modules of which calibration saw too little for the plan's search or rounding."""


def encoded_layer(plan: Plan, number: int, weights: Weights, known: Known) -> EncodedLayer:
    """Encode a layer's weights."""
    layer, rows, made, as_mse = f"{plan.stack}.{number}", known.rounded, dict[str, Stored](), 0
    inputs = InputScales.of(layer, known.measured)
    for name, scale in scales_of_layer(plan, number, weights, known.measured).items():
        module, scheme = name.removeprefix(f"{layer}.").removesuffix(".weight"), plan.scheme_of(name)
        importance = None if scheme.compensates else known.importance.get(module)
        encoded: dict[str, Any]
        encoded = {suffix: rows[key] for suffix in ("", "_scale") if (key := f"{module}.weight{suffix}") in rows}
        as_mse += not encoded if scheme.compensates else scheme.weighs_errors and importance is None
        encoded = encoded or scheme.encode(weights.whole(name), scale, importance=importance)
        input_scale = inputs.scale(scheme, f"{layer}.{module}") if scheme.calibrated else None
        parts = {suffix: part if isinstance(part, np.ndarray) else as_array(part) for suffix, part in encoded.items()}
        made[module] = Stored(parts[""], parts.get("_scale"), scale, input_scale)
    return EncodedLayer(made, as_mse)


def cache_scales(plan: Plan, number: int, measured: Measured) -> tuple[np.float32, np.float32] | None:
    """Return the scales of a layer's keys and values; None if it gets none."""
    if not any(map(plan.cache_scales, plan.layers[number])):
        return None
    return fp8.tensor_scale(measured.keys), fp8.tensor_scale(measured.values)


@frozen
class InputScales:
    """The scales of a layer's inputs. All experts of a layer share them."""

    largest: Mapping[tuple[str, Any], float]
    """By group of modules that share a scale, the largest magnitude."""
    headroom: Mapping[tuple[str, Any], float]
    """The largest that is represented with headroom."""

    @classmethod
    def of(cls, layer: str, measured: Measured) -> InputScales:
        """Make those of a layer, by its whole name."""
        return cls(_by_group(layer, measured.inputs), _by_group(layer, measured.headroom))

    def scale(self, scheme: Scheme, module: str) -> np.float32:
        """Return that of a module, by its whole name."""
        return scheme.input_scale(self._range(scheme).get(layout.input_group(module), 0.0))

    def cuts_off(self, scheme: Scheme, module: str) -> bool:
        """Tell whether calibration saw larger inputs than are represented."""
        group = layout.input_group(module)
        return self._range(scheme).get(group, 0.0) < self.largest.get(group, 0.0)

    def _range(self, scheme: Scheme) -> Mapping[tuple[str, Any], float]:
        return self.headroom if scheme.leaves_headroom else self.largest


def _by_group(layer: str, inputs: Mapping[str, float]) -> dict[tuple[str, Any], float]:
    found: dict[tuple[str, Any], float] = {}
    for module, amax in inputs.items():
        group = layout.input_group(f"{layer}.{module}")
        found[group] = max(found.get(group, 0.0), amax)
    return found


def _compensates(plan: Plan, name: str) -> bool:
    return plan.quantizes(name) and plan.scheme_of(name).compensates
