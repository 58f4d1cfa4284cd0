"""Writes the report of a quantization, `quantization.json`, which is equal for equal work."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization import layout
from orchestrator.quantization.cost import Cost
from orchestrator.quantization.format_names import MAX, NEAREST
from orchestrator.quantization.torch_arrays import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.quantization.activation_probe import Measured
    from orchestrator.quantization.formats.e2m1 import Numbers
    from orchestrator.quantization.schemes import Scheme

FILE = "quantization.json"


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
            scales = numbers(encoded["_scale"])
            self.smallest = min(self.smallest, float(scales.min(initial=np.inf)))
            self.largest = max(self.largest, float(scales.max(initial=0)))
            self.saturated += int(np.count_nonzero(scales == 2.0**-9))

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


@dataclass
class Report:
    """The report of a whole checkpoint."""

    number_format: str
    kv_cache: str
    scale_search: str = MAX
    rounding: str = NEAREST
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
        """Add how many tokens reached each expert of a written layer."""
        prefix = f"{layer}."
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

    @property
    def _fallen(self) -> list[str]:
        return [entry.module for entry in self.tensors.values() if entry.falls_back]
