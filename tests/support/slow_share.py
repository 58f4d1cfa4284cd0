"""Mounts one folder twice, as two machines of a cluster do; `share_daemon.py` says how such a file system behaves."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.bench import wait_for
from tests.support.docker_daemon import do_without

_DAEMON = Path(__file__).resolve().parent / "share_daemon.py"


@contextmanager
def two_mounts(folder: Path, seconds: float, ahead: int = 0, locks: str = "shared") -> Iterator[tuple[Path, Path]]:
    """Mount `folder/store` as `folder/share-1` and `folder/share-2` until the block ends.

    Args:
        folder: The parent of what is shared.
        seconds: How long each mount trusts what it knows of names and attributes.
        ahead: Seconds that the file system's clock is ahead of the machines'.
        locks: `shared` by both, or `local`.
    """
    if not Path("/dev/fuse").exists():
        pytest.skip("this machine has no /dev/fuse")
    if importlib.util.find_spec("mfusepy") is None:
        do_without("mfusepy is not installed")
    with ExitStack() as stack:
        first, second = (folder / f"share-{number}" for number in (1, 2))
        for mount in (first, second):
            command = (_DAEMON, folder / "store", mount, seconds, ahead, locks)
            stack.enter_context(_mounted(mount, [sys.executable, *map(str, command)]))
        yield first, second


@contextmanager
def _mounted(mount: Path, command: list[str]) -> Iterator[None]:
    mount.mkdir()
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: mount.is_mount() or daemon.poll() is not None)
        if daemon.poll() is not None:
            assert daemon.stderr
            reason = daemon.stderr.read()
            if "Unable to find libfuse" in reason:
                do_without("libfuse is not installed (apt-get install fuse3)")
            pytest.skip(f"nothing can be mounted here: {reason}")  # a container may have the device and not use it
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(mount)), check=False, capture_output=True)
        daemon.terminate()
        daemon.communicate()
