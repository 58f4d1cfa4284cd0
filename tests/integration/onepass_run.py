"""Quantize models by our own code in an environment that has torch; asked as `oracle_export.py calibrate` is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.quantization.calibrated import quantize_calibrated
from orchestrator.quantization.files import write_json
from orchestrator.quantization.format_names import MAX
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.samples import Batch
from orchestrator.quantization.schemes import SCHEMES


def main(request: Path) -> None:
    for model in json.loads(request.read_text()):
        for export in model["exports"]:
            quantize(Path(model["source"]), export, batches_of(model["batches"]))


def batches_of(rows: list[dict[str, list[list[int]]]]) -> list[Batch]:
    return [Batch(np.array(batch["input_ids"]), np.array(batch["attention_mask"])) for batch in rows]


def quantize(source: Path, export: dict[str, Any], batches: list[Batch]) -> None:
    output, exclude = Path(export["ours"]), export["exclude"]
    number_format, kv_cache = export["format"], export["kv_cache"]
    if not SCHEMES[number_format].calibrated and kv_cache == "none":
        quantize_checkpoint(source, output, number_format=number_format, scale_search=MAX, exclude=exclude)
        return
    report = quantize_calibrated(
        source,
        output,
        batches,
        number_format=number_format,
        kv_cache=kv_cache,
        exclude=exclude,
        scale_search=MAX,
        shared_scales=export.get("shared_scales", False),
    )
    write_json(output / "quantization.json", report.document())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
