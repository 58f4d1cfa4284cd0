"""ModelOpt's own ways to calibrate and export; run by the interpreter of an environment that has it.

`quantize_with_modelopt.py WAY SOURCE OUTPUT SAMPLES LENGTH DEVICE` calibrates SOURCE in NVFP4 with tokens from a seed,
those that our quantizer draws, and exports it. WAY is `resident`, with the whole model on the device, or `offload`:
accelerate leaves layers on disk, they are calibrated one at a time (`layerwise`), and written by the exporter that
streams.

What it prints are seconds, and the most memory of the GPU that was in use.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator.quantization.samples import random_batches

_LAYERWISE = {"method": "max", "layerwise": {"enable": True, "calib_mutates_weights": False}}


def main(arguments: Sequence[str]) -> None:
    """Quantize and print how long each part took."""
    way, device = arguments[0], arguments[5]
    source, output = map(Path, arguments[1:3])
    samples, length = map(int, arguments[3:5])
    config = AutoConfig.from_pretrained(source)
    batches = [
        {
            "input_ids": torch.from_numpy(batch.tokens).to(device),
            "attention_mask": torch.from_numpy(batch.mask).to(device),
        }
        for batch in random_batches(config.vocab_size, samples, length)
    ]

    def loop(model: Any) -> None:  # noqa: ANN401 - a module of torch
        for batch in batches:
            model(**batch, use_cache=False)

    started = time.perf_counter()
    wanted = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    with TemporaryDirectory(dir=output.parent) as folder:
        place: dict[str, Any] = {"device_map": device}
        if way == "offload":
            place = {"device_map": _placed(config.num_hidden_layers, device), "offload_folder": folder}
            wanted["algorithm"] = copy.deepcopy(_LAYERWISE)
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", **place).eval()
        loaded = time.perf_counter()
        model = mtq.quantize(model, wanted, loop)
        calibrated = time.perf_counter()
        with torch.inference_mode():
            export_hf_checkpoint(model, export_dir=output)
    parts = {"load": loaded - started, "calibrate": calibrated - loaded, "export": time.perf_counter() - calibrated}
    found = {name: round(seconds, 1) for name, seconds in parts.items()}
    if device != "cpu":
        found["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps(found))


def _placed(layers: int, device: str) -> dict[str, str]:
    """Leave the layers on disk; with everything there, this release cannot skip a layer that is finished."""
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), device)
    return rest | {f"model.layers.{number}": "disk" for number in range(layers)}


if __name__ == "__main__":
    main(sys.argv[1:])
