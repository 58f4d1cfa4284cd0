"""What the real package of TensorRT Edge-LLM says about our engines, options, fields and models, up to TensorRT.

Asked with a folder; the last line of its output is the answer, in JSON.
"""

# mypy: disable-error-code="import-not-found"
# The package is not in the environment of the tests.

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from experimental.builder.models import registry
from experimental.server.api.protocol import ChatCompletionRequest
from experimental.server.config import parse_server_config
from experimental.server.runtime.engine_build import BuildOptions, prepare_model

from orchestrator.payloads import edge_engine, generate
from orchestrator.payloads._engine_cache import CACHE_ENTRY, engine_cache

_STANDINS = Path(__file__).resolve().parents[1] / "support" / "standins"
_SIZES = ["--max-input-len", "128", "--max-kv-cache-capacity", "256", "--max-batch-size", "2"]


def main(folder: Path) -> None:
    checkpoint, engine = folder / "checkpoint", folder / "engine"
    generate.main(["--output", str(checkpoint), "--hidden-size", "64", "--layers", "1", "--vocab-size", "320"])
    builder = [sys.executable, str(_STANDINS / "tensorrt-edgellm-build"), "--model-dir", str(checkpoint)]
    ours = ["--checkpoint", str(checkpoint), "--output", str(engine)]
    edge_engine.main([*ours, "--", *builder, "--engine-dir", str(engine), *_SIZES])
    bundle = folder / "bundle"  # the checkpoint with its engine beside it, and what a loader of volumes leaves
    shutil.copytree(checkpoint, bundle)
    shutil.copytree(engine, bundle / ".edgellm")
    (bundle / ".complete").touch()
    answer = {
        "step": found(checkpoint, engine),
        "bundle": found(bundle, bundle / ".edgellm"),
        "place": json.loads((engine / CACHE_ENTRY).read_bytes())["path"],
        "fields": sorted(ChatCompletionRequest.model_fields),
        "model_types": sorted(name for family in registry.FAMILIES for name in family.variants),
        "routes": routes(),
    }
    sys.stdout.write(json.dumps(answer))


def found(model: Path, engine: Path) -> dict[str, Any]:
    """Where the server finds an engine for the command line that we write; `built` means that it does not."""
    with engine_cache(engine) as words:
        wanted = parse_server_config([str(model), *_SIZES, *words]).model
        sizes = BuildOptions(
            max_input_len=wanted.max_input_len,
            max_batch_size=wanted.max_batch_size,
            max_kv_cache_capacity=wanted.max_kv_cache_capacity,
        )
        prepared = prepare_model(wanted.model, wanted.cache_dir, sizes)
        place = Path(prepared.bundle_dir).relative_to(Path(wanted.cache_dir).resolve())
        return {"built": prepared.built, "place": str(place)}


def routes() -> list[list[str]]:
    """The routes in the server's source: its web framework is not installed."""
    spec = importlib.util.find_spec("experimental.server.api")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    text = Path(spec.submodule_search_locations[0], "routes.py").read_text()
    return sorted([method.upper(), path] for method, path in re.findall(r'@router\.(\w+)\("([^"]+)"\)', text))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
