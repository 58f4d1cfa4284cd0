"""Run the calibrated quantizer many times in an environment that has torch, and kill it at random moments.

`kill_quantizer.py MODEL FOLDER KILLS SEED` leaves FOLDER/whole, made without disturbance, and FOLDER/last, made by a
run that went on where the last of the killed ones was. Each run is a fork of this process, which has loaded the
libraries: so a run takes a fraction of a second, and kills hit its layers rather than its imports. Where a run ends
before it is killed, its result is kept as FOLDER/ended-N and the notes are thrown away. Printed is, for each kill, how
many layers were noted by then.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from transformers.models.llama import modeling_llama

from orchestrator.payloads import quantize
from orchestrator.quantization.files import read_json

_MOST_RUNS = 60
_LOADED = torch, modeling_llama


def _start(model: Path, output: Path, scratch: Path | None, *more: str) -> int:
    """Fork a run and return its process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        options = ["--checkpoint", str(model), "--output", str(output), "--format", "nvfp4", "--kv-cache", "fp8"]
        options += ["--samples", "8", "--sequence-length", "32", "--device", "cpu", *more]
        quantize.main(options + (["--scratch", str(scratch), "--note-seconds", "0"] if scratch else []))
        status = 0
    finally:
        os._exit(status)


def _ended(process: int) -> None:
    _, status = os.waitpid(process, 0)
    if status:
        sys.exit(f"a run that nobody killed ended with {status}")


def _noted(scratch: Path) -> int:
    file = scratch / "progress.json"
    return len(read_json(file)["measured"]) if file.exists() else 0


def main(model: Path, folder: Path, kills: int, seed: int) -> None:
    """Run, kill, run again."""
    drawn = random.Random(seed)  # noqa: S311 - moments
    _ended(_start(model, folder / "whole", None))
    started = time.monotonic()
    _ended(_start(model, folder / "again", None))
    seconds = time.monotonic() - started
    scratch = folder / "scratch"
    noted: list[int] = []
    for run in range(_MOST_RUNS):
        if len(noted) == kills:
            break
        output = folder / f"ended-{run}"
        process = _start(model, output, scratch, *(["--spill"] if drawn.random() < 0.5 else []))
        time.sleep(drawn.uniform(0, seconds))
        if os.waitpid(process, os.WNOHANG) == (0, 0):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            shutil.rmtree(output, ignore_errors=True)
            noted.append(_noted(scratch))
        else:
            shutil.rmtree(scratch)
    _ended(_start(model, folder / "last", scratch))
    print("RESULT " + json.dumps(noted))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
