"""Memory that was freed goes back to the system at once, rather than stay with the process for the next request."""

from __future__ import annotations

import ctypes
import os

_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""
_LARGE = 64 << 10
"""Bytes. The scales of a piece of a matrix, the smallest of what each layer allocates and frees by the hundred, are
125 kB in NVFP4."""


def give_back_what_is_large() -> bool:
    """Have malloc map every large request by itself, now and later, so that `free` unmaps it.

    glibc does so for requests above 128 kB at first, but raises that limit to the size of whatever is freed, up to 32
    MB. From then on the buffers of a layer share a heap with small things that stay, which land between them: the heap
    grows from layer to layer although what is in use does not, and by how much depends on which thread was first. A
    limit that was set stays. It costs that the pages of each buffer are cleared anew, little beside running a layer.

    Returns:
        Whether this is a C library that can; others are left as they are.
    """
    try:
        known = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (ValueError, OSError):  # the name is not known here
        known = False
    return known and bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE))
