"""Stand-in for where tensorrt-edgellm-serve looks for engines (experimental/server/runtime/engine_build.py of 0.11.0).

As in the real one, the place follows from the checkpoint's files, wherever they are and without those in `.edgellm`,
and from three sizes. `tests/integration/test_edge_engine.py` holds what depends on it against the real one.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_SUFFIXES = (".bin", ".json", ".model", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class BuildOptions:
    """The sizes of an engine."""

    max_input_len: int | None = None
    max_kv_cache_capacity: int | None = None
    max_batch_size: int | None = None


def cache_root(cache_dir: str = "") -> str:
    """Find the cache."""
    return str(Path(cache_dir or "~/.cache/tensorrt-edgellm").expanduser().resolve())


def bundle_cache_path(model_dir: str, cache_dir: str, options: BuildOptions) -> str:
    """Find the place of an engine."""
    digest = _checkpoint_digest(Path(model_dir))
    profile = hashlib.sha256(json.dumps([digest, asdict(options)]).encode()).hexdigest()[:12]
    name = f"i{options.max_input_len}-b{options.max_batch_size}-kv{options.max_kv_cache_capacity}-none-{profile}"
    return os.path.join(cache_root(cache_dir), "engines", f"model-{digest[:16]}", name)  # noqa: PTH118 - as the real one


def _checkpoint_digest(model: Path) -> str:
    digest = hashlib.sha256()
    for root, folders, files in os.walk(model):
        folders[:] = sorted(folder for folder in folders if folder != ".edgellm")
        for name in sorted(files):
            if name.endswith(_SUFFIXES):
                file = Path(root, name)
                digest.update(f"{file.relative_to(model)}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes()[:4096])
    return digest.hexdigest()
