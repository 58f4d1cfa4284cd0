"""Freed memory goes back to the system: in a process of its own, as a limit of its heap stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from orchestrator.quantization import heap

SIZE = 8 << 20
TIMES = 3

# What is mapped by itself while a large request is held, after one of the same size was freed.
PROGRAM = f"""
import ctypes
import sys
from orchestrator.quantization import heap

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b c mapped d e f g h".split()]

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.mallinfo2.restype = Info
library.free(library.malloc({SIZE}))  # before it is asked for, too
if sys.argv[1] == "asked":
    assert heap.give_back_what_is_large()
before = library.mallinfo2().mapped
for _ in range({TIMES}):
    held = library.malloc({SIZE})
    print(library.mallinfo2().mapped - before >= {SIZE})
    library.free(held)
print(library.mallinfo2().mapped == before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize(("asked", "found"), [("asked", True), ("not", False)])
def test_a_large_request_is_mapped_by_itself_though_another_was_freed(asked: str, found: bool) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, asked], capture_output=True, text=True, check=True)

    assert run.stdout.split() == [*[str(found)] * TIMES, "True"]


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError(name)

    monkeypatch.setattr(os, "confstr", unknown)

    assert not heap.give_back_what_is_large()
