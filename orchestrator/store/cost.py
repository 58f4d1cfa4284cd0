"""Records an artifact's cost in a small file beside its manifest, outside of its digest.

The same work gives the same bytes but different times. So the cost, like the log, is not part of the published files.
It is kept as long as the artifact, for every build that reuses it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.values import frozen

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.events import Spent

_FORMAT = 1
_FILE = "cost.json"


@frozen
class MemoryCurve:
    """The memory in use on the machine while a step ran, all programs together."""

    every: float
    """Seconds from one point to the next."""
    before: int
    """Bytes when the step began."""
    used: tuple[int, ...]
    """Bytes, the highest within each of these times."""
    limit: int
    """Bytes: at more the step is stopped, or all that the machine has."""


@frozen
class Cost:
    """The cost of one artifact, measured when it was made."""

    executor: str
    finished: str
    """The UTC time in ISO 8601."""
    seconds: float | None
    """Seconds of the successful attempt, without earlier ones; None if its container started before this process."""
    spent: Spent | None = None
    """The command's own report, if any."""
    memory: MemoryCurve | None = None
    """None if the machine does not report its memory."""

    def document(self) -> dict[str, Any]:
        """Convert it to JSON, for the disk and for programs."""
        return {"format": _FORMAT, **asdict(self)}


def write_cost(folder: Path, cost: Cost) -> None:
    """Write it to an attempt's folder, which becomes the artifact's."""
    (folder / _FILE).write_text(json.dumps(cost.document(), indent=1) + "\n", encoding="utf-8")


def read_cost(folder: Path) -> Cost | None:
    """Read it; None if the artifact is older than this record, or if the file cannot be read."""
    from orchestrator.events import Spent  # noqa: PLC0415 - the dozen of events load slowly, and a plan has none

    try:
        fields = json.loads((folder / _FILE).read_bytes())
        if fields.pop("format") != _FORMAT:
            return None
        spent, memory = fields.pop("spent"), fields.pop("memory", None)
        curve = MemoryCurve(**{**memory, "used": tuple(memory["used"])}) if memory else None
        return Cost(**fields, spent=Spent(**spent) if spent else None, memory=curve)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
