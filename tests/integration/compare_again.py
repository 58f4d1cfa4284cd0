"""Compare a model with its original over and over, in ways that must not matter; run by an interpreter that has torch.

`compare_again.py MODEL QUANTIZED FOLDER` prints, by case, how many layers were compared and a digest of what was found;
the last case is a budget that is too small, and what it is told.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.errors import MemoryBudgetError
from orchestrator.events import Event, Progress
from orchestrator.quantization import divergence
from orchestrator.quantization.samples import random_batches
from orchestrator.quantization.walk import WalkSettings

_BATCHES = [*random_batches(300, 2, 32, 1, 1), *random_batches(300, 4, 24, 2, 1)]


@dataclass(frozen=True)
class Comparison:
    """Two models."""

    model: Path
    quantized: Path

    def run(self, settings: WalkSettings | None = None, stop: int | None = None) -> tuple[int, str]:
        """Compare them, or stop after so many layers; return how many were compared now, and the result's digest."""
        compared = 0

        def observer(event: Event) -> None:
            nonlocal compared
            if isinstance(event, Progress):
                compared += 1
                if event.done == stop:
                    raise KeyboardInterrupt

        found = divergence.evaluate(self.model, self.quantized, _BATCHES, settings=settings, observer=observer)
        text = json.dumps(found.document()) + repr(found)  # every digit
        return compared, hashlib.sha256(text.encode()).hexdigest()


def damage(scratch: Path, how: str) -> None:
    """Damage what was kept."""
    note, (kept,) = scratch / "progress.json", scratch.glob("hidden-*")
    if how == "a number":  # it is JSON as before
        note.write_text(note.read_text().replace('"layer": 0,', '"layer": 1,', 1))
    elif how == "what flows":
        data = bytearray(kept.read_bytes())
        data[len(data) // 2] ^= 1
        kept.write_bytes(data)
    elif how == "cut":
        os.truncate(kept, kept.stat().st_size - 1)


def refusal(both: Comparison) -> str:
    """Compare within too little memory and return what is said about it."""
    try:
        both.run(WalkSettings(memory=1_000_000))
    except MemoryBudgetError as error:
        return f"{error.message} {error.hint}"
    message = "a comparison within 1 MB was not refused"
    raise AssertionError(message)


def main(model: Path, quantized: Path, folder: Path) -> None:
    """Compare in every way."""
    both, found = Comparison(model, quantized), {}
    found["undisturbed"] = both.run()
    found["in a file"] = both.run(WalkSettings(spill=True, scratch=folder / "spilled"))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    found["more threads"] = both.run()
    torch.set_num_threads(threads)
    scratch = folder / "scratch"
    noting = WalkSettings(scratch=scratch, seconds_between_notes=0)
    with suppress(KeyboardInterrupt):
        both.run(noting, stop=6)
    kept = folder / "kept"
    shutil.copytree(scratch, kept)
    for how in ("whole", "a number", "what flows", "cut"):
        shutil.rmtree(scratch)
        shutil.copytree(kept, scratch)
        damage(scratch, how)
        found[how] = both.run(noting)
    found["finished before"] = both.run(noting)
    print("RESULT " + json.dumps({"found": found, "told": refusal(both)}))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
