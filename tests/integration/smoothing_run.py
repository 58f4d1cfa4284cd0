"""Quantize small models with smoothed inputs, and run the originals with the same powers of two; it needs torch.

`smoothing_run.py FOLDER FAMILY…` writes `FOLDER/<family>/{source,smoothed,gptq,continued}` and `results.json`: for each
family what was smoothed, and whether transformers' own model calculates the same bits from weights that are multiplied
alike. `continued` is `gptq` in runs that were interrupted.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from orchestrator.quantization import divergence, smoothing
from orchestrator.quantization.calibrated import Settings, quantize_calibrated
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import write_json
from orchestrator.quantization.samples import random_batches
from orchestrator.quantization.torch_arrays import as_array, as_tensor
from tests.support.families import FAMILIES, SIZES, UNLISTED

sys.path.insert(0, str(Path(__file__).parent))
from oracle_export import class_for, make
from weighted_run import calibration, stopping


def main(folder: Path, *families: str) -> None:
    (folder / "results.json").write_text(json.dumps({family: smoothed(folder / family, family) for family in families}))


def smoothed(place: Path, family: str) -> dict[str, Any]:
    source = place / "source"
    make(source, {**SIZES, **{**FAMILIES, **UNLISTED}[family].config})
    uneven(source / "model.safetensors")
    for name in ("smoothed", "gptq"):
        quantized(place, name, Settings())
    for stop in (1, 2, 99):
        with suppress(KeyboardInterrupt):
            quantized(place, "continued", Settings(scratch=place / "scratch", seconds_between_notes=0), stop)
    original = Checkpoint.open(source)
    exponents = smoothing.read(Checkpoint.open(place / "smoothed"), original)
    multiplied = {name: original.read(name) for name in original.tensors}
    multiplied |= {name: smoothing.scaled(multiplied[name], exponents[name]) for name in exponents.keys() & multiplied}
    shutil.copytree(source, place / "multiplied")
    tensors: dict[str, Any] = {name: as_tensor(array, "cpu") for name, array in multiplied.items()}
    safetensors.torch.save_file(tensors, place / "multiplied" / "model.safetensors", {"format": "pt"})
    return {
        "powers": sorted({int(one) for array in exponents.values() for one in array}),
        "same": logits(source) == logits(place / "multiplied"),
        "changed": sorted(exponents.keys() & multiplied),
        "report": json.loads((place / "smoothed" / "quantization.json").read_text())["smoothing"],
        "divergence": divergence.evaluate(source, place / "smoothed", random_batches(320, 2, 16, 1, 1)).document(),
    }


def uneven(file: Path) -> None:
    """Give norms weights of many sizes, as training does, and biases."""
    tensors, drawn = safetensors.torch.load_file(file), torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if "norm" in name and tensor.ndim == 1:
            numbers = torch.randn(len(tensor), generator=drawn)
            tensors[name] = (numbers if name.endswith("bias") else torch.exp(2 * numbers)).to(tensor.dtype)
    safetensors.torch.save_file(tensors, file, {"format": "pt"})


def quantized(place: Path, name: str, how: Settings, stop: int = 99) -> None:
    report = quantize_calibrated(
        place / "source",
        place / name,
        calibration(),
        number_format="nvfp4",
        scale_search="weighted",
        rounding="nearest" if name == "smoothed" else "gptq",
        smoothing="norms",
        settings=how,
        observer=stopping(stop),
    )
    write_json(place / name / "quantization.json", report.document())


def logits(folder: Path) -> bytes:
    """Return the bits of what a model expects of a sequence."""
    config = json.loads((folder / "config.json").read_text())
    transformers: Any = sys.modules["transformers"]
    configured = transformers.AutoConfig.from_pretrained(folder)
    model = class_for(configured).from_pretrained(folder, dtype="auto", attn_implementation="eager").eval()
    with torch.inference_mode():
        found = model(input_ids=torch.from_numpy(random_batches(config.get("vocab_size", 320), 1, 24)[0].tokens))
    return as_array(found.logits).tobytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
