"""What the fake executor's functions leave for the steps of the tiny recipe: small, and sound to whoever looks."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.support.fake import Command, FakeExecutor, FakeRun

RECIPE = "tiny-llama-w4a16-nvfp4"
STEPS = ["generate", "quantize", "verify"]
QUALITY: dict[str, Any] = {
    "passed": True,
    "checks": [{"name": "tensors are there", "passed": True, "detail": "all of them", "warning": False}],
    "advice": "",
    "divergence": None,
    "snr_db": {"min": 20.25, "mean": 21.0},
}


def safetensors(content: bytes = b"\0" * 8) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}).encode()
    return struct.pack("<Q", len(header)) + header + content


def checkpoint(run: FakeRun) -> None:
    """Leave a model that depends on the command alone."""
    run.write(f"at work: {run.job.step}\n".encode())
    (run.output / "config.json").write_text("{}")
    options = [argument for argument in run.job.argv if isinstance(argument, str)]
    (run.output / "model.safetensors").write_bytes(safetensors(json.dumps(options).encode()))


def quantized(run: FakeRun) -> None:
    checkpoint(run)
    (run.output / "hf_quant_config.json").write_text("{}")


def checked(run: FakeRun) -> None:
    run.write(b"at work: verify\n")
    (run.output / "quality.json").write_text(json.dumps(QUALITY))


def evaluated(run: FakeRun) -> None:
    (run.output / "evaluation.json").write_text("{}")


COMMANDS: dict[str, Command] = {
    "generate": checkpoint,
    "quantize": quantized,
    "evaluate": evaluated,
    "verify": checked,
}


def tiny_executor() -> FakeExecutor:
    """An executor that carries the tiny recipe out."""
    return FakeExecutor(dict(COMMANDS))
