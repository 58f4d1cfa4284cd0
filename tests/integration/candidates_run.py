"""Compare candidates in one walk and, one by one, by quantizing and evaluating; run by an interpreter that has torch.

`candidates_run.py FOLDER` makes small models and writes `results.json`: for each case and candidate, what the walk
found and what `quantize` and `evaluate` found.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.payloads import candidates, evaluate, quantize
from orchestrator.quantization.candidates import parse
from orchestrator.quantization.files import read_json
from tests.support.checkpoints import write_model
from tests.support.families import FAMILIES, SIZES, UNLISTED
from tests.support.payload_bytes import exact_model, model_of

sys.path.insert(0, str(Path(__file__).parent))
from oracle_export import make  # beside this file, which is run as a script

SIZE = ("--sequence-length", "32", "--batch-size", "2", "--device", "cpu")
HELD_OUT = 12


@dataclass(frozen=True)
class Case:
    """A model, and the candidates that are compared on it."""

    model: Path
    number_format: str
    cache: str
    names: str
    calibration: tuple[str, ...] = ()
    """The options of its text; else tokens from a seed."""
    held_out: tuple[str, ...] = ()
    samples: int = 12
    """Of calibration."""
    smoothing: str = "none"

    def compared(self, folder: Path) -> dict[str, Any]:
        """Compare in one walk, and each candidate by itself."""
        own_choices = ("--format", self.number_format, "--kv-cache", self.cache, "--smoothing", self.smoothing)
        common = (*own_choices, "--exclude", "*layers.1*o_proj")
        given = ("--checkpoint", str(self.model), *common, *SIZE, *self.calibration)
        sizes = {"samples": self.samples, "sequence-length": 32, "batch-size": 2}
        own = [word for name, size in sizes.items() for word in (f"--calibration-{name}", str(size))]
        held_out = ("--samples", str(HELD_OUT), *self.held_out)
        candidates.main([*given, *held_out, *own, "--output", str(folder / "walk"), "--try", self.names])
        apart = {}
        for candidate in parse(self.names):
            output, values = folder / candidate.name, candidate.values
            ways = ("--scale-search", values["scale_search"], "--rounding", values["rounding"])
            quantize.main([*given, "--samples", str(self.samples), *ways, "--output", str(output)])
            both = ("--checkpoint", str(output), "--reference", str(self.model), "--output", str(output / "compared"))
            evaluate.main([*both, *held_out, *SIZE])
            report = output / "quantization.json"  # of weights alone there is none
            searched = read_json(report).get("scale_search", {}) if report.is_file() else {}
            found = read_json(output / "compared" / "evaluation.json")
            apart[candidate.name] = {**found, "as_mse": len(searched.get("as_mse", ()))}
        return {"walk": read_json(folder / "walk" / "candidates.json"), "apart": apart}


def main(folder: Path) -> None:
    words = [f"word {number * number % 97} of {number}" for number in range(400)]
    for name, first in (("calibration", 0), ("held-out", 200)):
        samples = [" ".join(words[first + 10 * row : first + 10 * row + 4 + row]) for row in range(HELD_OUT)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in samples))
    text = ("--calibration", str(folder / "calibration.jsonl")), ("--text", str(folder / "held-out.jsonl"))
    llama = model_of(folder / "llama")
    cases = {
        "inputs of 4 bits, cache of 8": Case(llama, "nvfp4", "fp8", "max,weighted+gptq", *text),
        "smoothed": Case(llama, "nvfp4", "none", "max,weighted+gptq", *text, smoothing="norms"),
        "weights alone": Case(llama, "w4a16_nvfp4", "none", "four_over_six,weighted,local_hessian", *text),
        "experts": Case(experts_in(folder / "experts"), "nvfp4", "none", "max,weighted", samples=3),
        "experts in one tensor": Case(one_tensor_in(folder / "one"), "nvfp4", "none", "max,weighted", samples=3),
    }
    results = {name: case.compared(folder / name) for name, case in cases.items()}
    (folder / "results.json").write_text(json.dumps(results))


def experts_in(folder: Path) -> Path:
    family = FAMILIES["Qwen3-MoE"]
    fields = {key: value for key, value in family.config.items() if key != "class"}
    config = {**SIZES, **fields, "architectures": [family.architecture], "model_type": "qwen3_moe", "dtype": "bfloat16"}
    return exact_model(folder, partial(write_model, config=config))


def one_tensor_in(folder: Path) -> Path:
    make(folder, {**SIZES, **UNLISTED["Llama 4"].config})
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]))
