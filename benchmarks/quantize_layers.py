"""What do more layers cost? `python -m benchmarks.quantize_layers` prints time and memory for 10, 20 and 40 of them.

Models from a seed, alike but for the number of their layers, are quantized to W4A16 NVFP4, which looks at weights
only, and to calibrated NVFP4, where there is an interpreter with torch. Goals: memory of the process's own is flat
within 15 %; and from 20 to 40 layers each further one takes as much of the processor as from 10 to 20, within 25 % as
other programs take their share of the caches. It ends with status 7 where one is missed.

Of each size the largest peak of all rounds counts, and the least time of processors: whatever else runs can only add to
that, and what is asked for is a difference of differences, which doubles every error. Sizes take turns, each round in
another order, so that a busy minute meets all of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.support import shaped
from benchmarks.support.goals import Goal, missed
from benchmarks.support.watched import ROOT, Run, forget, watch

_SIZES = {"hidden": 2048, "intermediate": 5632, "heads": 16, "kv_heads": 4, "vocabulary": 32000}
_LAYERS = (10, 20, 40)
_FLAT = 0.15
_LINEAR = 0.25
_MISSED = 7


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    formats = {"w4a16_nvfp4": Path(sys.executable)}
    if options.python.exists():
        formats["nvfp4"] = options.python
    found: dict[str, dict[int, list[Run]]] = {name: {count: [] for count in _LAYERS} for name in formats}
    with tempfile.TemporaryDirectory(prefix="layers-", dir=options.folder) as name:
        folder = Path(name)
        for count in _LAYERS:
            shaped.llama(folder / f"{count}", layers=count, **_SIZES)
        for number in range(options.rounds):
            for number_format, python in formats.items():
                turn = number % len(_LAYERS)
                for count in (*_LAYERS[turn:], *_LAYERS[:turn]):
                    run = _quantized(python, number_format, folder / f"{count}", folder / "out")
                    found[number_format][count].append(run)
    sys.exit(_MISSED if [name for name, runs in found.items() if _report(name, runs)] else 0)


def _quantized(python: Path, number_format: str, model: Path, out: Path) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    forget(model)
    command: list[str | Path] = [python, "-m", "orchestrator.payloads.quantize", "--checkpoint", model, "--output", out]
    command += ["--format", number_format]
    if number_format == "nvfp4":
        command += ["--samples", "1", "--sequence-length", "32", "--device", "cpu"]
    return watch(command)


def _report(name: str, runs: dict[int, list[Run]]) -> bool:
    """Print what was found and say whether a goal was missed."""
    seconds = {count: min(run.processor_seconds for run in some) for count, some in runs.items()}
    memory = {count: max(run.anonymous_bytes for run in some) for count, some in runs.items()}
    for count, some in runs.items():
        wall = min(run.seconds for run in some)
        cost = f"{wall:7.2f} s, {seconds[count]:7.2f} s of processors, {memory[count] / 1e6:6.0f} MB"
        print(f"{name:12} {count:3} layers {cost}")
    first, second = (seconds[20] - seconds[10]) / 10, (seconds[40] - seconds[20]) / 20
    spread = max(memory.values()) / min(memory.values()) - 1
    linear = second / first - 1
    print(json.dumps({"format": name, "memory_spread": round(spread, 3), "further_layers_cost": round(linear, 3)}))
    return missed(
        [
            Goal(f"{name}: memory differs by", spread, _FLAT),
            Goal(f"{name}: a further layer costs more by", linear, _LINEAR),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize_layers", description="Measure more layers.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to put 9 GB")
    parser.add_argument(
        "--python",
        type=Path,
        default=ROOT / ".venv-oracle" / "bin" / "python",
        metavar="FILE",
        help="an interpreter with torch (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
