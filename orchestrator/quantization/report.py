"""Writes the report of a quantization, `quantization.json`, which is equal for equal work."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.quantization import layout
from orchestrator.quantization.cost import Cost
from orchestrator.quantization.format_names import MAX, NEAREST, NONE, ORIGINAL
from orchestrator.quantization.libraries import load_torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.quantization.activation_probe import Measured
    from orchestrator.quantization.formats.e2m1 import Numbers
    from orchestrator.quantization.schemes import Scheme

FILE = "quantization.json"

_SMALLEST = 1
"""The byte of the smallest positive number in FP8 E4M3, 2⁻⁹."""


@dataclass
class TensorReport:
    """Statistics of one quantized weight, gathered while its rows are encoded."""

    module: str
    scheme: Scheme
    scale: np.float32
    signal: float = 0.0
    noise: float = 0.0
    smallest: float = math.inf
    largest: float = 0.0
    saturated: int = 0
    input_scale: np.float32 | None = None
    cuts_off: bool = False
    """Calibration saw larger inputs than its scale represents."""
    falls_back: bool = False
    """Calibration knew too little of its inputs: it was searched as `mse` does, and rounded to the nearest."""
    is_singular: bool = False
    """The inputs of calibration did not tell all its columns apart, so GPTQ rests on the damping."""

    def add(self, rows: Numbers, encoded: Mapping[str, Numbers]) -> None:
        """Add some rows and their encoding."""
        signal, noise = self.scheme.error(rows, encoded, self.scale)
        self.signal += signal
        self.noise += noise
        if "_scale" in encoded:
            smallest, largest, saturated = _extremes(encoded["_scale"])
            self.smallest, self.largest = min(self.smallest, smallest), max(self.largest, largest)
            self.saturated += saturated

    def document(self) -> dict[str, Any]:
        """Return the entry in the report."""
        snr = None if self.noise == 0 or self.signal == 0 else round(10 * math.log10(self.signal / self.noise), 2)
        entry: dict[str, Any] = {
            "module": self.module,
            "snr_db": snr,
            "weight_scale": float(self.scale),
            "input_scale": None if self.input_scale is None else float(self.input_scale),
        }
        if self.largest:
            entry["block_scales"] = {"min": self.smallest, "max": self.largest, "at_smallest": self.saturated}
        return entry


def _extremes(scales: Numbers) -> tuple[float, float, int]:
    """Return the smallest and the largest scale of the blocks, and how many are the smallest number of their type.

    Positive numbers in FP8 have the order of their bytes, so nothing is converted or copied from a GPU.
    """
    if not math.prod(scales.shape):
        return math.inf, 0.0, 0
    found: tuple[Any, Any, Any]
    if isinstance(scales, np.ndarray):
        codes = scales.view(np.uint8)
        found = codes.min(), codes.max(), np.count_nonzero(codes == _SMALLEST)
    else:
        there = scales.view(load_torch().uint8)
        found = there.amin(), there.amax(), there.eq(_SMALLEST).sum()
    smallest, largest, saturated = map(int, found)
    numbers = np.array([smallest, largest], np.uint8).view(ml_dtypes.float8_e4m3fn)
    return float(numbers[0]), float(numbers[1]), saturated


@dataclass
class Report:
    """The report of a whole checkpoint."""

    number_format: str
    kv_cache: str
    scale_search: str = MAX
    rounding: str = NEAREST
    smoothing: str = NONE
    layer_inputs: str = ORIGINAL
    input_scales: str = MAX
    norms: dict[str, list[str]] = field(default_factory=dict)
    """By norm that puts its numbers out divided by powers of two, patterns of the modules that make up for it."""
    unsmoothed: list[str] = field(default_factory=list)
    """Norms that quantized modules get, but that cannot be divided."""
    tensors: dict[str, TensorReport] = field(default_factory=dict)
    experts: dict[str, dict[str, int]] = field(default_factory=dict)
    """For each layer with experts, how many tokens reached each expert, zeros included."""
    without_cache_scales: Mapping[str, str] = field(default_factory=dict)
    """With a quantized cache, the layers that get no scales, each with the reason."""
    cost: Cost = field(default_factory=Cost)
    """Not in the file."""
    choice: dict[str, Any] | None = None
    """With `auto`, the choice and its reasons, see `choice.Choice.document`."""

    def tensor(self, module: str, scheme: Scheme, scale: np.float32) -> TensorReport:
        """Start a weight."""
        entry = self.tensors[module] = TensorReport(module, scheme, scale)
        return entry

    def layer(self, layer: str, measured: Measured) -> None:
        """Add what was smoothed in a written layer, and how many tokens reached each expert."""
        prefix = f"{layer}."
        for norm, modules in measured.smoothed.items():
            patterns = (re.sub(r"(^|\.)experts\.\d+\.", r"\1experts.*.", module) for module in modules)
            self.norms[f"{prefix}{norm}"] = [f"{prefix}{one}" for one in dict.fromkeys(patterns)]
        self.unsmoothed += [f"{prefix}{norm}" for norm in measured.unsmoothed]
        there = [module for module in self.tensors if module.startswith(prefix) and ".experts." in module]
        hits: dict[str, int] = {}
        for module in there:
            expert = layout.expert_of(module.removeprefix(prefix))
            hits[expert] = max(hits.get(expert, 0), measured.tokens.get(module.removeprefix(prefix), 0))
        if hits:
            self.experts[layer] = hits

    def document(self) -> dict[str, Any]:
        """Return the content of the file, which is equal for equal work."""
        entries = [entry.document() for entry in self.tensors.values()]
        measured = [entry["snr_db"] for entry in entries if entry["snr_db"] is not None]
        unreached = sum(count == 0 for layer in self.experts.values() for count in layer.values())
        return {
            "format": self.number_format,
            "kv_cache": self.kv_cache,
            **({"without_cache_scales": dict(self.without_cache_scales)} if self.without_cache_scales else {}),
            **(self._search() if self.scale_search != MAX else {}),
            **(self._rounding() if self.rounding != NEAREST else {}),
            **(self._smoothing() if self.smoothing != NONE else {}),
            **(self._input_scales() if self.input_scales != MAX else {}),
            **({"layer_inputs": self.layer_inputs} if self.layer_inputs != ORIGINAL else {}),
            **({"choice": self.choice} if self.choice else {}),
            "snr_db": {
                "min": min(measured, default=None),
                "mean": round(math.fsum(measured) / len(measured), 2) if measured else None,
            },
            "experts": {
                "unreached": unreached,
                "tokens": self.experts,
            },
            "tensors": entries,
        }

    def _search(self) -> dict[str, Any]:
        return {"scale_search": {"name": self.scale_search, "as_mse": self._fallen}}

    def _rounding(self) -> dict[str, Any]:
        singular = [entry.module for entry in self.tensors.values() if entry.is_singular]
        return {"rounding": {"name": self.rounding, "as_nearest": self._fallen, "singular": singular}}

    def _input_scales(self) -> dict[str, Any]:
        cut = [entry.module for entry in self.tensors.values() if entry.cuts_off]
        return {"input_scales": {"name": self.input_scales, "cut_off": cut}}

    def _smoothing(self) -> dict[str, Any]:
        return {"smoothing": {"name": self.smoothing, "norms": self.norms, "left_out": self.unsmoothed}}

    @property
    def _fallen(self) -> list[str]:
        return [entry.module for entry in self.tensors.values() if entry.falls_back]
