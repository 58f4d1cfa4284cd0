"""The packages whose tests are measured, and where their tests are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Area:
    """A part of the code."""

    name: str
    code: tuple[str, ...]
    """Its folders and files."""
    elsewhere: tuple[str, ...] = ()
    """How the names of tests begin that run its code in other processes, where no coverage is measured."""

    def modules(self, root: Path) -> Iterator[Path]:
        """Return its Python files, in order."""
        for part in self.code:
            place = root / part
            yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


AREAS = (
    Area("planner", ("orchestrator/planner",)),
    Area(
        "quantization",
        ("orchestrator/quantization",),
        ("tests/contract/test_payload_bytes.py", "tests/contract/test_costs.py"),
    ),
    Area("store", ("orchestrator/store",), ("tests/contract/test_store_on_disk.py", "tests/contract/test_costs.py")),
    Area(
        "runner",
        ("orchestrator/app/runner.py", "orchestrator/app/key.py", "orchestrator/app/binding.py"),
        ("tests/contract/test_detach.py", "tests/contract/test_costs.py"),
    ),
    Area("hub", ("orchestrator/hub",), ("tests/contract/test_hub",)),
    Area("gateway", ("orchestrator/bundle/gateway",), ("tests/contract/gateway",)),
)
TESTS = ("tests/unit", "tests/contract")
"""The tests that must notice a change."""
