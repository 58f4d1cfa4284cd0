"""Formats the cost of a step's result, for `status`, `logs` and the page of a build's checks."""

from __future__ import annotations

from orchestrator.events import Spent
from orchestrator.store.cost import Cost
from orchestrator.units import in_bytes, in_time

HEADS = ("step", "made (UTC)", "took", "read", "wrote", "peak memory", "computed by", "time by phase")
NUMBERS = (2, 3, 4, 5)
"""The columns with numbers."""


def cells(step: str, cost: Cost) -> tuple[str, ...]:
    """Format one step's cost in the columns of `HEADS`. Values that its command did not report stay empty."""
    took = "" if cost.seconds is None else in_time(cost.seconds)
    made = cost.finished[:16].replace("T", " ")
    if cost.spent is None:
        return (step, made, took, "", "", "", "", "")
    told = cost.spent
    moved = in_bytes(told.bytes_read), in_bytes(told.bytes_written)
    return (step, made, took, *moved, _memory(told), _computer(told), _phases(told))


def sentence(told: Spent) -> str:
    """Format a cost in one line, for a log."""
    moved = f"read {in_bytes(told.bytes_read)}, wrote {in_bytes(told.bytes_written)}"
    return f"cost: {moved}; {_phases(told)}; peak memory {_memory(told)}; computed by {_computer(told)}"


def _memory(told: Spent) -> str:
    device = f", {in_bytes(told.peak_device_memory)} of the GPU" if told.peak_device_memory else ""
    return f"{in_bytes(told.peak_memory)}{device}"


def _computer(told: Spent) -> str:
    threads = f"{told.threads} thread{'' if told.threads == 1 else 's'}"
    return threads if told.device == "cpu" else f"{told.device}, {threads}"


def _phases(told: Spent) -> str:
    return ", ".join(f"{name} {in_time(seconds)}" for name, seconds in told.seconds.items())
