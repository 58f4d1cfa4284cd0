"""A bundle's documents and model, small, for tests of the gateway."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from orchestrator.bundle.gateway.documents import Limits, Profile, Serve, ServeOption

ROOT = Path(__file__).resolve().parents[2]


def serve_options(table: str = "trtllm-serve-1.3.0rc3") -> tuple[ServeOption, ...]:
    """Read the options of one version of trtllm-serve."""
    found = json.loads((ROOT / "docker" / "tools" / f"{table}.json").read_bytes())
    return tuple(ServeOption(tuple(each["flags"]), each["type"], tuple(each.get("choices") or ())) for each in found)


def example_serve(**changes: Any) -> Serve:  # noqa: ANN401 - any field
    """Make the facts of a small recipe."""
    serve = Serve(
        recipe="tiny",
        backend="pytorch",
        tensorrt_llm="1.2.1",
        command=("trtllm-serve", "serve"),
        model="/opt/nim/model",
        engine=None,
        served_model_name="tiny",
        config="/opt/nim/etc/trtllm_config.yaml",
        arguments=("--backend", "pytorch", "--max_batch_size", "8", "--max_num_tokens", "2048"),
        options=serve_options(),
        limits=Limits(max_seq_len=4096),
        profile=Profile("ab" * 32, "tensorrt_llm-nvfp4-tp1-pp1", {"llm_engine": "tensorrt_llm", "tp": "1"}),
    )
    return dataclasses.replace(serve, **changes)


def write_documents(folder: Path, serve: Serve) -> None:
    """Write a bundle's documents."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = f"schema_version: 2.0.0\nprofiles:\n- id: {serve.profile.id}\n"
    license_info = {
        "name": "Apache-2.0",
        "path": "license",
        "sha": "",
        "size": 0,
        "url": "",
        "type": "file",
        "content": "",
    }
    metadata = {
        "assetInfo": [],
        "licenseInfo": license_info,
        "modelInfo": [{"shortName": serve.recipe, "modelUrl": ""}],
        "repository_override": "",
        "version": "0.1.0",
        "selectedModelProfileId": serve.profile.id,
    }
    texts = {
        "serve.json": serve.to_json(),
        "model_manifest.yaml": manifest,
        "metadata.json": json.dumps(metadata),
        "license.json": json.dumps(license_info),
        "version.json": json.dumps({"release": "0.1.0", "api": "1.0.0"}),
        "trtllm_config.yaml": "kv_cache_config:\n  free_gpu_memory_fraction: 0.8\n  enable_block_reuse: true\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
