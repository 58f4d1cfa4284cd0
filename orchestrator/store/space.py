"""Checks free disk space before the first byte is written."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import DiskFullError
from orchestrator.units import in_bytes
from orchestrator.values import frozen

_RESERVE = 64 << 20
"""Most bytes that stay free, for journals, logs and other users of the disk."""
_SHARE = 10
"""Share of a small need that must stay free."""


@frozen
class Need:
    """Bytes that will be written below a folder."""

    folder: Path
    size: int
    what: str
    """The owner of the bytes, for messages."""


def require_space(needs: Iterable[Need], hint: str) -> None:
    """Compare what will be written with the free space, per file system.

    Args:
        needs: What will be written.
        hint: What helps besides freeing disk space.

    Raises:
        DiskFullError: With every number.
    """
    per_disk: dict[int, list[Need]] = defaultdict(list)
    for need in needs:
        if need.size > 0:
            per_disk[device_of(need.folder)].append(need)
    for found in per_disk.values():
        _insist(found, hint)


def _insist(needs: Sequence[Need], hint: str) -> None:
    place = existing(needs[0].folder)
    size = sum(need.size for need in needs)
    wanted, free = size + min(_RESERVE, size // _SHARE), free_bytes(place)
    if wanted <= free:
        return
    width = max(len(need.what) for need in needs)
    rows = [f"  {need.what:{width}}  {in_bytes(need.size):>9}" for need in needs]
    head = f"{place}: the files still to be written need {in_bytes(wanted)}, and {in_bytes(free)} are free:"
    raise DiskFullError("\n".join((head, *rows)), hint=f"free {in_bytes(wanted - free)} or more, or {hint}")


def existing(folder: Path) -> Path:
    """Find the nearest existing parent folder."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def device_of(folder: Path) -> int:
    """Return the file system of a folder that exists or will be created."""
    return existing(folder).stat().st_dev


def free_bytes(place: Path) -> int:
    """Return how many bytes an ordinary user may still write."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def files_in(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of every file below a folder. Other processes may remove or rename files meanwhile."""
    for place, _, names in os.walk(folder):  # it skips a removed folder, unlike `rglob`
        for name in names:
            with suppress(OSError):
                yield os.lstat(os.path.join(place, name))  # noqa: PTH118 - there may be very many
