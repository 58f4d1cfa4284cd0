"""Calibrate small models on what quantized layers put out, by an interpreter that has torch and ModelOpt.

`layer_inputs_run.py FOLDER` writes `FOLDER/<case>/{source,original,quantized,continued}` and `results.json`. There are,
for each case, the largest input of each linear module in transformers' own model whose earlier layers are replaced by
the quantized ones, as `evaluate_run.py` calculates them in float64; and what ModelOpt found of it layer by layer.
`continued` is `quantized` in runs that were interrupted.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from orchestrator.quantization.calibrated import Settings, quantize_calibrated
from orchestrator.quantization.files import write_json
from orchestrator.quantization.samples import random_batches
from tests.families import worker

sys.path.insert(0, str(Path(__file__).parent))
from evaluate_run import EVERY, FAMILIES, SIZES, _cache_scales, _Engine, _matrices
from oracle_export import make
from weighted_run import run, stopping

WAYS: dict[str, dict[str, Any]] = {
    "llama nvfp4": {"number_format": "nvfp4", "kv_cache": "fp8"},
    "llama fp8": {"number_format": "fp8"},
    "Phi-3 fp8": {"number_format": "fp8"},
    "qwen3-moe nvfp4": {"number_format": "nvfp4", "scale_search": "weighted"},
    "llama w4a16_nvfp4": {
        "number_format": "w4a16_nvfp4",
        "kv_cache": "fp8",
        "scale_search": "weighted",
        "rounding": "gptq",
        "smoothing": "norms",
    },
}
"""Choices by model and format."""
MODELOPT: dict[str, Any] = {"Phi-3 fp8": mtq.FP8_DEFAULT_CFG}
"""ModelOpt rounds 4-bit inputs on CUDA alone. Of a fused matrix there is one scale in FP8; runtimes round others again,
which ModelOpt's calibration does not."""
HAND_ON_MORE = ("deepseek_v4", "gemma3n_text")
"""Families of transformers whose layers hand on more than hidden states, or have tensors that no file has."""


def main(folder: Path) -> None:
    results = {}
    for case, options in WAYS.items():
        place, family = folder / case, case.rpartition(" ")[0]
        make(place / "source", {**SIZES, **(FAMILIES.get(family) or EVERY[family].config)})
        for inputs in ("original", "quantized"):
            quantized(place, inputs, Settings(), layer_inputs=inputs, **options)
        for stop in (1, 99):
            how = Settings(scratch=place / "scratch", seconds_between_notes=0)
            with suppress(KeyboardInterrupt):
                quantized(place, "continued", how, stop, layer_inputs="quantized", **options)
        results[case] = {"modelopt": modelopt(place, MODELOPT[case])} if case in MODELOPT else {"whole": whole(place)}
    for family in HAND_ON_MORE:
        (folder / family).mkdir()
        worker.make(family, folder / family / "source")
        for inputs in ("original", "quantized"):
            quantized(folder / family, inputs, Settings(), number_format="fp8", layer_inputs=inputs)
    (folder / "results.json").write_text(json.dumps(results))


def quantized(place: Path, name: str, how: Settings, stop: int = 99, **options: Any) -> None:  # noqa: ANN401 - of `quantize_calibrated`
    report = quantize_calibrated(
        place / "source", place / name, calibration(), settings=how, observer=stopping(stop), **options
    )
    write_json(place / name / "quantization.json", report.document())


def calibration() -> list[Any]:
    return random_batches(320, 4, 32, batch_size=2)


def whole(place: Path) -> dict[str, float]:
    """Return the largest input of each module, if the layers before its own are quantized."""
    tensors, found = load_file(place / "quantized" / "model.safetensors"), dict[str, float]()
    for layer in range(SIZES["num_hidden_layers"]):
        model = AutoModelForCausalLM.from_pretrained(
            place / "source", dtype="auto", experts_implementation="eager", attn_implementation="sdpa"
        )
        earlier = {name: part for name, part in tensors.items() if _layer(name) < layer}
        hooks = [
            module.register_forward_pre_hook(_largest(name, found))
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and _layer(name) == layer
        ]
        cache = _cache_scales(earlier)
        cache += [None] * (SIZES["num_hidden_layers"] - len(cache))
        with _Engine(_matrices(model, earlier), cache):
            for batch in calibration():
                run(model, batch)
        for hook in hooks:
            hook.remove()
    return found


def _layer(name: str) -> int:
    number = re.search(r"layers\.(\d+)\.", name)
    return int(number[1]) if number else -1


def _largest(name: str, found: dict[str, float]) -> Any:  # noqa: ANN401 - as torch calls it
    def hook(_: Any, given: Any) -> None:  # noqa: ANN401
        found[name] = max(found.get(name, 0.0), float(given[0].abs().max()))

    return hook


def modelopt(place: Path, chosen: Any) -> dict[str, dict[str, float]]:  # noqa: ANN401 - as ModelOpt names formats
    """Return the largest input of each module by ModelOpt's calibration of one layer after the other."""

    def loop(model: Any) -> None:  # noqa: ANN401 - of transformers
        for batch in calibration():
            run(model, batch)

    found = {}
    for inputs in ("original", "quantized"):
        config = copy.deepcopy(chosen)
        layerwise = {"enable": True, "get_qdq_activations_from_prev_layer": inputs == "quantized"}
        config["algorithm"] = {"method": "max", "layerwise": layerwise}
        model = AutoModelForCausalLM.from_pretrained(place / "source", dtype="auto")
        quantizers = mtq.quantize(model, config, loop).named_modules()
        found[inputs] = {
            name.removesuffix(".input_quantizer"): float(module.amax)
            for name, module in quantizers
            if name.endswith("input_quantizer") and ".layers." in name and module.amax is not None
        }
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
