"""Quantize small models with the search `weighted`, and with GPTQ, by an interpreter that has torch.

`weighted_run.py FOLDER` writes `FOLDER/<family>/{source,weighted,local_hessian,mse,gptq}` and, by hooks of our own on
transformers' model, the sums of squares of inputs into `FOLDER/<family>/squares.npz`, and those of products into
`products.npz`; of experts in one tensor, the squares of each expert and how many tokens reached it into `experts.npz`.
For the first family there is also `auto-<rounding>`, and `continued-<rounding>` and `local_hessian-continued`, whose
runs were interrupted; for all, `gptq-continued`.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from orchestrator.events import Event, Observer, Progress
from orchestrator.quantization.auto import Budget, quantize_auto
from orchestrator.quantization.calibrated import Settings, quantize_calibrated
from orchestrator.quantization.files import write_json
from orchestrator.quantization.samples import Batch, random_batches
from tests.support.families import UNLISTED

sys.path.insert(0, str(Path(__file__).parent))
from evaluate_run import FAMILIES, SIZES
from oracle_export import make

MODELS = {**FAMILIES, "llama-4": {**UNLISTED["Llama 4"].config, "num_local_experts": 2}}
"""Llama 4 keeps experts in one tensor. Of two, one gets enough tokens of the few that there are here."""


def main(folder: Path) -> None:
    for family, config in MODELS.items():
        place = folder / family
        make(place / "source", {**SIZES, **config})
        for search in ("weighted", "local_hessian", "mse"):
            quantized(place, search, scale_search=search)
        quantized(place, "gptq", scale_search="weighted", rounding="gptq")
        continued(place, "gptq", scale_search="weighted", rounding="gptq")
        np.savez(place / "squares.npz", **sums(place / "source", lambda tokens: tokens.double().square().sum(0)))
        np.savez(place / "products.npz", **sums(place / "source", lambda tokens: tokens.double().T @ tokens.double()))
    np.savez(folder / "llama-4" / "experts.npz", **squares_of_experts(folder / "llama-4" / "source"))
    continued(folder / next(iter(MODELS)), "local_hessian", scale_search="local_hessian")
    for rounding in ("nearest", "gptq"):
        interrupted(folder / next(iter(MODELS)), rounding)


def calibration() -> list[Batch]:
    """Draw batches in which padding stands before some samples."""
    batches = random_batches(320, 4, 32, batch_size=2)
    for batch in batches[::2]:
        batch.mask[0, :7] = 0
    return batches


def quantized(place: Path, name: str, **options: Any) -> None:  # noqa: ANN401 - of `quantize_calibrated`
    report = quantize_calibrated(place / "source", place / name, calibration(), number_format="nvfp4", **options)
    write_json(place / name / "quantization.json", report.document())


def continued(place: Path, name: str, **options: str) -> None:
    """Quantize in runs that end after a layer."""
    for stop in (1, 2, 99):
        how = Settings(scratch=place / f"{name}-scratch", seconds_between_notes=0)
        with suppress(KeyboardInterrupt):
            quantized(place, f"{name}-continued", settings=how, observer=stopping(stop), **options)


def stopping(stop: int) -> Observer:
    """Interrupt when so much is done."""

    def observer(event: Event) -> None:
        if isinstance(event, Progress) and event.done == stop:
            raise KeyboardInterrupt

    return observer


def sums(source: Path, added: Callable[[Any], Any]) -> dict[str, Any]:
    """Sum something of what each linear module gets, padding left out, in the model as transformers runs it."""
    model, mask = AutoModelForCausalLM.from_pretrained(source, dtype="auto"), torch.empty(0)
    found: dict[str, Any] = {}

    def hook(name: str) -> Any:  # noqa: ANN401 - as torch calls it
        def add(_: Any, given: Any) -> None:  # noqa: ANN401
            if given[0].shape[:2] == mask.shape:
                found[name] = found.get(name, 0) + added(given[0][mask]).numpy()

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.register_forward_pre_hook(hook(name))
    for batch in calibration():
        mask = torch.from_numpy(batch.mask).bool()
        run(model, batch)
    return found


def squares_of_experts(source: Path) -> dict[str, Any]:
    """Sum the squares of what each expert of Llama 4 gets, [experts, inputs], with tokens of padding.

    Each expert gets all tokens, and zeros for those of others, so tokens of zeros are not counted.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    found: dict[str, Any] = {}

    def hook(name: str) -> Any:  # noqa: ANN401 - as torch calls it
        def add(module: Any, given: Any) -> None:  # noqa: ANN401
            tokens = given[0].view(len(module.gate_up_proj), -1, module.hidden_size)
            gate, up = (tokens @ module.gate_up_proj).chunk(2, dim=-1)
            for leaf, inputs in (("gate_up_proj", tokens), ("down_proj", up * module.act_fn(gate))):
                squares = inputs.double().square().sum(1).numpy()
                found[f"{name}.{leaf}"] = found.get(f"{name}.{leaf}", 0) + squares
            found[f"{name} tokens"] = found.get(f"{name} tokens", 0) + tokens.any(-1).sum(-1).numpy()

        return add

    for name, module in model.named_modules():
        if name.endswith(".experts"):
            module.register_forward_pre_hook(hook(name))
    for batch in calibration():
        run(model, batch)
    return found


def run(model: Any, batch: Batch) -> None:  # noqa: ANN401 - of transformers
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(batch.tokens), attention_mask=torch.from_numpy(batch.mask))


def interrupted(place: Path, rounding: str) -> None:
    """Choose formats once in one go, and once in runs that end after a layer was measured or written."""

    def choose(output: Path, how: Settings, stop: int) -> None:
        report = quantize_auto(
            place / "source",
            output,
            calibration(),
            budget=Budget(6.0),
            scale_search="weighted",
            rounding=rounding,
            settings=how,
            observer=stopping(stop),
        )
        write_json(output / "quantization.json", report.document())

    choose(place / f"auto-{rounding}", Settings(), 99)
    for stop in (1, 2, 5, 99):
        with suppress(KeyboardInterrupt):
            how = Settings(scratch=place / f"scratch-{rounding}", seconds_between_notes=0)
            choose(place / f"continued-{rounding}", how, stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
