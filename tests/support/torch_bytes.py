"""What payloads write that run a model: `python -m tests.support.torch_bytes FOLDER` prints it as JSON. It needs torch.

Codes and scales of weights are in digests. What is measured while the model runs follows from matrix products, which
processors add up in other orders: such numbers are printed as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.payloads import candidates, evaluate, quantize
from orchestrator.quantization import candidate_findings, evaluation, report
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.libraries import library
from tests.support.checkpoints import write_model
from tests.support.encoders import OnTensors
from tests.support.families import FAMILIES, SIZES
from tests.support.golden_bytes import Found
from tests.support.payload_bytes import encoded, exact_model, model_of

_MEASURED = ("input_scale", "k_scale", "v_scale")
"""Ends of the names of tensors that are measured."""
_LITTLE_TEXT = ("--samples", "4", "--sequence-length", "32")
_ON_THE_PROCESSOR = ("--device", "cpu")

_FORMATS: Mapping[str, tuple[str, ...]] = {
    "nvfp4": ("--format", "nvfp4"),
    "nvfp4, fp8 cache": ("--format", "nvfp4", "--kv-cache", "fp8"),
    "fp8, fp8 cache": ("--format", "fp8", "--kv-cache", "fp8"),
    "fp8, shared scales": ("--format", "fp8", "--shared-scales", "--exclude", "model.layers.1.*"),
    "w4a16_nvfp4, fp8 cache": ("--format", "w4a16_nvfp4", "--kv-cache", "fp8"),
    "nvfp4, searched": ("--format", "nvfp4", "--scale-search", "mse"),
    "auto": ("--format", "auto", "--bits-per-weight", "6", "--kv-cache", "fp8"),
}


def by_torch(folder: Path) -> dict[str, Found]:
    """Encode tensors, calibrate and compare, on the processor; encode on a GPU as well where there is one."""
    devices = ("cpu", "cuda") if library("torch").cuda.is_available() else ("cpu",)
    quantized = Found()
    for device in devices:
        quantized = quantized.and_then(Found(encoded(OnTensors(device))))
    models = {"Llama": model_of(folder / "llama"), "Qwen3-MoE": _experts(folder / "experts")}
    cases = [("Llama", case) for case in _FORMATS] + [("Qwen3-MoE", case) for case in ("nvfp4, fp8 cache", "auto")]
    for name, case in cases:
        model, options = models[name], _FORMATS[case]
        output = folder / f"{case} of {name}"
        given = ("--checkpoint", str(model), "--output", str(output), *_LITTLE_TEXT, *_ON_THE_PROCESSOR)
        quantize.main([*given, *options])
        quantized = quantized.and_then(_calibrated(f"{case} of {name}", output))
    compared = Found()
    for case in ("nvfp4, fp8 cache", "fp8, shared scales", "auto"):
        compared = compared.and_then(_evaluated(f"{case} of Llama", models["Llama"], folder))
    return {"candidates": _tried(models["Llama"], folder), "quantize": quantized, "evaluate": compared}


def on_a_gpu() -> bool:
    """Tell whether `by_torch` encoded on a GPU."""
    found: bool = library("torch").cuda.is_available()
    return found


def _experts(folder: Path) -> Path:
    family = FAMILIES["Qwen3-MoE"]
    fields = {key: value for key, value in family.config.items() if key != "class"}
    config = {**SIZES, **fields, "architectures": [family.architecture], "model_type": "qwen3_moe", "dtype": "bfloat16"}
    return exact_model(folder, partial(write_model, config=config))


def _calibrated(case: str, output: Path) -> Found:
    """Describe a checkpoint: what is measured apart."""
    checkpoint, digest, near = Checkpoint.open(output), hashlib.sha256(), {}
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {tensor.file.name}\n".encode())
        if name.endswith(_MEASURED):
            near[name] = float(checkpoint.read(name))
        else:
            digest.update(checkpoint.read(name).tobytes())
    for file in sorted(output.glob("*.json")):
        document = read_json(file)
        if file.name == report.FILE:
            near |= _take_measured(document)
        digest.update(f"{file.name} {json.dumps(document)}\n".encode())
    return Found({case: digest.hexdigest()}, {case: near})


def _take_measured(document: dict[str, Any]) -> dict[str, float]:
    """Take out of a report what was measured, and return what no tensor holds as well: the errors of formats.

    How many tokens reach an expert hangs on the last places of its score. What the curve says follows from the errors.
    """
    del document["experts"]
    for tensor in document["tensors"]:
        del tensor["input_scale"]
    if "choice" not in document:
        return {}
    choice = document["choice"]
    del choice["curve"]
    near = {"choice error": choice.pop("error")}
    for number, group in enumerate(choice["groups"]):
        near |= {f"group {number} {name} error": error for name, error in group.pop("errors").items()}
    return near


def _evaluated(case: str, model: Path, folder: Path) -> Found:
    """Compare a quantized model with its original."""
    output = folder / f"{case} compared"
    given = ("--checkpoint", str(folder / case), "--reference", str(model), "--output", str(output))
    evaluate.main([*given, *_LITTLE_TEXT, *_ON_THE_PROCESSOR])
    near: dict[str, float] = {}
    document = read_json(output / evaluation.FILE)
    del document["perplexity"]["increase"]  # the small difference of two numbers that are compared
    document = _without_fractions(document, "", near)
    return Found({case: _digest(document)}, {case: near})


def _tried(model: Path, folder: Path) -> Found:
    """Compare candidates, calibrated by tokens from a seed; differences between them are small, and left out."""
    case, output = "nvfp4, fp8 cache of Llama", folder / "tried"
    names = ("--try", "max,mse,weighted", "--format", "nvfp4", "--kv-cache", "fp8")
    calibration = ("--calibration-samples", "4", "--calibration-sequence-length", "32")
    given = ("--checkpoint", str(model), "--output", str(output), *_LITTLE_TEXT, *_ON_THE_PROCESSOR)
    candidates.main([*given, *names, *calibration])
    document, near = read_json(output / candidate_findings.FILE), dict[str, float]()
    for verdict in ("lowest", "tied", "best"):
        del document[verdict]
    for row in document["candidates"]:
        del row["behind"], row["perplexity_increase"]
        for figure in ("divergence", "agreement"):
            row[figure] = row[figure]["mean"]
    return Found({case: _digest(_without_fractions(document, "", near))}, {case: near})


def _without_fractions(value: Any, place: str, near: dict[str, float]) -> Any:  # noqa: ANN401 - JSON
    """Move the fractions of a document into `near`, by their place."""
    if isinstance(value, dict):
        return {key: _without_fractions(part, f"{place} {key}".strip(), near) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_fractions(part, f"{place} {number}", near) for number, part in enumerate(value)]
    if isinstance(value, float):
        near[place] = value
        return "a fraction"
    return value


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def main(folder: Path) -> None:
    """Print what was found; what payloads say goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        found = {payload: asdict(one) for payload, one in by_torch(folder).items()}
    sys.stdout.write(json.dumps({"on_a_gpu": on_a_gpu(), "found": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
