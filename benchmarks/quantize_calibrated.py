"""How fast and how small is calibrating? `python -m benchmarks.quantize_calibrated` prints ratios, all of one run.

A model is made from a seed in the shape of Llama's 70B, with as many layers as are asked for, and in turn:

- copied: its bytes are read and those of the result written, with nothing computed; the floor,
- quantized to calibrated NVFP4 by the one pass,
- by ModelOpt with the same samples: layer by layer with its weights left on disk, or resident.

Every tensor of the two results is compared. Goals: bytes read at most 1.05 times the model, at most 1.5 GB of memory of
its own, 8 times as fast as ModelOpt with layers on disk, all tensors equal (on a GPU: all weights; scales of inputs
follow from products that depend on their order). It ends with status 7 where one is missed.

`make bench` does it with 2 layers. The whole of it, a model of 30 GB that was larger than the machine's memory:
`python -m benchmarks.quantize_calibrated --layers 17`, with 50 GB free on the disk; that takes half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.support import floor, shaped
from benchmarks.support.goals import Goal, missed
from benchmarks.support.watched import ROOT, Run, forget, watch
from orchestrator.cli.costs import sentence
from orchestrator.events import Spent, from_line
from orchestrator.quantization.checkpoint import Checkpoint

_MISSED = 7
_SHAPES = {
    "70b": {"hidden": 8192, "intermediate": 28672, "heads": 64, "kv_heads": 8, "vocabulary": 32000},
    "8b": {"hidden": 4096, "intermediate": 14336, "heads": 32, "kv_heads": 8, "vocabulary": 32000},
}
_MOST_READ = 1.05
_MOST_MEMORY = 1_500_000_000
_LEAST_SPEED = 8.0
_LARGE = 10_000_000_000
"""Bytes of a model from which on speeds are compared; a small one's are those of importing libraries."""
_LIBRARIES = 500_000_000
"""Bytes of libraries that may have come from the disk as well."""


def main() -> None:
    """Measure, compare and print."""
    options = _parser().parse_args()
    if not options.python.exists():
        print(f"{options.python} is not here; it needs an interpreter with torch, transformers and ModelOpt")
        return
    with tempfile.TemporaryDirectory(prefix="calibrated-", dir=options.folder) as name:
        folder = Path(name)
        size = shaped.llama(folder / "model", layers=options.layers, **_SHAPES[options.shape])
        machine = f"{os.cpu_count()} processors, {_memory() / 1e9:.0f} GB of memory, load {os.getloadavg()[0]:.1f}"
        print(f"model {size / 1e9:.2f} GB, {machine}")
        sys.exit(_MISSED if _report(size, *_measured(folder, options), options) else 0)


def _measured(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Run], list[str]]:
    model, ours, theirs = (folder / name for name in ("model", "ours", "theirs"))
    samples = [str(options.samples), str(options.length)]
    runs: dict[str, Run] = {}
    for _ in range(options.rounds):
        shutil.rmtree(ours, ignore_errors=True)
        forget(model)
        command = [options.python, "-m", "orchestrator.payloads.quantize", "--checkpoint", model, "--output", ours]
        command += ["--format", "nvfp4", "--device", options.device]
        run = watch([*command, "--samples", samples[0], "--sequence-length", samples[1]])
        runs["one pass"] = min((run, runs.get("one pass", run)), key=lambda run: run.seconds)
        written = sum(file.stat().st_size for file in ours.glob("*.safetensors"))
        seconds = floor.copy(model, folder / "copy", written)
        runs["copy"] = min((Run(seconds), runs.get("copy", Run(seconds))), key=lambda run: run.seconds)
    told = from_line(runs["one pass"].printed.splitlines()[-1])
    print(f"one pass, {sentence(told)}" if isinstance(told, Spent) else "one pass: told no cost")
    if options.peer == "none":
        return runs, []
    forget(model)
    script = ROOT / "benchmarks" / "peers" / "quantize_with_modelopt.py"
    runs["ModelOpt"] = watch([options.python, script, options.peer, model, theirs, *samples, options.device])
    print(f"ModelOpt, {options.peer}: {runs['ModelOpt'].printed.splitlines()[-1]}")
    return runs, _differences(ours, theirs)


def _report(size: int, runs: dict[str, Run], different: list[str], options: argparse.Namespace) -> bool:
    """Print what was found and say whether a goal was missed."""
    best = runs["one pass"]
    print(f"{'':10} {'seconds':>8} {'processor':>10} {'own GB':>8} {'read GB':>8} {'x one pass':>11}")
    for name, run in runs.items():
        own, read = run.anonymous_bytes / 1e9, run.read_bytes / 1e9
        times = run.seconds / best.seconds
        print(f"{name:10} {run.seconds:8.1f} {run.processor_seconds:10.1f} {own:8.2f} {read:8.2f} {times:11.2f}")
    found: dict[str, object] = {
        "read_over_model": round(best.read_bytes / size, 3),
        "own_memory_gb": round(best.anonymous_bytes / 1e9, 3),
        "over_copy": round(best.seconds / runs["copy"].seconds, 2),
    }
    goals = [
        Goal("GB read, with those of libraries", best.read_bytes / 1e9, (_MOST_READ * size + _LIBRARIES) / 1e9),
        Goal("own memory in GB", best.anonymous_bytes / 1e9, _MOST_MEMORY / 1e9),
    ]
    if "ModelOpt" in runs:
        found["times_as_fast"] = round(runs["ModelOpt"].seconds / best.seconds, 2)
        found["times_less_processor"] = round(runs["ModelOpt"].processor_seconds / best.processor_seconds, 2)
        found["different_tensors"] = _by_kind(different)
        wrong = [name for name in different if options.device == "cpu" or not name.endswith("input_scale")]
        goals.append(Goal("tensors that differ from ModelOpt's", len(wrong), 0))
        large = options.peer == "offload" and size >= _LARGE
        note = "" if large else " (counts from 10 GB on, with layers on disk)"
        times = runs["ModelOpt"].seconds / best.seconds
        goals.append(Goal(f"times as fast as ModelOpt{note}", times, _LEAST_SPEED, at_least=True, counts=large))
    print(json.dumps(found))
    return missed(goals)


def _differences(one: Path, other: Path) -> list[str]:
    first, second = Checkpoint.open(one), Checkpoint.open(other)
    names = first.tensors.keys() | second.tensors.keys()
    return sorted(name for name in names if not _equal(first, second, name))


def _equal(first: Checkpoint, second: Checkpoint, name: str) -> bool:
    if name not in first.tensors or name not in second.tensors:
        return False
    one, other = first.tensors[name], second.tensors[name]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        first.read(name).tobytes() == second.read(name).tobytes()
    )


def _by_kind(names: list[str]) -> dict[str, int]:
    kinds = [name.rpartition(".")[2] for name in names]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantize_calibrated", description="Measure calibration."
    )
    parser.add_argument("--layers", type=int, default=2, metavar="N", help="of 1.7 GB each in the 70B (%(default)s)")
    parser.add_argument("--shape", choices=tuple(_SHAPES), default="70b", help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--length", type=int, default=32, metavar="N", help="tokens of a sample (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of ours and the copy (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--peer", choices=("offload", "resident", "none"), default="offload", help="default: %(default)s"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to put twice the model")
    parser.add_argument(
        "--python",
        type=Path,
        default=ROOT / ".venv-oracle" / "bin" / "python",
        metavar="FILE",
        help="an interpreter with torch and ModelOpt (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
