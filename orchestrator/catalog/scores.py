"""Reads the published scores of quantized models."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from orchestrator.values import frozen


@frozen
class Score:
    """What somebody measured and published."""

    score: str
    source: str
    read: str
    """The day on which the source was read."""


def score_of(repo: str, format_name: str) -> Score | None:
    """Find the score of a model in a format; None if none is known."""
    return _scores().get((repo, format_name))


@cache
def _scores() -> dict[tuple[str, str], Score]:
    text = files("orchestrator.catalog").joinpath("scores.json").read_text(encoding="utf-8")
    return {
        (entry["repo"], entry["format"]): Score(entry["score"], entry["source"], entry["read"])
        for entry in json.loads(text)["scores"]
    }
