"""What of a file lies in memory because it was read or written."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np


def cached(file: Path) -> int:
    """Return the bytes of it, in whole pages."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        there = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        address, found = (ctypes.c_void_p(array.ctypes.data) for array in (view, there))
        status = ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(len(view)), found)
        assert status == 0, os.strerror(ctypes.get_errno())
        del view
    return int((there & 1).sum()) * mmap.PAGESIZE
