"""Reads and writes files: valid JSON, durable writes, descriptors and the page cache."""

from __future__ import annotations

import json
import os
import re
import shutil
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LARGEST_JSON = 512_000_000
"""Bytes. The largest known tokenizers and indexes have a tenth of it."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LARGEST_PAGE = 2 << 20
"""Bytes. Pages that were read ahead are in pieces of up to this size, which are released only as a whole."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: The file is missing, too large, is not JSON or contains something other than an object.
    """
    require_regular(path)
    size = path.stat().st_size
    if size > _LARGEST_JSON:
        message = f"{path}: found {size} bytes, expected JSON of at most {_LARGEST_JSON} bytes"
        raise CheckpointError(message)
    text = path.read_bytes()
    try:
        document = json.loads(text.decode())  # bytes may be UTF-16 for json, and no loader of models reads that
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        message = f"{path}: not JSON: {error!s:.200}"
        raise CheckpointError(message) from None
    if not isinstance(document, dict):
        message = f"{path}: found a {type(document).__name__} at the top, expected an object"
        raise CheckpointError(message)
    if _SURROGATE.search(text):
        _require_whole_characters(document, path)
    return document


def require_regular(path: Path) -> None:
    """Refuse a folder, a pipe or a device, which may have no end, and a link to nothing.

    Raises:
        CheckpointError: It is no file.
    """
    if path.is_file():
        return
    kind = "something else than a file" if os.path.lexists(path) else "no such file"
    message = f"{path}: {kind}; a checkpoint needs it"
    raise CheckpointError(message)


def _require_whole_characters(document: object, path: Path) -> None:
    """Refuse halves of characters, which no file in UTF-8 can hold."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = f"{path}: found {error.object[error.start]!a} in a name or value, which is half of a character"
        raise CheckpointError(message) from None


def write_json(path: Path, document: Mapping[str, Any], *, allow_nan: bool = False) -> None:
    """Write a JSON object and flush it to disk. Equal documents give equal bytes.

    Args:
        path: The file.
        document: The object.
        allow_nan: Write `NaN` and `Infinity`, as Python reads them. They are not JSON, but models have them.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=allow_nan)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file's bytes and flush them to disk."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file or folder for reading and yield its descriptor."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class OpenFile:
    """A file that is open for reading until nothing refers to it.

    The kernel's read-ahead depends on the reads since the file was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open it."""
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


def give_back(descriptor: int, begin: int, size: int) -> None:
    """Tell the kernel that these bytes of a file are no longer needed; size 0 means to the end.

    The kernel keeps a page if only a part of it was named. So if a file is processed in pieces, the page that
    two pieces share is released with the second one.
    """
    if hasattr(os, "posix_fadvise"):
        before = min(begin, _LARGEST_PAGE)
        os.posix_fadvise(descriptor, begin - before, size and size + before, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Flush the names of a folder's files to disk."""
    with opened(folder) as descriptor:
        os.fsync(descriptor)
