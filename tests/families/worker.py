"""Tries families of models: a tiny model of each, quantized by ModelOpt and by us. Runs where torch is.

`worker.py list` prints the families of this transformers as JSON.
`worker.py try FOLDER SECONDS FORMAT,… FAMILY …` prints a line of JSON for each family. Each runs in processes of its
own, so that a crash or an endless loop costs one row. FOLDER keeps models and ModelOpt's exports for the next run.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import filterfalse
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization import skeleton, structure
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.experts import split_experts
from orchestrator.quantization.files import read_json
from orchestrator.quantization.parameter_mapping import Names
from tests.families.exports import no_export
from tests.families.tiny import VOCABULARY, shrunk
from tests.integration import onepass_run, oracle_export
from tests.support.comparison import described, differences_beyond_stored_types

_LIBRARIES = {"ModelOpt": "nvidia-modelopt", "torch": "torch", "transformers": "transformers"}
_MOST_PARAMETERS = 40_000_000
_FIRST_TOKEN = 10
"""Of batches. The tokens before it are special."""

torch.set_num_threads(1)


def families() -> list[str]:
    """Return the model types of all causal language models, and of all models of images and text."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def batches() -> list[dict[str, list[list[int]]]]:
    """Two batches of two lengths, with and without padding."""
    drawn = random.Random(5)  # noqa: S311 - tokens

    def rows(count: int, length: int) -> list[list[int]]:
        return [[drawn.randrange(_FIRST_TOKEN, VOCABULARY - 20) for _ in range(length)] for _ in range(count)]

    padded = {"input_ids": rows(2, 24), "attention_mask": [[0] * 5 + [1] * 19, [1] * 24]}
    return [padded, {"input_ids": rows(1, 20), "attention_mask": [[1] * 20]}]


def make(family: str, folder: Path) -> None:
    """Write a tiny random model of a family.

    Raises:
        ValueError: It is not tiny, or calculates NaN.
    """
    config = CONFIG_MAPPING[family](**shrunk(family, CONFIG_MAPPING[family]().to_dict()))
    config.dtype = torch.bfloat16
    classes = oracle_export.class_for(config)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in classes.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        message = f"its tiny model has {size / 1e6:.0f} million parameters"
        raise ValueError(message)
    torch.manual_seed(1)
    model = classes.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            unset = parameter.ndim > 1 and not parameter.any()
            if unset or not torch.isfinite(parameter).all():
                parameter.copy_(torch.randn(parameter.shape) * 0.02)
        if not torch.isfinite(model(**_tensors()[1], use_cache=False).logits).all():
            message = "its tiny model calculates NaN or infinity"
            raise ValueError(message)
    model.save_pretrained(folder)


def _tensors() -> list[dict[str, torch.Tensor]]:
    return [{key: torch.tensor(rows) for key, rows in batch.items()} for batch in batches()]


def export(folder: Path, number_format: str) -> None:
    """Let ModelOpt export a model."""
    wanted = {"format": number_format, "kv_cache": "none", "exclude": [], "output": folder / number_format / "theirs"}
    oracle_export.quantize(folder / "source", wanted, _tensors())


def compare(folder: Path, number_format: str) -> dict[str, list[str]]:
    """Quantize a model by our own code, and return what differs from ModelOpt's export.

    Three differences are deliberate, and are returned apart. Linear modules outside of the layers stay as they are. A
    module that calibration never reached has an input scale of 1, which runtimes read; ModelOpt leaves it out. And
    names are those of the checkpoint, where ModelOpt sometimes writes those of transformers.
    """
    place, source = folder / number_format, folder / "source"
    wanted = {"format": number_format, "kv_cache": "none", "exclude": [], "ours": place / "ours"}
    onepass_run.quantize(source, wanted, onepass_run.batches_of(batches()))
    original, ours, theirs = (Checkpoint.open(each) for each in (source, place / "ours", place / "theirs"))
    model = structure.read(read_json(source / "config.json"), original.tensors.values())
    found = differences_beyond_stored_types(place, source)
    renamed: list[str] = []
    if any(name not in theirs.tensors and model.layer_of(name) is not None for name in found):
        split = split_experts(original, read_json(source / "config.json"), model)
        equal = _equal_by_other_names(source, split, ours, theirs)
        renamed = [name for name in found if name in equal]

    def is_beside(name: str) -> bool:
        weight = f"{name.rpartition('.')[0]}.weight"
        return model.layer_of(name) is None and described(ours, weight) == described(original, weight)  # none if tied

    def is_unreached(name: str) -> bool:
        added = name.endswith(".input_scale") and name in ours.tensors and name not in theirs.tensors
        return added and float(ours.read(name)) == 1

    found = [name for name in found if name not in renamed]
    beside = [name for name in found if is_beside(name)]
    unreached = [name for name in found if is_unreached(name)]
    differ = [name for name in found if name not in beside and name not in unreached]
    return {"differ": differ, "beside": beside, "unreached": unreached, "renamed": renamed}


def _equal_by_other_names(source: Path, original: Checkpoint, ours: Checkpoint, theirs: Checkpoint) -> set[str]:
    """Return the tensors, by both names, whose bytes ModelOpt wrote by the names of transformers."""
    names = Names.of(skeleton.build(source, "bfloat16"), original.tensors)
    # Where transformers writes a part of a name twice, it reads it twice, too.
    written = {names.renamed(names.renamed(name)): name for name in theirs.tensors} | {
        name: name for name in theirs.tensors
    }
    parts: dict[str, dict[int, str]] = {}
    for name in filterfalse(structure.in_tower, ours.tensors):
        module, _, leaf = name.rpartition(".")
        weight = f"{module}.weight"
        try:
            target = names.target(name if name in original.tensors else weight)
        except (CheckpointError, ModelUnsupportedError):
            continue
        parent = target.parameter.removesuffix(".weight") if name != target.parameter else module
        if target.expert is not None:
            block, _, gathered = parent.rpartition(".")
            leaves = ("gate_proj", "up_proj") if target.parts > 1 else (gathered,)
            parent = f"{block}.{target.expert}.{leaves[target.part]}"
        is_leaf = target.expert is not None or target.parameter.endswith(".weight")
        parts.setdefault(f"{parent}.{leaf}" if is_leaf else target.parameter, {})[target.part] = name
    equal: set[str] = set()
    for name, found in parts.items():
        if name in written:
            whole = theirs.read(written[name])  # what is not quantized may be stored in another type
            joined = b"".join(ours.read(found[part]).astype(whole.dtype).tobytes() for part in sorted(found))
            equal |= {written[name], *found.values()} if whole.tobytes() == joined else set()
    return equal


def tried(family: str, folder: Path, seconds: int, formats: Iterable[str]) -> dict[str, Any]:
    """Return the row of a family."""
    row: dict[str, Any] = {"family": family}
    if not (folder / "source" / "model.safetensors").exists():
        failed = _apart(lambda: make(family, folder / "source"), seconds)
        if failed["error"]:
            return {**row, "not_made": _readable(failed["error"])}
    row["architecture"] = json.loads((folder / "source" / "config.json").read_text())["architectures"][0]
    row["formats"] = {number_format: _format(folder, number_format, seconds) for number_format in formats}
    return row


def _format(folder: Path, number_format: str, seconds: int) -> dict[str, Any]:
    theirs = folder / number_format / "theirs.json"
    if not theirs.exists():
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.write_text(json.dumps(_apart(lambda: export(folder, number_format), seconds)))
    failed = json.loads(theirs.read_text())["error"]
    if failed:
        return {"not_exported": _readable(failed)}
    if none := no_export(folder / "source", folder / number_format / "theirs"):
        return {"not_exported": none}
    found = _apart(lambda: compare(folder, number_format), seconds)
    return {"refused": _readable(found["error"])} if found["error"] else found["value"]


def _readable(error: str) -> str:
    """Return an error in one line, without the paths of this machine."""
    return re.sub(r"/[\w./-]+/", "", " ".join(error.split()))


def _apart(call: Callable[[], Any], seconds: int) -> dict[str, Any]:
    """Call a function in a process of its own; return its value or its error."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.close(reading)
        signal.alarm(seconds)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            result = {"value": call(), "error": None}
        except BaseException as error:  # noqa: BLE001 - whatever transformers, ModelOpt or we raise
            text = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
            result = {"value": None, "error": f"{text:.400}"}
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        printed = pipe.read()
    _, status = os.waitpid(child, 0)
    if printed:
        found: dict[str, Any] = json.loads(printed)
        return found
    why = f"no answer within {seconds} s" if os.WTERMSIG(status) == signal.SIGALRM else f"died with status {status}"
    return {"value": None, "error": why}


def main() -> None:
    """Read the command line."""
    if sys.argv[1] == "list":
        versions = {name: version(library) for name, library in _LIBRARIES.items()}
        sys.stdout.write(json.dumps({"versions": versions, "families": families()}))
        return
    import modelopt.torch.export  # noqa: PLC0415 - takes seconds, once for all families
    import modelopt.torch.quantization  # noqa: F401, PLC0415

    for family in sys.argv[5:]:
        row = tried(family, Path(sys.argv[2]) / family, int(sys.argv[3]), sys.argv[4].split(","))
        sys.stdout.write(f"{json.dumps(row)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
