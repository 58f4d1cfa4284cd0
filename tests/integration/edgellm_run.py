"""What both readers of TensorRT Edge-LLM find in checkpoints: its exporter and its direct builder, up to TensorRT.

Asked with a file that names folders and, for some of them, where the exporter's graph goes; the last line of its
output is the answer, in JSON.
"""

# mypy: disable-error-code="import-not-found"
# They are not in the environment of the tests.

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
from experimental.builder.core.config import DeviceConfig
from experimental.builder.core.weights import Weights
from onnx import numpy_helper
from tensorrt_edgellm.model import AutoModel
from tensorrt_edgellm.scripts import export

_SCALED = ("nvfp4", "nvfp4_a16", "fp8")


def main(request: Path) -> None:
    sys.stdout.write(json.dumps([answer(**asked) for asked in json.loads(request.read_text())]))


def answer(folder: str, graph: str | None) -> dict[str, Any]:
    found = {"builder": built(folder), "exporter": loaded(folder)}
    return found if graph is None else found | {"graph": exported(folder, graph)}


def built(folder: str) -> dict[str, Any]:
    """What `tensorrt-edgellm-build` reads: the type of each module, its scales, and those of the cache."""
    config = DeviceConfig.from_pretrained(folder)
    weights = Weights(folder, quant=config.quant)
    modules, cache = {}, {}
    for key in weights.store.keys():  # noqa: SIM118
        prefix, _, last = key.rpartition(".")
        if last == "weight" and (number_format := weights.module_quant_type(prefix)) in _SCALED:
            linear = weights.linear(prefix, number_format)
            scale = linear.weight_scale if linear.weight_scale_2 is None else linear.weight_scale_2
            modules[prefix] = [linear.quant_type, float(scale), linear.input_scale]
        elif last == "k_scale":
            attention = prefix.rpartition(".")[0]
            cache[attention] = weights.qkv_scales(attention)[1:]
    return {"kv_cache": config.kv_cache_quant, "modules": modules, "cache": cache}


class Counts(logging.Handler):
    """What the exporter's loader logs, and nothing else tells: tensors that it took and tensors that it left."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Loaded (\d+) tensors, skipped (\d+) ", record.getMessage()):
            self.found = [int(number) for number in found.groups()]


def loaded(folder: str) -> dict[str, Any]:
    """How many tensors `tensorrt-edgellm-export` takes, and how many it leaves."""
    counts, log = Counts(), logging.getLogger("tensorrt_edgellm.checkpoint.loader")
    log.addHandler(counts)
    log.setLevel(logging.INFO)
    try:
        AutoModel.from_pretrained(folder, device="cpu")
        fault = None
    except AttributeError as error:  # after everything was loaded
        fault = str(error)
    log.removeHandler(counts)
    return {"loaded": counts.found[0], "left": counts.found[1], "fault": fault}


def exported(folder: str, graph: str) -> list[float]:
    """The scale of each quantizer of activations in the graph that `tensorrt-edgellm-export` writes."""
    with mock.patch.object(sys, "argv", ["tensorrt-edgellm-export", folder, graph]):
        export.main()
    written = onnx.load(str(Path(graph) / "llm" / "model.onnx")).graph
    constants = {tensor.name: tensor for tensor in written.initializer}
    quantizers = [node.input[1] for node in written.node if node.op_type == "TRT_FP4DynamicQuantize"]
    return [float(numpy_helper.to_array(constants[name]).item()) for name in quantizers]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
