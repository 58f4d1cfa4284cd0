"""Run a payload many times, kill it at random moments, and let it go on.

`kill_payload.py PAYLOAD FOLDER KILLS SEED OPTION …` leaves FOLDER/whole, made without disturbance, and FOLDER/last,
made by a run that went on where the last of the killed ones was. Each run is a fork of this process, which has loaded
the libraries: so a run takes a fraction of a second, and kills hit its work rather than its imports. A payload that
takes notes gets a folder for them, may spill what flows between layers, and every second kill comes after its first
notes; one that does not finds what the killed ones left. Where a run ends before it is killed, its result is kept as
FOLDER/ended-N and the notes are thrown away. Printed is, for each kill, how much was done by then: layers that were
noted, or bytes in the output folder.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.payloads import candidates, evaluate, quantize
from orchestrator.quantization.files import read_json

PAYLOADS = {
    "quantize": quantize.main,
    "calibrate": quantize.main,
    "candidates": candidates.main,
    "evaluate": evaluate.main,
}
_WITHOUT_NOTES = "quantize"
_MOST_RUNS = 60
_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


@dataclass(frozen=True)
class Runs:
    """Runs of one payload."""

    payload: str
    options: list[str]
    scratch: Path

    @property
    def notes(self) -> bool:
        """It notes how far it is."""
        return self.payload != _WITHOUT_NOTES

    @property
    def progress(self) -> Path:
        """Its notes."""
        return self.scratch / "progress.json"

    def start(self, output: Path, *more: str) -> int:
        """Fork a run and return its process."""
        process = os.fork()
        if process:
            return process
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            PAYLOADS[self.payload](["--output", str(output), *self.options, *more])
            status = 0
        finally:
            os._exit(status)

    def going_on(self, drawn: random.Random, output: Path) -> int:
        """Start a run that goes on where one was killed."""
        spill = ["--spill"] if drawn.random() < 0.5 else []
        noting = ["--scratch", str(self.scratch), "--note-seconds", "0", *spill]
        return self.start(output, *(noting if self.notes else []))

    def wait_for_notes(self, process: int) -> None:
        """Wait until there are notes, or the run has ended."""
        while not self.progress.exists() and os.waitid(os.P_PID, process, _ENDED) is None:
            time.sleep(0.001)

    def killed(self, output: Path) -> int:
        """Return how much was done when a run was killed, and take away what the next one does not get."""
        if not self.notes:
            return sum(file.stat().st_size for file in output.glob("*"))
        shutil.rmtree(output, ignore_errors=True)
        return len(read_json(self.progress)["measured"]) if self.progress.exists() else 0

    def end(self, process: int) -> None:
        """Wait for a run that nobody kills."""
        _, status = os.waitpid(process, 0)
        if status:
            sys.exit(f"a run that nobody killed ended with {status}")


def main(payload: str, folder: Path, kills: int, seed: int, options: list[str]) -> None:
    """Run, kill, run again."""
    drawn = random.Random(seed)  # noqa: S311 - moments
    runs = Runs(payload, options, folder / "scratch")
    if runs.notes:
        importlib.import_module("transformers.models.llama.modeling_llama")
    runs.end(runs.start(folder / "whole"))
    started = time.monotonic()
    runs.end(runs.start(folder / "again"))
    seconds = time.monotonic() - started
    last, done = folder / "last", list[int]()
    for run in range(_MOST_RUNS):
        if len(done) == kills:
            break
        process = runs.going_on(drawn, last)
        if runs.notes and len(done) % 2:  # a machine that others use is too uneven to meet notes by time alone
            runs.wait_for_notes(process)
        time.sleep(drawn.uniform(0, seconds))
        if os.waitpid(process, os.WNOHANG) == (0, 0):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            done.append(runs.killed(last))
        else:
            last.rename(folder / f"ended-{run}")
            shutil.rmtree(runs.scratch, ignore_errors=True)
    runs.end(runs.going_on(drawn, last))
    print("RESULT " + json.dumps(done))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
