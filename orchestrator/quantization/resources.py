"""Decides before calibration how it works within the available memory.

On a machine with unified memory, and on a processor alone, everything uses one budget. A
GPU with memory of its own has a second budget: its free memory.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from orchestrator.errors import MemoryBudgetError
from orchestrator.quantization.format_names import PAIR_BYTES, PRODUCT_BYTES, PRODUCT_COPIES
from orchestrator.quantization.residence import BUFFER, BUFFERS
from orchestrator.quantization.tensors import DTYPES, TensorSpec
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.torch_types import Torch

_LIBRARIES = 700_000_000
"""Bytes of a process that has loaded torch and transformers and runs its threads (0.38 to 0.6 GB observed)."""
LIBRARIES_OF_GPU = 1_500_000_000
"""Additional memory of a GPU's libraries on the processor's side, and on the GPU."""
_TEMPORARIES = 6
"""Bytes for each number of the widest activation in a layer: itself in BF16, and once more in FP32."""
LAYERS = 3
"""Most layers in memory."""
DECODED = 5
"""Factor of a BF16 matrix that decoding takes besides the result: its codes as numbers, and halves of rows."""
_MEMORY_FILE = Path("/proc/meminfo")


@frozen
class Needs:
    """Bytes of calibration by purpose."""

    work: ClassVar[str] = "calibration"
    hint: ClassVar[str] = (
        "allow more, lower calibration.batch_size or sequence_length, leave rounding: gptq out, or use w4a16_nvfp4,"
        " which runs no model"
    )

    libraries: int
    layer: int
    """The weights of the largest layer, and their copies in another type of computation."""
    gathered: int
    """The largest layer's experts, once more: some models gather them in one tensor."""
    batch: int
    """Activations while one batch runs through a layer."""
    between: int
    """Hidden states of all batches."""
    products: int = 0
    """With GPTQ, the products of a layer's inputs, what is made of those of one module, and the rounded weights; with
    `local_hessian`, the products within blocks, and what is kept of them."""
    quantized: int = 0
    """If inputs are those of quantized layers: a layer as it is stored and as it is multiplied."""

    def total(self, *, layers: int, spill: bool) -> int:
        """Add up, for a number of layers in memory and hidden states in memory or in a file."""
        between = 0 if spill else self.between
        beside = self.gathered + self.batch + self.products + self.quantized
        return self.libraries + layers * self.layer + between + beside

    @property
    def parts(self) -> dict[str, int]:
        """Each part by its name, for messages."""
        return {
            "libraries": self.libraries,
            "one layer": self.layer,
            "its experts once more": self.gathered,
            "one batch": self.batch,
            "hidden states": self.between,
            "products of inputs": self.products,
            "the quantized layer": self.quantized,
        }

    def __str__(self) -> str:
        """For messages."""
        return ", ".join(f"{name} {_gigabytes(size)}" for name, size in self.parts.items() if size)


@frozen
class Way:
    """How calibration works within its budget."""

    layers: int
    """Layers in memory: one that runs; the next one, which is read meanwhile; the one before, which is encoded."""
    spill: bool
    """Hidden states are kept in a file."""

    @property
    def encodes_beside(self) -> bool:
        """Whether a layer is encoded while the next one runs."""
        return self.layers == LAYERS


def needs(plan: Plan, batches: Sequence[Batch], device: str, *, quantized: bool = False) -> Needs:
    """Calculate what a plan needs, from shapes alone.

    Args:
        plan: The work.
        batches: The batches to run.
        device: As torch names it.
        quantized: Each quantized layer runs as well.
    """
    layers = [[plan.spec(name) for unit in units for name in unit] for units in plan.layers.values()]
    largest = max(layers, key=_size)
    hidden = plan.checkpoint.tensors[plan.embedding].shape[1]
    width = max((spec.shape[0] for spec in largest if len(spec.shape) == 2), default=hidden)  # noqa: PLR2004 - a matrix
    number = DTYPES[plan.computed].itemsize
    changed = sum(math.prod(spec.shape) * number for spec in largest if spec.dtype != plan.computed)
    tokens = [batch.tokens.size for batch in batches]
    used = min(sum(tokens), plan.checkpoint.tensors[plan.embedding].shape[0])
    lengths = max((batch.tokens.shape[1] for batch in batches), default=0)
    scores = max((batch.tokens.shape[0] for batch in batches), default=0) * lengths * lengths * 2
    return Needs(
        libraries=_LIBRARIES + used * hidden * number + (LIBRARIES_OF_GPU if device != "cpu" else 0),
        layer=_size(largest) + changed,
        gathered=_size([spec for spec in largest if ".experts." in spec.name]) if device == "cpu" else 0,
        batch=max(tokens, default=0) * (3 * width + 4 * hidden) * _TEMPORARIES + scores,
        between=sum(tokens) * hidden * number,
        products=_products(plan),
        quantized=_multiplied(plan) if quantized else 0,
    )


def quantized_bytes(plan: Plan) -> tuple[int, int, int]:
    """Return bytes of a layer's quantized weights before, as stored, and of the largest one before; over all layers."""
    weights = [
        [spec for unit in units for spec in map(plan.spec, unit) if plan.quantizes(spec.name)]
        for units in plan.layers.values()
    ]
    before = max(sum(spec.size for spec in layer) for layer in weights)
    codes = max(sum(part.size for spec in layer for part in plan.scheme.specs(spec)) for layer in weights)
    return before, codes, max((spec.size for layer in weights for spec in layer), default=0)


def _multiplied(plan: Plan) -> int:
    before, codes, widest = quantized_bytes(plan)
    return before + codes + DECODED * widest


def _products(plan: Plan) -> int:
    """Bytes of the products of inputs in the largest layer, and of what is made of them."""
    if not (plan.scheme.compensates or plan.scheme.weighs_pairs):
        return 0
    most = 0
    for units in plan.layers.values():
        weights = [plan.spec(unit[0]) for unit in units if len(plan.spec(unit[0]).shape) > 1]
        inputs = [spec.shape[1] for spec in weights]
        if not plan.scheme.compensates:
            most = max(most, PAIR_BYTES * sum(inputs))
            continue
        products = PRODUCT_BYTES * (sum(count**2 for count in inputs) + PRODUCT_COPIES * max(inputs, default=0) ** 2)
        rounded = sum(spec.size for unit in units for name in unit for spec in _rounded(plan, name))
        most = max(most, products + rounded)
    return most


def _rounded(plan: Plan, name: str) -> list[TensorSpec]:
    return plan.scheme_of(name).specs(plan.spec(name)) if plan.quantizes(name) else []


def _size(specs: Sequence[TensorSpec]) -> int:
    return sum(spec.size for spec in specs)


def choose(needed: Needs, budget: int, *, spill: bool = False, where: str = "memory", layers: int = LAYERS - 1) -> Way:
    """Choose the fastest way that the budget allows.

    Args:
        needed: The memory of the work.
        budget: Bytes.
        layers: Most layers in memory.
        spill: Keep hidden states in a file for any budget.
        where: The memory's name for the message.

    Raises:
        MemoryBudgetError: No way fits.
    """
    for way in (Way(count, spills) for spills in (False, True) for count in range(layers, 0, -1)):
        if way.spill >= spill and needed.total(layers=way.layers, spill=way.spill) <= budget:
            return way
    least = needed.total(layers=1, spill=True)
    message = (
        f"quantization.resources.memory: {needed.work} needs {_gigabytes(least)} of {where} at least, found"
        f" {_gigabytes(budget)}; it takes {needed}"
    )
    raise MemoryBudgetError(message, hint=needed.hint)


def decide(
    plan: Plan,
    batches: Sequence[Batch],
    *,
    device: str,
    memory: int | None,
    spill: bool,
    torch: Torch,
    quantized: bool = False,
) -> Way:
    """Choose the way for a plan on this machine.

    Args:
        plan: The work.
        batches: The batches to run.
        device: As torch names it.
        memory: The budget in bytes; None: the available memory.
        spill: See `choose`.
        torch: The library.
        quantized: See `needs`.

    Raises:
        MemoryBudgetError: The memory is too small.
    """
    needed, budget = needs(plan, batches, device, quantized=quantized), memory if memory is not None else available()
    # A processor encodes with what runs the layers; and what GPTQ rounded is kept of one layer at a time.
    layers = LAYERS - (device == "cpu" or plan.scheme.compensates)
    if is_shared(torch, device):
        return choose(needed, budget, spill=spill, layers=layers)
    host = replace(needed, libraries=needed.libraries + 2 * BUFFERS * BUFFER, layer=0, gathered=0, batch=0, between=0)
    choose(host, budget, spill=spill)
    own = replace(needed, libraries=LIBRARIES_OF_GPU)
    return choose(own, torch.cuda.mem_get_info(device)[0], spill=spill, where="the GPU's memory", layers=layers)


def is_shared(torch: Torch, device: str) -> bool:
    """Tell whether a device, as torch names it, shares the processor's memory."""
    return device == "cpu" or bool(getattr(torch.cuda.get_device_properties(device), "is_integrated", False))


def available() -> int:
    """Return the bytes of available memory, page cache included.

    If a GPU shares the memory, CUDA counts the page cache as used, and NVML does not answer.
    """
    for line in _MEMORY_FILE.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    message = f"{_MEMORY_FILE}: found no MemAvailable"
    raise MemoryBudgetError(message, hint="name the memory in quantization.resources.memory")


def _gigabytes(size: int) -> str:
    return f"{math.ceil(size / 1e7) / 100:.2f} GB"
