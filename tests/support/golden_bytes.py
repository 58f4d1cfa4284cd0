"""The golden file of bytes: what each payload wrote at which revision, and the rules by which it may change.

- Other bytes at the same revision are a fault: every store would go on reusing what the old code wrote.
- A new revision without new golden bytes is a fault, and a revision never goes back.
- The file is only written again where its rules allow it; new cases may always be added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "golden" / "payload_bytes.json"
UPDATE = "UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/contract/test_payload_bytes.py"
_OF_SCALES, _OF_ERRORS = 0.02, 0.1
"""How far numbers that follow from matrix products may lie apart: scales are maxima of BF16 numbers, whose neighbours
are 0.4 % apart; errors are small differences. Other sets of instructions moved scales by nothing, errors by 3 %."""

_ON_A_GPU = "`python -m tests.support.encoders cuda` compares them on a GPU with the definitions"


@dataclass(frozen=True)
class Found:
    """What one payload wrote, case by case."""

    digests: Mapping[str, str] = field(default_factory=dict)
    """Of what is the same on every processor."""
    near: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Numbers that differ between processors in their last places: they follow from matrix products of torch."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Of code that runs on a GPU only: its tokens, without comments and spaces."""

    def and_then(self, other: Found) -> Found:
        """Put what two runs found together.

        Raises:
            ValueError: Both ran a case, and found different bytes.
        """
        differ = [case for case, digest in other.digests.items() if self.digests.get(case, digest) != digest]
        if differ:
            message = f"two backends write different bytes: {', '.join(differ)}"
            raise ValueError(message)
        return Found({**self.digests, **other.digests}, {**self.near, **other.near}, {**self.sources, **other.sources})


@dataclass(frozen=True)
class Golden:
    """What is written down of one payload."""

    revision: int
    found: Found


def read(file: Path = FILE) -> dict[str, Golden]:
    """Read the golden file; by the payload."""
    document = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {payload: Golden(entry.pop("revision"), Found(**entry)) for payload, entry in document.items()}


def write(goldens: Mapping[str, Golden], file: Path = FILE) -> None:
    """Write the golden file."""
    document = {name: {"revision": one.revision, **asdict(one.found)} for name, one in sorted(goldens.items())}
    file.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def faults(payload: str, revision: int, golden: Golden | None, found: Found) -> list[str]:
    """Say what is wrong with a payload: nothing where it writes what is written down for its revision.

    Args:
        payload: Its name.
        revision: The one that it declares.
        golden: What is written down.
        found: What it wrote; it may be some of the cases only.
    """
    if golden is None:
        return [f"{payload}: no bytes are written down; run {UPDATE}"]
    if revision < golden.revision:
        return [f"{payload}: its revision is {revision}, and {golden.revision} was there before: it never goes back"]
    if revision > golden.revision:
        behind = f"the golden bytes are those of revision {golden.revision}; run {UPDATE}"
        return [f"{payload}: its revision is {revision}, and {behind}"]
    new = [case for case in (*found.digests, *found.near, *found.sources) if case not in _cases(golden.found)]
    changed = list(_changed(golden.found, found))
    said = [f"{payload}: no bytes are written down of: {', '.join(new)}; run {UPDATE}"] if new else []
    if changed:
        said.append(
            f"{payload}: other bytes at the same revision, {revision}: {', '.join(changed)}. Where that is meant,"
            f" raise the number of `{payload}` in orchestrator/payloads/revisions.py, so that no store goes on with the"
            f" old bytes, and run {UPDATE}. Where it is not meant, the last change has a defect."
        )
    sources = [case for case, digest in found.sources.items() if golden.found.sources.get(case, digest) != digest]
    if sources:
        said.append(
            f"{payload}: {', '.join(sources)} changed, and cannot run here. {_ON_A_GPU}. Where bytes differ, raise the"
            f" number of `{payload}` in orchestrator/payloads/revisions.py. Then run {UPDATE}; without a GPU in that"
            " run it takes a new number."
        )
    return said


def updated(payload: str, revision: int, golden: Golden | None, found: Found, *, proved: bool) -> Golden:
    """Return what is to be written down.

    Args:
        payload: Its name.
        revision: The one that it declares.
        golden: What is written down so far.
        found: What it wrote; cases that did not run are kept where the revision is the same.
        proved: Whether code that cannot run here did run on a GPU, and gave the bytes of the definitions.

    Raises:
        ValueError: The bytes are others and the revision is not new, or it is new and some cases did not run.
    """
    if golden is None:
        return Golden(revision, found)
    if revision < golden.revision:
        raise ValueError(*faults(payload, revision, golden, found))
    if revision > golden.revision:
        missing = _cases(golden.found) - _cases(found)
        if missing:
            message = (
                f"{payload}: all cases of a new revision are written down together, and these did not run here:"
                f" {', '.join(sorted(missing))}; they need torch: set ORCHESTRATOR_ORACLE_PYTHON"
            )
            raise ValueError(message)
        return Golden(revision, found)
    sources = {} if proved else {case: golden.found.sources.get(case, found.sources[case]) for case in found.sources}
    if list(_changed(golden.found, found)) or (sources and sources != dict(found.sources)):
        raise ValueError(*faults(payload, revision, golden, found))
    kept = Found(golden.found.digests, {**found.near, **golden.found.near}, {})
    return Golden(revision, kept.and_then(Found(found.digests, {}, {**golden.found.sources, **found.sources})))


def _cases(found: Found) -> set[str]:
    return {*found.digests, *found.near, *found.sources}


def _changed(golden: Found, found: Found) -> Iterator[str]:
    """Yield the cases that are written down and were other this time."""
    for case, digest in found.digests.items():
        if golden.digests.get(case, digest) != digest:
            yield case
    for case, numbers in found.near.items():
        if case in golden.near and not _close(golden.near[case], numbers):
            yield f"{case} (numbers)"


def _close(golden: Mapping[str, float], found: Mapping[str, float]) -> bool:
    return golden.keys() == found.keys() and all(
        math.isclose(golden[name], number, rel_tol=_tolerance(name), abs_tol=1e-9) for name, number in found.items()
    )


def _tolerance(name: str) -> float:
    return _OF_SCALES if name.endswith("_scale") else _OF_ERRORS
