"""Quantize small models with the search `weighted`, by an interpreter that has torch.

`weighted_run.py FOLDER` writes `FOLDER/<family>/{source,weighted,mse}` and, by hooks of our own on transformers' model,
the sums of squares of inputs into `FOLDER/<family>/squares.npz`. For the first family there is also `auto`, and
`continued`, whose run was interrupted.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from orchestrator.events import Event, Progress
from orchestrator.quantization.auto import Budget, quantize_auto
from orchestrator.quantization.calibrated import Settings, quantize_calibrated
from orchestrator.quantization.files import write_json
from orchestrator.quantization.samples import Batch, random_batches

sys.path.insert(0, str(Path(__file__).parent))
from evaluate_run import FAMILIES, SIZES
from oracle_export import make


def main(folder: Path) -> None:
    for family, config in FAMILIES.items():
        place = folder / family
        make(place / "source", {**SIZES, **config})
        for search in ("weighted", "mse"):
            report = quantize_calibrated(
                place / "source", place / search, calibration(), number_format="nvfp4", scale_search=search
            )
            write_json(place / search / "quantization.json", report.document())
        np.savez(place / "squares.npz", **squares(place / "source"))
    interrupted(folder / next(iter(FAMILIES)))


def calibration() -> list[Batch]:
    """Draw batches in which padding stands before some samples."""
    batches = random_batches(320, 4, 32, batch_size=2)
    for batch in batches[::2]:
        batch.mask[0, :7] = 0
    return batches


def squares(source: Path) -> dict[str, Any]:
    """Sum the squares of what each linear module gets, padding left out, in the model as transformers runs it."""
    model, mask = AutoModelForCausalLM.from_pretrained(source, dtype="auto"), torch.empty(0)
    found: dict[str, Any] = {}

    def hook(name: str) -> Any:  # noqa: ANN401 - as torch calls it
        def add(_: Any, given: Any) -> None:  # noqa: ANN401
            if given[0].shape[:2] == mask.shape:
                found[name] = found.get(name, 0) + given[0][mask].double().square().sum(0).numpy()

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.register_forward_pre_hook(hook(name))
    for batch in calibration():
        mask = torch.from_numpy(batch.mask).bool()
        with torch.inference_mode():
            model(input_ids=torch.from_numpy(batch.tokens), attention_mask=torch.from_numpy(batch.mask))
    return found


def interrupted(place: Path) -> None:
    """Choose formats once in one go, and once in runs that end after a layer was measured or written."""

    def run(output: Path, how: Settings, stop: int) -> None:
        def observer(event: Event) -> None:
            if isinstance(event, Progress) and event.done == stop:
                raise KeyboardInterrupt

        report = quantize_auto(
            place / "source",
            output,
            calibration(),
            budget=Budget(6.0),
            scale_search="weighted",
            settings=how,
            observer=observer,
        )
        write_json(output / "quantization.json", report.document())

    run(place / "auto", Settings(), 99)
    for stop in (1, 2, 5, 99):
        with suppress(KeyboardInterrupt):
            run(place / "continued", Settings(scratch=place / "scratch", seconds_between_notes=0), stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
