"""Lets tensorrt-edgellm-serve find an engine that was built before: it looks only in a cache, which it writes to."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.quantization.files import read_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

CACHE_ENTRY = "cache_entry.json"
"""The file beside an engine that names its place in the cache."""


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    """Let a payload that starts a server take the folder of an engine."""
    parser.add_argument("--engine", type=Path, metavar="DIR", help="an engine for the cache of tensorrt-edgellm-serve")


@contextmanager
def engine_cache(engine: Path | None) -> Iterator[list[str]]:
    """Make a cache with links to an engine's files, for as long as a server runs.

    Args:
        engine: Its folder, which is read-only; None: the server needs no cache.

    Yields:
        The options of the server that name the cache.
    """
    if engine is None:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="engine-cache-") as cache:
        place = Path(cache) / read_json(engine / CACHE_ENTRY)["path"]
        shutil.copytree(engine.absolute(), place, copy_function=os.symlink)
        yield ["--cache-dir", cache]
