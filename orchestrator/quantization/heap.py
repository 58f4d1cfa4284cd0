"""Makes freed memory go back to the system at once instead of staying with the process."""

from __future__ import annotations

import ctypes
import os

_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""
_LARGE = 4 << 20
"""Bytes. Weights and logits are larger. Activations of a small model are smaller, and come and go so often that mapping
each of them again takes a fifth of the time of a comparison."""


def give_back_what_is_large() -> bool:
    """Make malloc map every large request separately from now on, so that `free` unmaps it.

    glibc does so for requests above 128 kB at first, but raises that limit to the size of freed memory, up to 32
    MB. From then on the buffers of a layer share a heap with small, lasting allocations between them. The heap
    grows from layer to layer although the memory in use does not, and the growth depends on the order of threads. A
    fixed limit stays. It costs clearing the pages of each larger buffer again.

    Returns:
        Return whether the C library supports this. Others are not changed.
    """
    try:
        known = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (ValueError, OSError):  # the name is not known here
        known = False
    return known and bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE))
