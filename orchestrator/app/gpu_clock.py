"""Reads a GPU's clock from the driver, and why it is lower than it could be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orchestrator.values import frozen

_COMMON = (
    "clocks.current.sm",
    "clocks.max.sm",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "enforced.power.limit",
)
_QUERIES = (
    (*_COMMON, "clocks_event_reasons.active", "temperature.gpu.tlimit"),
    (*_COMMON, "clocks_throttle_reasons.active"),  # drivers before 535
)
"""nvidia-smi answers nothing at all if it does not know one field."""
_NAMES = {"clocks_throttle_reasons.active": "clocks_event_reasons.active"}
_IDLE = 0x1
_REASONS = ((0x2, "limit"), (0x4, "power"), (0x8, "slowdown"), (0x20, "heat"), (0x40, "heat"), (0x80, "power supply"))
"""NVML, NvmlClocksEventReasons. Sync boost (0x10) and the display's clock (0x100) are not a fault of the machine."""
_BUSY = 50.0
"""Per cent of the time in which a kernel ran; below it the clock may be low because nothing asks for more."""


@frozen
class Clock:
    """What the driver reports of the first GPU; None for what it does not report."""

    now: float
    """MHz of the multiprocessors."""
    most: float | None
    """MHz, as the chip allows."""
    busy: float | None
    """Per cent of the time in which a kernel ran."""
    celsius: float | None
    watts: float | None
    watts_limit: float | None
    degrees_left: float | None
    """Degrees up to the temperature at which the driver slows the GPU down."""
    reasons: int | None
    """Bits of NVML."""

    @property
    def idle(self) -> bool:
        """Whether a low clock only means that the GPU has nothing to do."""
        asleep = bool((self.reasons or 0) & _IDLE)
        return asleep if self.busy is None else asleep or self.busy < _BUSY

    @property
    def why(self) -> tuple[str, ...]:
        """Name what slows it: `heat`, `power`, `power supply`, `slowdown`, `limit`; empty if nothing is reported."""
        return tuple(dict.fromkeys(name for bit, name in _REASONS if (self.reasons or 0) & bit))

    @property
    def conditions(self) -> str:
        """Format temperature and power, as far as they are reported: `91 °C, 19.5 of 140 W`."""
        return ", ".join(self._conditions())

    def _conditions(self) -> Iterator[str]:
        if self.celsius is not None:
            left = "" if self.degrees_left is None else f", {self.degrees_left:g} below its limit"
            yield f"{self.celsius:g} °C{left}"
        if self.watts is not None:
            yield f"{self.watts:g} {'' if self.watts_limit is None else f'of {self.watts_limit:g} '}W"


def read_clock(run: Callable[[Sequence[str]], str | None]) -> Clock | None:
    """Ask nvidia-smi.

    Args:
        run: Returns the output of a command, or None if it fails.

    Returns:
        None if the driver reports no clock.
    """
    for fields in _QUERIES:
        answer = run(("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"))
        cells = (answer or "").strip().partition("\n")[0].split(",")
        if len(cells) == len(fields):
            return _clock(dict(zip((_NAMES.get(name, name) for name in fields), cells, strict=True)))
    return None


def _clock(cells: dict[str, str]) -> Clock | None:
    now, reasons = _number(cells["clocks.current.sm"]), _number(cells["clocks_event_reasons.active"])
    if not now:
        return None
    return Clock(
        now,
        most=_number(cells["clocks.max.sm"]),
        busy=_number(cells["utilization.gpu"]),
        celsius=_number(cells["temperature.gpu"]),
        watts=_number(cells["power.draw"]),
        watts_limit=_number(cells["enforced.power.limit"]),
        degrees_left=_number(cells.get("temperature.gpu.tlimit", "")),
        reasons=None if reasons is None else int(reasons),
    )


def _number(cell: str) -> float | None:
    """Read a number; None for `[N/A]`, `[Not Supported]`, `[Unknown Error]` and the like."""
    text = cell.strip()
    try:
        return float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
    except ValueError:
        return None
