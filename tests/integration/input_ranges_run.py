"""Choose the scales of inputs with headroom, by our own code and by ModelOpt's; run by an interpreter that has both.

`input_ranges_run.py FOLDER` writes `FOLDER/<family>/{source,ours,theirs,padded,…}` and `results.json`: ranges of
drawn inputs by both; and, by hooks of our own on transformers' model, the largest magnitudes of blocks of each module.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import json
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.calib import NVFP4ActHeadroomCalibrator
from transformers import AutoModelForCausalLM

from orchestrator.quantization.auto import Budget, quantize_auto
from orchestrator.quantization.calibrated import Settings, quantize_calibrated
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import write_json
from orchestrator.quantization.input_ranges import InputRanges, range_of
from orchestrator.quantization.samples import Batch, random_batches
from orchestrator.quantization.smoothing import read

sys.path.insert(0, str(Path(__file__).parent))
from evaluate_run import FAMILIES, SIZES
from oracle_export import make
from smoothing_run import uneven
from weighted_run import calibration, run, stopping


def main(folder: Path) -> None:
    results: dict[str, Any] = {"drawn": [drawn(seed) for seed in range(24)]}
    for family, config in FAMILIES.items():
        place = folder / family
        make(place / "source", {**SIZES, **config})
        uneven(place / "source" / "model.safetensors")
        whole = random_batches(320, 4, 32, batch_size=2)
        quantized(place, "ours", whole)
        modelopt(place, whole)
        quantized(place, "padded", calibration())
        quantized(place, "smoothed", calibration(), scale_search="weighted", smoothing="norms")
        results[family] = {name: blocks(place, name) for name in ("padded", "smoothed")}
        for stop in (1, 2, 99):
            how = Settings(scratch=place / "scratch", seconds_between_notes=0)
            with suppress(KeyboardInterrupt):
                quantized(
                    place,
                    "continued",
                    calibration(),
                    scale_search="weighted",
                    smoothing="norms",
                    settings=how,
                    observer=stopping(stop),
                )
        budget = partial(quantize_auto, budget=Budget(5.5))
        for name, scales in (("auto-max", "max"), ("auto", "headroom")):
            report = budget(place / "source", place / name, calibration(), input_scales=scales)
            write_json(place / name / "quantization.json", report.document())
    (folder / "results.json").write_text(json.dumps(results))


def quantized(place: Path, name: str, batches: list[Batch], **options: Any) -> None:  # noqa: ANN401
    report = quantize_calibrated(
        place / "source", place / name, batches, number_format="nvfp4", input_scales="headroom", **options
    )
    write_json(place / name / "quantization.json", report.document())


def modelopt(place: Path, batches: list[Batch]) -> None:
    def loop(model: Any) -> None:  # noqa: ANN401 - of transformers
        for batch in batches:
            run(model, batch)

    model = AutoModelForCausalLM.from_pretrained(place / "source", dtype="auto", device_map="cpu")
    config = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG) | {"algorithm": {"method": "nvfp4_act_headroom"}}
    with torch.inference_mode():
        export_hf_checkpoint(mtq.quantize(model, config, loop), export_dir=place / "theirs")


def drawn(seed: int) -> dict[str, float]:
    """Calculate the range of drawn inputs: of several widths, with zeros, tiny and huge ones."""
    library: Any = torch
    source, spread = np.random.default_rng(seed), 1 + seed / 2
    ours, theirs, largest = InputRanges(), NVFP4ActHeadroomCalibrator(), 0.0
    for rows in (1, 7, 300):
        numbers = source.standard_normal((rows, 64)) * np.exp(source.standard_normal((rows, 1)) * spread)
        numbers[source.random((rows, 64)) < seed / 24] = 0
        tokens: Any = torch.from_numpy(numbers).to(torch.bfloat16)
        ours.saw(library, "q_proj", tokens)
        theirs.collect(tokens)
        largest = max(largest, float(tokens.abs().max()))
    counts = ours.counts()["q_proj"]
    return {"ours": range_of(counts, largest), "theirs": float(theirs.compute_amax()), "largest": largest}


def blocks(place: Path, name: str) -> dict[str, list[float]]:
    """Return the largest magnitude of each block that each linear module gets, of tokens alone, as it is quantized."""
    original = Checkpoint.open(place / "source")
    divided = read(Checkpoint.open(place / name), original)
    model, mask = AutoModelForCausalLM.from_pretrained(place / "source", dtype="auto"), torch.empty(0)
    found: dict[str, list[float]] = {}

    def hook(module: str) -> Any:  # noqa: ANN401 - as torch calls it
        def add(_: Any, given: Any) -> None:  # noqa: ANN401
            if given[0].shape[:2] == mask.shape:
                tokens = given[0][mask].double()
                exponents = divided.get(f"{module}.weight")
                if exponents is not None:
                    tokens = torch.ldexp(tokens, -torch.from_numpy(exponents.astype(np.int32)))
                found.setdefault(module, []).extend(tokens.reshape(-1, 16).abs().amax(-1).tolist())

        return add

    for module, linear in model.named_modules():
        if isinstance(linear, torch.nn.Linear) and ".layers." in module:
            linear.register_forward_pre_hook(hook(module))
    for batch in calibration():
        mask = torch.from_numpy(batch.mask).bool()
        run(model, batch)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
