from __future__ import annotations

import json
from pathlib import Path

from orchestrator.app.build_story import _curves
from orchestrator.events import Event, MemoryUsed, Progress, StepStarted, to_record


def test_the_record_of_a_build_has_the_curve_of_each_step_that_began(tmp_path: Path) -> None:
    file = tmp_path / "x.events"
    events: list[Event] = [
        StepStarted("download", "process"),
        MemoryUsed("download", 0.0, 4, 9),
        Progress(1, 2, "bytes"),
        MemoryUsed("download", 1.2, 6, 9),
        MemoryUsed("quantize", 0.0, 5, 9),
    ]
    whole = "".join(f"{json.dumps(to_record(event))}\n" for event in events)
    file.write_text(whole + '{"event": "memory", "step": 7}\n{"event": "memory", "st')  # the build was killed

    found = {step: series.curve for step, series in _curves(file).items()}

    assert {step: curve.used for step, curve in found.items() if curve} == {"download": (4, 6), "quantize": (5,)}
    assert _curves(tmp_path / "none") == {}
