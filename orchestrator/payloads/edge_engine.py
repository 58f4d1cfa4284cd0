"""Builds an engine with tensorrt-edgellm-build, and writes down where tensorrt-edgellm-serve will look for it.

`python3 -m orchestrator.payloads.edge_engine --checkpoint DIR --output DIR -- tensorrt-edgellm-build --model-dir DIR …`
writes the engine and `cache_entry.json`. A checkpoint that the builder would read wrongly is refused.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError, StepFailedError
from orchestrator.payloads import _main
from orchestrator.payloads._engine_cache import CACHE_ENTRY
from orchestrator.payloads._process import running, split
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SIZES = ("max_input_len", "max_kv_cache_capacity", "max_batch_size")
"""What an engine is found by, besides its checkpoint: fields of the server's BuildOptions."""
_FOUR_BITS, _ACTIVATIONS = ".weight_scale_2", ".input_scale"
_SHOWN = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, check, build and write down the place in the cache."""
    ours, (command,) = split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(ours)
    require_scales_of_activations(options.checkpoint)
    options.output.mkdir(parents=True, exist_ok=True)
    with running(command) as process:
        status = process.wait()
    if status != 0:
        message = f"{Path(command[0]).name} ended with status {status}: {' '.join(command)}"
        raise StepFailedError(message, hint="see the step's log for its last lines")
    sizes = {name: _value(command, name) for name in _SIZES}
    _require_sizes(options.output, sizes)
    write_json(options.output / CACHE_ENTRY, {"path": _place_in_cache(options.checkpoint, sizes)})


def require_scales_of_activations(checkpoint: Path) -> None:
    """Refuse weight-only NVFP4: the builder would quantize its activations too, with the scale 1.0 and no word.

    Raises:
        CheckpointError: Some modules have four bits and no scale of their input.
    """
    names = Checkpoint.open(checkpoint).tensors
    modules = [name.removesuffix(_FOUR_BITS) for name in names if name.endswith(_FOUR_BITS)]
    bare = [module for module in modules if module + _ACTIVATIONS not in names]
    if bare:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        message = (
            f"{checkpoint}: {', '.join(bare[:_SHOWN])}{more}: NVFP4 weights without {_ACTIVATIONS[1:]} (W4A16), which"
            " tensorrt-edgellm-build compiles with 4-bit activations of scale 1.0"
        )
        raise CheckpointError(message, hint="use format nvfp4 or fp8, or an image of vLLM, which multiplies W4A16")


def _value(command: Sequence[str], name: str) -> int:
    return int(command[command.index(f"--{name.replace('_', '-')}") + 1])


def _require_sizes(engine: Path, sizes: Mapping[str, int]) -> None:
    built: dict[str, Any] = read_json(engine / "config.json").get("builder_config", {})
    other = {name: built.get(name) for name, size in sizes.items() if built.get(name) != size}
    if other:
        message = f"{engine}: the engine was built with {other}, and not with {dict(sizes)}"
        raise StepFailedError(message, hint="the server would not find it; report this")


def _place_in_cache(checkpoint: Path, sizes: Mapping[str, int]) -> str:
    """Ask the server's own code where it looks for an engine of a checkpoint. No path of this machine decides it."""
    server = importlib.import_module("experimental.server.runtime.engine_build")
    root = server.cache_root("cache")
    path = server.bundle_cache_path(str(checkpoint), root, server.BuildOptions(**sizes))
    return Path(path).relative_to(root).as_posix()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m orchestrator.payloads.edge_engine",
        usage="%(prog)s --checkpoint DIR --output DIR -- COMMAND …",
        description="Build an engine with TensorRT Edge-LLM.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what the engine is built of")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the command writes the engine")
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
