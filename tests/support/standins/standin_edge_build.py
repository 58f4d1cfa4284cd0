"""Stand-in for tensorrt-edgellm-build: an engine folder whose bytes follow from checkpoint and options."""

from __future__ import annotations

from pathlib import Path

from .standin_tool import Given, content_digest, derived_bytes, fail, main, read_json, say, work, write_json

_ENGINE_BYTES = 1 << 16
_TYPES = ("llama", "mistral", "nemotron_h", "qwen2", "qwen3", "qwen3_moe")
"""Some of the registry in experimental/builder/models/registry.py."""
_DEFAULTS = {"max_input_len": "32", "max_kv_cache_capacity": "96", "max_batch_size": "1"}
"""Those of the real one, which nobody wants."""


def run(given: Given) -> None:
    """Build."""
    checkpoint = given.folder("--model-dir")
    model_type = read_json(checkpoint / "config.json").get("model_type")
    if model_type not in _TYPES:
        fail(f"ValueError: unsupported model_type {model_type!r}; supported model types: {', '.join(_TYPES)}")
    work("building")
    sizes = {name: int(given.get(f"--{name.replace('_', '-')}", value)) for name, value in _DEFAULTS.items()}
    engine = Path(given.get("--engine-dir"))
    engine.mkdir(parents=True, exist_ok=True)
    options = sorted(item for item in given.values.items() if not item[0].endswith("-dir"))
    seed = f"{content_digest(checkpoint)} {options}"
    (engine / "llm.engine").write_bytes(b"ftrt" + derived_bytes(seed, _ENGINE_BYTES))
    identity = {"version": 1, "sources": {"component": {"files": ["model.safetensors"]}}}
    head: dict[str, object] = {"edgellm_version": "0.11.0", "engine_role": "llm", "model_type": model_type}
    write_json(engine / "config.json", {**head, "builder_config": sizes, "checkpoint_identity": identity})
    say(f"Engine outputs:\n  llm: {engine / 'llm.engine'} ({_ENGINE_BYTES + 4} bytes)")


if __name__ == "__main__":
    main("tensorrt-edgellm-build", run)
