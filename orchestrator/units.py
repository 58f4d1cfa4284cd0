"""Formats bytes and durations for people."""

from __future__ import annotations

_LARGEST = 999.95
"""Numbers below this do not round to 1000.0."""
_MINUTE, _HOUR = 60, 3600


def in_bytes(count: float) -> str:
    """Format a number of bytes in decimal units, as disks and model cards do."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _LARGEST:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def in_time(seconds: float) -> str:
    """Format a duration as short as possible."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"


def in_gib(count: float) -> str:
    """Format a memory in binary gigabytes, as the kernel and `free` do."""
    return f"{round(count / 2**30, 1):g} GiB"
