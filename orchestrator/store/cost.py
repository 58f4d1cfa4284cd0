"""What making an artifact cost: a small file beside its manifest, which its digest knows nothing of.

The same work gives the same bytes and never the same times. So the record lies outside of what is published, as the log
does; it is there for as long as the artifact is, for every build that uses it again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.events import Spent

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = 1
_FILE = "cost.json"


@dataclass(frozen=True)
class Cost:
    """Of one artifact, measured when it was made."""

    executor: str
    finished: str
    """When, in UTC, as ISO 8601 has it."""
    seconds: float | None
    """That the try took which came to its end. What earlier tries had done is not in it; None where its container ran
    before we came."""
    spent: Spent | None = None
    """What the command itself told; few do."""

    def document(self) -> dict[str, Any]:
        """Spell it as JSON has it, on disk and for whoever asks."""
        return {"format": _FORMAT, **asdict(self)}


def write_cost(folder: Path, cost: Cost) -> None:
    """Put it into a try's folder, from which the artifact's is made."""
    (folder / _FILE).write_text(json.dumps(cost.document(), indent=1) + "\n", encoding="utf-8")


def read_cost(folder: Path) -> Cost | None:
    """Read it; None where an artifact was made before costs were kept, or nothing can be read."""
    try:
        fields = json.loads((folder / _FILE).read_bytes())
        if fields.pop("format") != _FORMAT:
            return None
        spent = fields.pop("spent")
        return Cost(**fields, spent=Spent(**spent) if spent else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
