"""The floor of everything that reads a model and writes another: doing just that."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from benchmarks.support.watched import forget

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 8_000_000


def copy(model: Path, target: Path, written: int) -> float:
    """Read every byte of a model and write as many as its result has, with nothing computed; return the seconds."""
    forget(model)
    files = sorted(model.glob("*.safetensors"))
    share = written / sum(file.stat().st_size for file in files)
    buffer = bytearray(_PIECE)
    started = time.perf_counter()
    with target.open("wb", buffering=0) as sink:
        for file in files:
            with file.open("rb", buffering=0) as source:
                while count := source.readinto(buffer):
                    sink.write(memoryview(buffer)[: int(count * share)])
                    os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.fsync(sink.fileno())
        os.posix_fadvise(sink.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds
