"""ModelOpt's own way with a model that is larger than memory; run by the interpreter of an environment that has it.

`modelopt_offload.py SOURCE OUTPUT SAMPLES LENGTH BATCH` calibrates SOURCE in NVFP4 with tokens from a seed, those
that our quantizer draws, and exports it: accelerate leaves layers on disk, they are calibrated one at a time
(`layerwise`), and written by the exporter that streams. What it prints are seconds.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator.quantization.samples import random_batches

_LAYERWISE = {"method": "max", "layerwise": {"enable": True, "calib_mutates_weights": False}}


def main(source: Path, output: Path, samples: int, length: int, batch_size: int) -> None:
    """Quantize and print how long each part took."""
    config = AutoConfig.from_pretrained(source)
    batches = [
        {"input_ids": torch.from_numpy(batch.tokens), "attention_mask": torch.from_numpy(batch.mask)}
        for batch in random_batches(config.vocab_size, samples, length, batch_size)
    ]

    def loop(model: Any) -> None:  # noqa: ANN401 - a module of torch
        for batch in batches:
            model(**batch, use_cache=False)

    started = time.perf_counter()
    with TemporaryDirectory(dir=output.parent) as folder:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", device_map=_placed(config.num_hidden_layers), offload_folder=folder
        ).eval()
        loaded = time.perf_counter()
        wanted = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
        wanted["algorithm"] = copy.deepcopy(_LAYERWISE)
        model = mtq.quantize(model, wanted, loop)
        calibrated = time.perf_counter()
        with torch.inference_mode():
            export_hf_checkpoint(model, export_dir=output)
    parts = {"load": loaded - started, "calibrate": calibrated - loaded, "export": time.perf_counter() - calibrated}
    print(json.dumps({name: round(seconds, 1) for name, seconds in parts.items()}))


def _placed(layers: int) -> dict[str, str]:
    """Leave the layers on disk; with everything there, this release cannot skip a layer that is finished."""
    rest = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    return rest | {f"model.layers.{number}": "disk" for number in range(layers)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
