"""What says what is served: its configuration, what was measured, and what the server tells of itself."""

from __future__ import annotations

import json

from orchestrator.bundle.facts import CONFIG, Facts


def files(facts: Facts) -> dict[str, str]:
    """Write down what every deployment needs."""
    reports = {
        "quality.json": facts.quality,
        "performance.json": facts.performance,
        "prediction.json": facts.prediction,
    }
    return {CONFIG: facts.config} | {name: _json(report) for name, report in reports.items() if report is not None}


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
