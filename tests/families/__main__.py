"""Try every family of transformers: what ModelOpt exports, do we write the same bytes?

`make families` walks the registry of causal language models, and of models of images and text. It makes a tiny random
model of each, lets ModelOpt and our quantizer quantize it, and compares all tensors. It prints a line for each, and
fails if too few of the families that ModelOpt exports are equal. A run that was interrupted continues. A whole one
writes tests/families/results.json, of which docs/reference/families.md is made, and the list of what a plan refuses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.quantization import refused
from tests.families.results import FILE, FORMATS, Result, Results, cell, share
from tests.support.oracle import Environment, find_environment

_ROOT = Path(__file__).resolve().parents[2]
_WORKER = Path(__file__).with_name("worker.py")


def main() -> int:
    """Run the command line; 1 if too few families are equal."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "families", help="keeps models and rows")
    parser.add_argument("--family", nargs="+", help="only these, and again (default: all that have no row yet)")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="only these (default: all)")
    parser.add_argument("--again", action="store_true", help="repeat our part of the families that are not equal")
    parser.add_argument("--seconds", type=int, default=90, help="of one step of one family at most (default: 90)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="families at a time")
    parser.add_argument("--least", type=float, default=95, help="percent that must be equal (default: 95)")
    given = parser.parse_args()
    environment = find_environment()
    registry = json.loads(environment.run(_WORKER, "list"))
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = _Rows(given.folder / "rows.json")
    done = {row.family for row in rows.results if row.is_equal or not given.again}
    families = given.family or [name for name in registry["families"] if name not in done]
    shares = [families[number :: given.processes] for number in range(given.processes)]

    def run(share: Sequence[str]) -> None:
        for row in attempts(environment, given.folder, share, formats=given.format, seconds=given.seconds):
            rows.add(row)
            sys.stdout.write(f"{_line(row)}\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(run, filter(None, shares)))
    if {row.family for row in rows.results} >= set(registry["families"]):
        results = Results(registry["versions"], rows.results, datetime.now(UTC).date().isoformat())
        FILE.write_text(results.document(), encoding="utf-8")
        refused.FILE.write_text(json.dumps(results.refused, indent=2) + "\n", encoding="utf-8")
    return _summary(rows.results, given.least)


def attempts(
    environment: Environment, folder: Path, families: Sequence[str], *, formats: Iterable[str] = FORMATS, seconds: int
) -> Iterator[Result]:
    """Try families one after the other, in a process that starts once."""
    command: list[str | Path] = [environment.python, _WORKER, "try", folder, str(seconds), ",".join(formats), *families]
    errors = folder / f"errors-{families[0]}.txt"
    with (
        errors.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment.variables) as worker,
    ):
        assert worker.stdout is not None
        yield from (Result.of(json.loads(line)) for line in worker.stdout)
    if worker.returncode:
        sys.exit(f"the worker ended with status {worker.returncode}; see {errors}")


class _Rows:
    """The rows so far, kept in a file after each one."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
        self._rows = {row["family"]: Result.of(row) for row in found}

    @property
    def results(self) -> tuple[Result, ...]:
        return tuple(self._rows[name] for name in sorted(self._rows))

    def add(self, row: Result) -> None:
        with self._lock:
            self._rows[row.family] = row
            self._file.write_text(json.dumps([row.document for row in self.results], indent=1))


def _line(row: Result) -> str:
    if row.not_made:
        return f"{row.family:28} no model: {row.not_made}"
    return f"{row.family:28} " + "; ".join(f"{name}: {cell(outcome)}" for name, outcome in row.formats.items())


def _summary(results: Sequence[Result], least: float) -> int:
    shares = {number_format: share(results, number_format) for number_format in FORMATS}
    for number_format, (equal, exported) in shares.items():
        sys.stdout.write(f"{number_format}: {equal} of {exported} families that ModelOpt exports are equal\n")
    return int(any(100 * shares[name][0] < least * shares[name][1] for name in ("nvfp4", "fp8")))


if __name__ == "__main__":
    sys.exit(main())
