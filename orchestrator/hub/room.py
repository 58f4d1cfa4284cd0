"""Room on disk, counted before the first byte is fetched."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DiskFullError

_RESERVE = 64 << 20
"""Bytes that stay free: for journals, logs, and whoever else uses the disk."""


@dataclass(frozen=True)
class Need:
    """Bytes that will be written below a folder."""

    folder: Path
    size: int


def insist_on_room(needs: Iterable[Need]) -> None:
    """Compare what will be written with what is free, per file system.

    Raises:
        DiskFullError: With both numbers.
    """
    sums: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for need in needs:
        place = existing(need.folder)
        device = place.stat().st_dev
        sums[device] += need.size
        places.setdefault(device, place)
    for device, size in sums.items():
        free = free_bytes(places[device])
        if size and size + _RESERVE > free:
            message = (
                f"{places[device]}: {_spelled(size + _RESERVE)} are needed for what is still to be fetched, "
                f"{_spelled(free)} are free"
            )
            hint = f"free {_spelled(size + _RESERVE - free)} or more, or set HF_HUB_CACHE to a folder on a larger disk"
            raise DiskFullError(message, hint=hint)


def existing(folder: Path) -> Path:
    """Find the nearest folder above that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def free_bytes(place: Path) -> int:
    """Ask how much an ordinary user may still write."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def _spelled(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"
