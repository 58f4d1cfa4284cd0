"""Reads the cost constants of each runtime from a data file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from orchestrator.errors import CatalogError
from orchestrator.values import frozen

Runtime = Literal["trtllm", "vllm", "edge_llm", "sglang", "llama.cpp"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

Cost = Literal[
    "weights",
    "four_bit",
    "cache",
    "launch",
    "recurrent",
    "compute",
    "exchange",
    "host",
    "prefill_16",
    "prefill_8",
    "prefill_4",
    "prefill_block",
    "prefill_experts",
]
COSTS: tuple[Cost, ...] = get_args(Cost)
"""The factors and terms of a step's time.

- `weights`: time to read weights, relative to the peak bandwidth; its inverse is the share that is reached.
- `four_bit`: added if kernels for other weights unpack four-bit weights.
- `cache`: as `weights`, for the KV cache and recurrent states.
- `launch`: microseconds per block of a layer (attention, MLP, experts), whatever its size.
- `recurrent`: additional microseconds per recurrent layer, whose many small kernels cost more than its bytes.
- `compute`: time of a decode step's products, relative to the peak of the tensor cores at 16 bits.
- `exchange`: microseconds to add up one block's result over a network of several nodes.
- `host`: milliseconds of a step in which the GPU waits for the runtime's own work on the processor. 0 on the machine
  whose `launch` was measured with it; `Constants.host_ms` has it for others.
- `prefill_16`, `_8`, `_4`: time of a prompt's products relative to the same peak, by the bits of the weights;
  `prefill_block`: for the block formats of llama.cpp, which it multiplies as integers of eight bits;
  `prefill_experts`: added for products of experts, each of which gets few of the tokens.
"""

CALIBRATED = "constants.json"
"""The file that `orchestrator calibrate` writes into the store."""

_FILE = "constants.json"
_SPARK = 121
_STORE: ContextVar[Callable[[], Path] | None] = ContextVar("store", default=None)
_BANDS = ("dense", "dense_batch", "moe", "moe_batch", "prefill", "nodes", "elsewhere")


@frozen
class RuntimeConstants:
    """The costs of one runtime."""

    costs: Mapping[Cost, float]
    likeness: float
    """Tokens of a batch choose experts like `batch ** likeness` independent ones; 1: all independent."""
    chunk: int
    """Most prompt tokens in one prefill step."""
    basis: str
    """The source of the figures."""
    experts_measured: bool = True
    """Whether a measurement behind the costs is of a model with experts."""
    four_bit_products: bool = False
    """Whether it multiplies NVFP4 by NVFP4 on the tensor cores. Others unpack the weights and multiply at 16 bits."""
    measured: bool = True
    """Whether any measurement is behind the costs."""
    sm: int = _SPARK
    """The compute capability of the machine that the costs were measured on."""
    pads_windows: bool = False
    """The cache of a sliding window holds one more chunk, and attention reads all of it."""


@frozen
class Kernels:
    """What a runtime has kernels for, where that is not the rule."""

    gguf: bool = False
    """It loads GGUF files, and nothing else."""
    marlin_fp8: tuple[int, ...] = ()
    """Compute capabilities on which FP8 is unpacked by Marlin, unless ModelOpt made it."""
    no_fp8_blocks: tuple[int, ...] = ()
    """Compute capabilities for which it has no kernels for FP8 with block scales."""
    mxfp4: tuple[str, ...] = ()
    """The only classes that it loads in MXFP4; empty: any."""


@frozen
class Constants:
    """All measured constants of the speed model."""

    runtimes: Mapping[Runtime, RuntimeConstants]
    tensor_flops: Mapping[int, float]
    """Operations per second of dense 16-bit products by compute capability, as the vendor states them."""
    bands: Mapping[str, float]
    """Half width of the range by kind, as a share of the expected value."""
    kernels: Mapping[str, Kernels]
    """By runtime; without an entry, it has all."""
    clock_mhz: Mapping[int, float]
    """Of the multiprocessors under load by compute capability, at which the figures were measured."""
    host_ms: Mapping[str, float]
    """By runtime, the cost `host` on machines that its costs were not measured on; without an entry, 0."""

    def runtime(self, name: str, sm: int | None = None) -> RuntimeConstants:
        """Find a runtime's constants.

        Args:
            name: Of the runtime.
            sm: The compute capability of the machine that it runs on. Default: that of the measurements.

        Raises:
            CatalogError: No such runtime.
        """
        for runtime, constants in self.runtimes.items():
            if runtime == name:
                if sm in (None, constants.sm):
                    return constants
                return replace(constants, costs={**constants.costs, "host": self.host_ms.get(name, 0.0)})
        message = f"no runtime is called {name!r:.60}"
        raise CatalogError(message, hint=f"there are: {', '.join(self.runtimes)}")

    def with_runtime(self, name: Runtime, constants: RuntimeConstants) -> Constants:
        """Replace one runtime's constants."""
        return replace(self, runtimes={**self.runtimes, name: constants})


@cache
def default_constants() -> Constants:
    """Return the constants of the tool."""
    text = files("orchestrator.planner").joinpath(_FILE).read_text(encoding="utf-8")
    return _constants(json.loads(text), _FILE)


def constants_with(file: Path) -> Constants:
    """Return the constants, with a calibration file's values for the runtimes that it measured.

    Raises:
        CatalogError: The file cannot be read or has other content.
    """
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{file}: not the result of a calibration: {error}"
        raise CatalogError(message, hint="run `orchestrator calibrate` again, or remove the file") from error
    shipped = default_constants()
    if not isinstance(document, dict) or not isinstance(document.get("engines"), dict):
        message = f"{file}: engines: expected an object"
        raise CatalogError(message, hint="run `orchestrator calibrate` again, or remove the file")
    sm = document.get("sm", _SPARK)
    if not isinstance(sm, int):
        message = f"{file}: sm: expected a whole number; found {sm!r:.60}"
        raise CatalogError(message)
    return replace(shipped, runtimes={**shipped.runtimes, **_runtimes(document["engines"], str(file), sm)})


@contextmanager
def calibrations_of(store: Callable[[], Path]) -> Iterator[None]:
    """Use a store's calibration for speeds without explicit constants.

    Args:
        store: Returns the store's folder. It is called for the first speed.
    """
    token = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(token)


def constants_in_use() -> Constants:
    """Return the constants of the current store, else those of the tool."""
    store = _STORE.get()
    return constants_of(store())[0] if store else default_constants()


def constants_of(store: Path) -> tuple[Constants, Path | None]:
    """Return the constants to plan with: a store's calibration, else those of the tool.

    Returns:
        The constants, and the file of the calibration if there is one.

    Raises:
        CatalogError: The file exists and is not the result of a calibration.
    """
    file = store / CALIBRATED
    return (constants_with(file), file) if file.is_file() else (default_constants(), None)


def to_document(constants: Constants, *runtimes: Runtime) -> dict[str, Any]:
    """Convert constants to the file's form; only the named runtimes, if any are named."""
    return {
        "engines": {
            name: {
                "costs": {cost: round(value, 4) for cost, value in constants.runtimes[name].costs.items()},
                "likeness": constants.runtimes[name].likeness,
                "chunk": constants.runtimes[name].chunk,
                "experts_measured": constants.runtimes[name].experts_measured,
                "four_bit_products": constants.runtimes[name].four_bit_products,
                "pads_windows": constants.runtimes[name].pads_windows,
                "basis": constants.runtimes[name].basis,
            }
            for name in runtimes or tuple(constants.runtimes)
        },
    }


def _constants(document: Mapping[str, Any], where: str) -> Constants:
    return Constants(
        runtimes=_runtimes(document["engines"], where, document["sm"]),
        tensor_flops={int(sm): _positive(value, where, sm) for sm, value in document["tensor_flops"].items()},
        kernels={name: _kernels(entry) for name, entry in document["kernels"].items()},
        clock_mhz={int(sm): _positive(value, where, sm) for sm, value in document["clock_mhz"].items()},
        host_ms={name: _positive(value, where, name) for name, value in document["host_ms"].items()},
        bands={name: _positive(document["bands"][name], where, name) for name in _BANDS},
    )


def _kernels(entry: Mapping[str, Any]) -> Kernels:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Kernels(**fields)


def _runtimes(part: Mapping[str, Any], where: str, sm: int) -> dict[Runtime, RuntimeConstants]:
    found: dict[Runtime, RuntimeConstants] = {}
    for runtime in RUNTIMES:
        if runtime not in part:
            continue
        entry, place = part[runtime], f"{where}: engines.{runtime}"
        try:
            costs = {"host": 0.0, **entry["costs"]}  # older calibrations have none
            found[runtime] = RuntimeConstants(
                costs={cost: _positive(costs[cost], place, cost, zero=True) for cost in COSTS},
                likeness=_positive(entry["likeness"], place, "likeness"),
                chunk=round(_positive(entry["chunk"], place, "chunk")),
                basis=str(entry["basis"]),
                experts_measured=entry["experts_measured"] is True,
                four_bit_products=entry["four_bit_products"] is True,
                pads_windows=entry["pads_windows"] is True,
                measured=entry.get("measured", True) is True,
                sm=sm,
            )
        except (KeyError, TypeError) as error:
            message = f"{place}: incomplete: {error}"
            raise CatalogError(message, hint="run `orchestrator calibrate` again, or remove the file") from error
    return found


def _positive(value: object, where: str, name: str, *, zero: bool = False) -> float:
    if isinstance(value, int | float) and math.isfinite(value) and (value > 0 or (zero and value == 0)):
        return float(value)
    message = f"{where}: {name}: expected a number above 0; found {value!r:.60}"
    raise CatalogError(message)
