"""Quantize models to budgets, then have the real ModelOpt make the same choice; by an interpreter that has both.

`auto_run.py FOLDER` writes `FOLDER/<family>/<name>/ours` and `…/theirs`, and what the quantized models say, compared
with the original, into `divergence.json`.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM

from orchestrator.events import Event, Progress
from orchestrator.quantization import divergence
from orchestrator.quantization.auto import Budget, quantize_auto
from orchestrator.quantization.calibrated import Settings
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.samples import random_batches

sys.path.insert(0, str(Path(__file__).parent))
from evaluate_run import FAMILIES, SIZES, held_out
from oracle_export import make

BUDGETS = {"small": 4.6, "middle": 6.0, "large": 12.0}
_CALIBRATION = random_batches(320, 4, 32)
_BASES = {"NVFP4": mtq.NVFP4_DEFAULT_CFG, "FP8": mtq.FP8_DEFAULT_CFG}


def main(folder: Path) -> None:
    divergences = {}
    for family, config in FAMILIES.items():
        source = folder / family / "source"
        make(source, {**SIZES, **config})
        for name, bits in BUDGETS.items():
            ours = folder / family / name / "ours"
            report = quantize_auto(source, ours, _CALIBRATION, budget=Budget(bits), kv_cache="fp8")
            write_json(ours / "quantization.json", report.document())
            divergences[f"{family} {name}"] = divergence.evaluate(source, ours, held_out()).document()
        theirs(source, folder / family / "middle")
    interrupted(folder / "llama")
    (folder / "divergence.json").write_text(json.dumps(divergences))


def interrupted(folder: Path) -> None:
    """End a run after each of its layers was measured, and one while it writes; the last one ends well."""
    how = Settings(scratch=folder / "scratch", seconds_between_notes=0)
    for stop in (1, 2, 5, 99):

        def observer(event: Event, stop: int = stop) -> None:
            if isinstance(event, Progress) and event.done == stop:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            quantize_auto(
                folder / "source",
                folder / "interrupted",
                _CALIBRATION,
                budget=Budget(BUDGETS["middle"]),
                kv_cache="fp8",
                settings=how,
                observer=observer,
            )


def theirs(source: Path, place: Path) -> None:
    """Export the same choice."""
    quantization = read_json(place / "ours" / "hf_quant_config.json")["quantization"]
    config = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    config["quant_cfg"] = [entry for entry in config["quant_cfg"] if entry.get("enable") is False]
    layers: dict[str, dict[str, Any]] = quantization["quantized_layers"]
    patterns: dict[str, str] = {}
    for module, layer in layers.items():
        gathered = module.endswith(".experts")  # one module, whose quantizers have numbers
        patterns[f"{module}*" if gathered else f"{module}."] = layer["quant_algo"]
    for pattern, algorithm in patterns.items():
        for entry in _BASES[algorithm]["quant_cfg"]:
            if "cfg" in entry:
                name = pattern + entry["quantizer_name"].removeprefix("*")
                config["quant_cfg"].append({**copy.deepcopy(entry), "quantizer_name": name, "enable": True})
    config["quant_cfg"] += copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"])
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", device_map="cpu").eval()

    def loop(model: torch.nn.Module) -> None:
        for batch in _CALIBRATION:
            model(input_ids=torch.tensor(batch.tokens), attention_mask=torch.tensor(batch.mask), use_cache=False)

    model = mtq.quantize(model, config, loop)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=place / "theirs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
