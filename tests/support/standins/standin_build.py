"""Stand-in for trtllm-build: an engine folder whose bytes follow from checkpoint and options."""

from __future__ import annotations

import os
from pathlib import Path

from .standin_tool import Given, content_digest, derived_bytes, fail, main, read_json, say, work, write_json

_ENGINE_BYTES = 1 << 16
_CACHE_BYTES = 1 << 10
_LIMITS = {"max_batch_size": "2048", "max_num_tokens": "8192", "max_seq_len": "", "max_beam_width": "1"}


def run(given: Given) -> None:
    """Build."""
    checkpoint = given.folder("--checkpoint_dir")
    pretrained = read_json(checkpoint / "config.json")
    ranks = int(pretrained["mapping"]["world_size"])
    missing = [rank for rank in range(ranks) if not (checkpoint / f"rank{rank}.safetensors").is_file()]
    if missing:
        fail(f"FileNotFoundError: {checkpoint}/rank{missing[0]}.safetensors")
    work("building")
    options = {flag: value for flag, value in sorted(given.values.items()) if not flag.endswith(("_dir", "_cache"))}
    output = Path(given.get("--output_dir", "engine_outputs"))
    output.mkdir(parents=True, exist_ok=True)
    build = {
        name: int(text) if (text := given.get(f"--{name}", default)) else None for name, default in _LIMITS.items()
    }
    plugins = {flag.removeprefix("--"): value for flag, value in options.items() if "plugin" in flag}
    write_json(
        output / "config.json",
        {
            "version": os.environ.get("TRT_LLM_VERSION", "1.2.1"),
            "pretrained_config": pretrained,
            "build_config": {**build, "plugin_config": plugins, "strongly_typed": True},
        },
    )
    seed = f"{content_digest(checkpoint)} {sorted(options.items())}"
    for rank in range(ranks):
        (output / f"rank{rank}.engine").write_bytes(b"ftrt" + derived_bytes(f"{seed} {rank}", _ENGINE_BYTES))
    Path(given.get("--output_timing_cache", "model.cache")).write_bytes(derived_bytes(seed, _CACHE_BYTES))
    say(f"[stand-in] total time of building all engines: 00:00:00; {ranks} ranks in {output}")


if __name__ == "__main__":
    main("trtllm-build", run)
