"""How fast and how small is quantizing weights? `python -m benchmarks.quantize` prints ratios, all of one run.

A Llama-shaped model is made from a seed (2 GB unless told otherwise) and, in turn and several times over:

- quantized to W4A16 NVFP4 by the one pass, with a compiler and without,
- copied: the same bytes are read and the bytes of the result written, with nothing computed; the floor,

then its weights are encoded in memory, which is what the processor allows, and it is exported by ModelOpt, once.

The page cache is emptied of the model's files before each run. The best of each kind is shown. Goals: within 1.25
times the slower of the copy and one compiled pass in memory, 15 times as fast as ModelOpt's export, at most 300 MiB of
memory. It ends with status 7 where one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.support import floor, shaped
from benchmarks.support.goals import Goal, missed
from benchmarks.support.watched import ROOT, Run, forget, watch
from orchestrator.quantization.formats import kernels, nvfp4

_QUANTIZE = "-m", "orchestrator.payloads.quantize"
_NUMPY = "-c", "from orchestrator.payloads import quantize; quantize.main()"
_MISSED = 7
_MOST_TIME = 1.25
_LEAST_SPEED = 15.0
_MOST_MEMORY = 300 << 20


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="quantize-", dir=options.folder) as name:
        folder = Path(name)
        sizes = {"hidden": 2048, "intermediate": 5632, "heads": 16, "kv_heads": 4, "vocabulary": 32000}
        size = shaped.llama(folder / "model", layers=options.layers, **sizes)
        load = f"load {os.getloadavg()[0]:.1f}"
        print(f"model {size / 1e9:.2f} GB, {os.cpu_count()} processors, {load}, {options.rounds} rounds")
        failed = _report(size, _measure(folder, options), _encoding_rates())
    sys.exit(_MISSED if failed else 0)


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Run]:
    model, out = folder / "model", folder / "out"
    runs: dict[str, list[Run]] = {}
    for _ in range(options.rounds):
        for name, command in {"one pass": _QUANTIZE, "one pass, NumPy": _NUMPY}.items():
            shutil.rmtree(out, ignore_errors=True)
            forget(model)
            arguments: list[str | Path] = ["--checkpoint", model, "--output", out, "--format", "w4a16_nvfp4"]
            runs.setdefault(name, []).append(watch([sys.executable, *command, *arguments]))
            written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
        runs.setdefault("copy", []).append(Run(floor.copy(model, folder / "copy", written)))
    if options.python.exists():
        forget(model)
        script = ROOT / "tests" / "integration" / "oracle_export.py"
        runs["ModelOpt"] = [watch([options.python, script, "export", model, folder / "theirs"])]
    return {name: min(found, key=lambda run: run.seconds) for name, found in runs.items()}


def _report(size: int, runs: dict[str, Run], rates: dict[str, float]) -> bool:
    """Print what was found and say whether a goal was missed."""
    best = runs["one pass"]
    print(f"{'':16} {'seconds':>8} {'processor':>10} {'GB/s in':>8} {'peak MB':>8} {'x one pass':>11}")
    for name, run in runs.items():
        figures = f"{run.seconds:8.2f} {run.processor_seconds:10.2f} {size / run.seconds / 1e9:8.3f}"
        print(f"{name:16} {figures} {run.resident_bytes / 1e6:8.0f} {run.seconds / best.seconds:11.2f}")
    for name, rate in rates.items():
        print(f"encode, {name:8} {size / rate:8.2f} {'':10} {rate / 1e9:8.3f}")
    slower = max(runs["copy"].seconds, size / rates.get("compiled", rates["NumPy"]))
    found = {
        "over_slower_of_copy_and_encode": round(best.seconds / slower, 3),
        "peak_mib": round(best.resident_bytes / (1 << 20)),
    }
    goals = [
        Goal("times the slower of copy and encoding", best.seconds / slower, _MOST_TIME),
        Goal("peak memory in MiB", best.resident_bytes / (1 << 20), _MOST_MEMORY / (1 << 20)),
    ]
    if "ModelOpt" in runs:
        found["times_as_fast"] = round(runs["ModelOpt"].seconds / best.seconds, 1)
        found["times_less_processor"] = round(runs["ModelOpt"].processor_seconds / best.processor_seconds, 1)
        times = runs["ModelOpt"].seconds / best.seconds
        goals.append(Goal("times as fast as ModelOpt", times, _LEAST_SPEED, at_least=True))
    print(json.dumps(found))
    return missed(goals)


def _encoding_rates() -> dict[str, float]:
    """Return bytes of BF16 encoded a second: once for the largest magnitude, once for the codes."""
    weight = np.random.default_rng(0).standard_normal((2048, 8192), np.float32).astype(ml_dtypes.bfloat16)
    rates = {"NumPy": _rate(weight)}
    if kernels.compile_here():
        rates["compiled"] = _rate(weight)
        kernels.forget()
    return rates


def _rate(weight: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        kernels.encode_nvfp4(weight, nvfp4.tensor_scale(float(kernels.largest_magnitude(weight))))
        seconds.append(time.perf_counter() - started)
    return weight.nbytes / min(seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description="Measure the one pass.")
    parser.add_argument("--layers", type=int, default=20, metavar="N", help="of 90 MB each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to put twice the model")
    parser.add_argument(
        "--python",
        type=Path,
        default=ROOT / ".venv-oracle" / "bin" / "python",
        metavar="FILE",
        help="an interpreter with ModelOpt (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
