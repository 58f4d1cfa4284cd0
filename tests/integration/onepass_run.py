"""Quantize models by our own code in an environment that has torch; asked as `oracle_export.py calibrate` is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from orchestrator.quantization.calibrated import quantize_calibrated
from orchestrator.quantization.files import write_json
from orchestrator.quantization.samples import Batch


def main(request: Path) -> None:
    for model in json.loads(request.read_text()):
        batches = [Batch(np.array(b["input_ids"]), np.array(b["attention_mask"])) for b in model["batches"]]
        for export in model["exports"]:
            output = Path(export["ours"])
            report = quantize_calibrated(
                Path(model["source"]),
                output,
                batches,
                number_format=export["format"],
                kv_cache=export["kv_cache"],
                exclude=export["exclude"],
            )
            write_json(output / "quantization.json", report.document())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
