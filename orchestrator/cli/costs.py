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
    spent = cost.spent
    moved = in_bytes(spent.bytes_read), in_bytes(spent.bytes_written)
    return (step, made, took, *moved, _memory(spent), _computer(spent), _phases(spent))


def sentence(spent: Spent) -> str:
    """Format a cost in one line, for a log."""
    moved = f"read {in_bytes(spent.bytes_read)}, wrote {in_bytes(spent.bytes_written)}"
    return f"cost: {moved}; {_phases(spent)}; peak memory {_memory(spent)}; computed by {_computer(spent)}"


def _memory(spent: Spent) -> str:
    device = f", {in_bytes(spent.peak_device_memory)} of the GPU" if spent.peak_device_memory else ""
    return f"{in_bytes(spent.peak_memory)}{device}"


def _computer(spent: Spent) -> str:
    threads = f"{spent.threads} thread{'' if spent.threads == 1 else 's'}"
    return threads if spent.device == "cpu" else f"{spent.device}, {threads}"


def _phases(spent: Spent) -> str:
    return ", ".join(f"{name} {in_time(seconds)}" for name, seconds in spent.seconds.items())
