"""Do what payloads do with a model, with the transformers of an image.

`image_run.py tokens FOLDER TEXT` prints the tokens that calibration makes of a text with each family's tokenizer.
`image_run.py make FOLDER` writes a model of each family, with the configuration that this transformers writes; what it
does not know is printed. `image_run.py walk FOLDER` calibrates each and compares it with its original, and prints what
our walk over layers and transformers' own model say of it. `image_run.py scales FOLDER OUTPUT` calibrates one model and
prints the scales of its keys and values. The last two need torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.errors import CheckpointError
from orchestrator.payloads import _text
from orchestrator.quantization import divergence, skeleton
from orchestrator.quantization.calibrated import quantize_calibrated
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.libraries import library
from orchestrator.quantization.samples import random_batches
from tests.support.checkpoints import write_model
from tests.support.families import FAMILIES, SIZES, Family

_HALF_IN_FP32 = {"*.mlp.gate.weight": "F32", "*.input_layernorm.weight": "F32"}


def tokens(folder: Path, text: Path) -> dict[str, Any]:
    """Cut a text with the tokenizer of a model."""
    options = argparse.Namespace(samples=3, sequence_length=16, batch_size=2)
    cut = _text.batches(folder, text, options)
    return {"tokens": [batch.tokens.tolist() for batch in cut], "mask": [batch.mask.tolist() for batch in cut]}


def make(folder: Path) -> list[str]:
    """Write a model of each family that this transformers has a configuration for; return the names of all others."""
    unknown = []
    for name, family in FAMILIES.items():
        if not _configured(folder / name, family):
            unknown.append(name)
            continue
        write_model(folder / name, read_json(folder / name / "config.json"), types=_HALF_IN_FP32)
    return unknown


def _configured(folder: Path, family: Family) -> bool:
    fields = {**SIZES, **family.config}
    known = getattr(library("transformers"), fields.pop("class"), None)
    if known is None:
        return False
    made = known(**fields, architectures=[family.architecture], dtype="bfloat16")
    made.save_pretrained(folder)
    return True


def walk(source: Path) -> dict[str, float]:
    """Calibrate a model, and tell its perplexity by our walk and by transformers."""
    torch: Any = importlib.import_module("torch")
    batches = random_batches(SIZES["vocab_size"], 2, 16)
    quantized = source.with_name(f"{source.name} quantized")
    quantize_calibrated(source, quantized, batches, number_format="nvfp4", kv_cache="fp8")
    ours = divergence.evaluate(source, quantized, batches).original_perplexity
    model = library("transformers").AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
    losses = []
    for batch in batches:
        given = torch.tensor(batch.tokens)
        with torch.inference_mode():
            said = model(input_ids=given, attention_mask=torch.tensor(batch.mask), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy
        losses.append(loss(said[:, :-1].flatten(0, 1).double(), given[:, 1:].flatten(), reduction="none"))
    return {"ours": ours, "theirs": float(torch.cat(losses).mean().exp())}


def scales(source: Path, output: Path) -> dict[str, float]:
    """Calibrate a model, and return the scales of its keys and values."""
    quantize_calibrated(source, output, random_batches(SIZES["vocab_size"], 2, 16), number_format="fp8", kv_cache="fp8")
    written = Checkpoint.open(output)
    return {name: float(written.read(name)) for name in written.tensors if name.endswith((".k_scale", ".v_scale"))}


def refusal(folder: Path) -> str:
    """Build the skeleton of a model that this transformers does not understand; return what is said."""
    try:
        skeleton.build(folder, "bfloat16")
    except CheckpointError as error:
        return str(error)
    return "built"


def main(asked: str, folder: Path, *more: str) -> None:
    """Print the answer as JSON."""
    version = library("transformers").__version__
    answer: Any
    if asked == "tokens":
        answer = tokens(folder, Path(more[0]))
    elif asked == "make":
        answer = make(folder)
    elif asked == "scales":
        answer = scales(folder, Path(more[0]))
    elif asked == "refusal":
        answer = refusal(folder)
    else:
        known = [name for name in FAMILIES if (folder / name).is_dir()]
        answer = {name: walk(folder / name) for name in known}
    print("RESULT " + json.dumps({"version": version, "answer": answer}))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
