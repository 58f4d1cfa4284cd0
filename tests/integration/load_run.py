"""Print what transformers' own loader makes of checkpoints: `python load_run.py FILE` with a JSON list of folders."""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

Load: Any = AutoModelForCausalLM.from_pretrained

logging.set_verbosity_error()


def loaded(folder: Path) -> dict[str, Any]:
    """Load a checkpoint, and compare each tensor with the stored one."""
    try:
        model, info = Load(folder, output_loading_info=True, dtype="auto")
    except Exception as error:  # noqa: BLE001 - the answer is that it does not load
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    has = model.state_dict()
    other = [name for name, one in stored.items() if name not in has or not _equal(has[name], one)]
    return {
        "class": type(model).__name__,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(map(str, info["mismatched_keys"])),
        "other": other,
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        "vocabulary": model.get_input_embeddings().num_embeddings,
        "shapes": {name: list(one.shape) for name, one in has.items()},
    }


def _equal(has: torch.Tensor, stored: torch.Tensor) -> bool:
    return bool(has.shape == stored.shape and torch.equal(has, stored.to(has.dtype)))


if __name__ == "__main__":
    print(json.dumps([loaded(Path(folder)) for folder in json.loads(Path(sys.argv[1]).read_text())]))  # noqa: T201
