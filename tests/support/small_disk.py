"""A disk that is full soon: a real file system of a few kilobytes, made by root, or by anybody in a namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A mounted folder."""

    path: Path
    """As programs name it that are run by `within`."""
    outside: Path
    """As this process names it."""
    within: tuple[str, ...]
    """What stands before a command that is to see it."""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a file system for a block; without any right to, the test is skipped, or fails where none may be skipped.

    Args:
        folder: Where; made here.
        size: As tmpfs takes it, such as `200k`.
    """
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        try:
            yield SmallDisk(folder, folder, ())
        finally:
            subprocess.run(("umount", "--lazy", folder), check=True)
        return
    with _namespace(folder, mount) as holder:
        if holder is None:
            _give_up(f"a file system cannot be mounted here, nor in a namespace: {done.stderr.strip()}")
            return
        enter = ("nsenter", f"--target={holder}", "--user", "--preserve-credentials", "--mount", "--wd=.")
        yield SmallDisk(folder, Path(f"/proc/{holder}/root{folder}"), enter)


@contextmanager
def _namespace(folder: Path, mount: tuple[str, ...]) -> Iterator[int | None]:
    """Mount in a namespace of our own, in which everybody is root: the process that holds it; None where it fails."""
    script = '"$@" && echo mounted && exec sleep infinity'
    unshare = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *mount)
    with subprocess.Popen(unshare, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder.parent) as holder:
        try:
            assert holder.stdout
            yield holder.pid if holder.stdout.readline() == b"mounted\n" else None
        finally:
            holder.kill()


def _give_up(reason: str) -> None:
    if os.environ.get("ORCHESTRATOR_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
