"""What a quantization found and what it cost.

What it found is the same every time and is written beside the weights, as `quantization.json`. What it cost differs
from run to run; it is for the log, because a result is known by its content.
"""

from __future__ import annotations

import math
import resource
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from orchestrator.quantization.schemes import Scheme
    from orchestrator.quantization.watch import Measured

FILE = "quantization.json"


@dataclass
class TensorReport:
    """One quantized weight, gathered while its rows are encoded."""

    module: str
    scheme: Scheme
    scale: np.float32
    signal: float = 0.0
    noise: float = 0.0
    smallest: float = math.inf
    largest: float = 0.0
    saturated: int = 0
    input_scale: np.float32 | None = None

    def add(self, rows: Any, encoded: Mapping[str, Any]) -> None:  # noqa: ANN401 - arrays or tensors of torch
        """Add some rows and what became of them."""
        signal, noise = self.scheme.error(rows, encoded, self.scale)
        self.signal += signal
        self.noise += noise
        if "_scale" in encoded:
            scales = _numbers(encoded["_scale"])
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


def _numbers(scales: Any) -> NDArray[np.float32]:  # noqa: ANN401 - an array or a tensor of torch
    found: NDArray[np.float32] = (
        scales.astype(np.float32) if isinstance(scales, np.ndarray) else scales.float().cpu().numpy()
    )
    return found


@dataclass
class Report:
    """A whole checkpoint."""

    number_format: str
    kv_cache: str
    tensors: dict[str, TensorReport] = field(default_factory=dict)
    experts: dict[str, dict[str, int]] = field(default_factory=dict)
    """For each layer with experts, how many tokens reached each; those that none reached are there with 0."""
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    gpu_bytes: int = 0
    """The most memory of a GPU that was in use."""
    choice: dict[str, Any] | None = None
    """With `auto`, what was chosen and why, see `choice.Choice.document`."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tensor(self, module: str, scheme: Scheme, scale: np.float32) -> TensorReport:
        """Begin a weight."""
        entry = self.tensors[module] = TensorReport(module, scheme, scale)
        return entry

    def layer(self, layer: str, measured: Measured) -> None:
        """Add how often each expert of a written layer was reached."""
        prefix = f"{layer}."
        there = [module for module in self.tensors if module.startswith(prefix) and ".experts." in module]
        hits: dict[str, int] = {}
        for module in there:
            expert = module.removeprefix(prefix).rpartition(".")[0]
            hits[expert] = max(hits.get(expert, 0), measured.tokens.get(module.removeprefix(prefix), 0))
        if hits:
            self.experts[layer] = hits

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def document(self) -> dict[str, Any]:
        """Return what goes into the file: the same for the same work."""
        entries = [entry.document() for entry in self.tensors.values()]
        measured = [entry["snr_db"] for entry in entries if entry["snr_db"] is not None]
        unreached = sum(count == 0 for layer in self.experts.values() for count in layer.values())
        return {
            "format": self.number_format,
            "kv_cache": self.kv_cache,
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

    def summary(self) -> str:
        """Return one line about what it cost, for the log."""
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        gpu = f", of the GPU {self.gpu_bytes / 1e6:.0f} MB" if self.gpu_bytes else ""
        return (
            f"quantized: read {self.bytes_read / 1e9:.3f} GB, wrote {self.bytes_written / 1e9:.3f} GB, {phases};"
            f" peak memory {peak / 1e6:.0f} MB{gpu}"
        )
