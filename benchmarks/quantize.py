"""How fast and how small is quantizing weights? `python -m benchmarks.quantize` prints ratios, all of one run.

A Llama-shaped model is made from a seed (2 GB unless told otherwise) and, in turn and several times over:

- copied: the same bytes are read and the bytes of the result written, with nothing computed; the floor,
- encoded in memory by the compiled loops and by NumPy: what the processor allows,
- quantized to W4A16 NVFP4 by the one pass, with a compiler and without,
- with `--oracle PYTHON`, exported by ModelOpt in that environment, once.

The page cache is emptied of the model's files before each run. Ratios are of runs that follow each other; the best of
each kind is shown. Peak memory is that of the whole process, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from orchestrator.payloads import generate
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.formats import kernels, nvfp4

ROOT = Path(__file__).resolve().parents[1]
_CHUNK = 8_000_000
_QUANTIZE = "-m", "orchestrator.payloads.quantize"
_NUMPY = "-c", "from orchestrator.payloads import quantize; quantize.main()"


@dataclass(frozen=True)
class Run:
    """What one process took."""

    seconds: float
    peak_bytes: int


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="quantize-", dir=options.folder) as name:
        folder = Path(name)
        model = _model(folder / "model", options)
        size = sum(tensor.size for tensor in Checkpoint.open(model).tensors.values())
        print(f"model {size / 1e9:.2f} GB, {os.cpu_count()} processors, {options.rounds} rounds")
        _report(size, *_measure(model, folder / "out", options))


def _measure(model: Path, out: Path, options: argparse.Namespace) -> tuple[dict[str, list[Run]], dict[str, float]]:
    runs: dict[str, list[Run]] = {}
    for _ in range(options.rounds):
        for name, command in {"one pass": _QUANTIZE, "one pass, NumPy": _NUMPY}.items():
            arguments: list[str | Path] = ["--checkpoint", model, "--output", out, "--format", "w4a16_nvfp4"]
            runs.setdefault(name, []).append(_process([sys.executable, *command, *arguments], model, out))
            written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
        runs.setdefault("copy", []).append(_copy(model, out, written))
    if options.oracle:
        script = ROOT / "tests" / "integration" / "oracle_export.py"
        runs["ModelOpt export"] = [_process([options.oracle, script, "export", model, out], model, out)]
    return runs, _encoding_rates()


def _report(size: int, runs: dict[str, list[Run]], rates: dict[str, float]) -> None:
    best = {name: min(found, key=lambda run: run.seconds) for name, found in runs.items()}
    print(f"{'':18} {'seconds':>8} {'GB/s in':>8} {'peak MB':>8} {'x one pass':>10}")
    for name, run in best.items():
        ratio = run.seconds / best["one pass"].seconds
        print(f"{name:18} {run.seconds:8.2f} {size / run.seconds / 1e9:8.3f} {run.peak_bytes / 1e6:8.0f} {ratio:10.2f}")
    for name, rate in rates.items():
        print(f"encode {name:11} {size / rate:8.2f} {rate / 1e9:8.3f}")
    slower = max(best["copy"].seconds, size / rates.get("compiled", rates["NumPy"]))
    print(json.dumps({"one_pass_over_slower_of_copy_and_encode": round(best["one pass"].seconds / slower, 3)}))


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


def _process(command: list[str | Path], model: Path, out: Path) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    _forget(model)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None  # noqa: S101 - it was asked for
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: {complaint.decode(errors='replace')}")
    return Run(time.perf_counter() - started, usage.ru_maxrss * 1024)


def _copy(model: Path, out: Path, written: int) -> Run:
    """Read every byte of the model and write as many as the result has, in pieces, flushed to the disk."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    _forget(model)
    files = sorted(model.glob("*.safetensors"))
    share = written / sum(file.stat().st_size for file in files)
    buffer = bytearray(_CHUNK)
    started = time.perf_counter()
    with (out / "copy").open("wb", buffering=0) as target:
        for file in files:
            with file.open("rb", buffering=0) as source:
                while count := source.readinto(buffer):
                    target.write(memoryview(buffer)[: int(count * share)])
        os.fsync(target.fileno())
    return Run(time.perf_counter() - started, 0)


def _forget(model: Path) -> None:
    """Empty the page cache of the model."""
    for file in model.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _model(folder: Path, options: argparse.Namespace) -> Path:
    sizes = {"hidden-size": 2048, "intermediate-size": 5632, "heads": 16, "kv-heads": 4, "vocab-size": 32000}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    generate.main(["--output", str(folder), "--layers", str(options.layers), *words])
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description="Measure the one pass.")
    parser.add_argument("--layers", type=int, default=20, metavar="N", help="of 90 MB each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to put three times the model")
    parser.add_argument("--oracle", type=Path, metavar="PYTHON", help="an interpreter with ModelOpt, to compare with")
    return parser


if __name__ == "__main__":
    main()
