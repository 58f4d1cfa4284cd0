"""The revision of what each payload writes.

A step's key contains these numbers, not the code. So renaming, moving or commenting code keeps every stored
result. A payload gets a new number, one that it never had, with every change that makes it write other bytes
for the same inputs, whichever file the change is in: here, in `orchestrator.quantization`, in C or in CUDA.

`tests/contract/test_payload_bytes.py` fails if bytes change and the number does not.
"""

from __future__ import annotations

from collections.abc import Mapping

PACKAGE = "orchestrator.payloads."

REVISIONS: Mapping[str, int] = {
    "benchmark": 1,
    "calibration": 2,
    "candidates": 1,
    "download": 2,
    "edge_engine": 1,
    "evaluate": 2,
    "generate": 1,
    "import_folder": 2,
    "measure": 2,
    "quantize": 6,
    "verify": 5,
}
"""By the payload's module in this package."""
