"""Collects what is known of a recipe's newest build, for its page."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.app.batch import planned_time
from orchestrator.app.memory_guard import MemorySeries
from orchestrator.app.record import read_line
from orchestrator.events import MemoryUsed
from orchestrator.pages.build_page import BuildStory, StepStory
from orchestrator.planner.phases import PHASES
from orchestrator.planner.prediction import beside_measured, predict
from orchestrator.units import in_time

if TYPE_CHECKING:
    from orchestrator.app.make_plan import PlacedStep, Plan
    from orchestrator.app.record import Entry, Record
    from orchestrator.app.settings import Settings
    from orchestrator.store.store import Store

_MEMORY = b'{"event": "memory"'
"""How the lines with memory begin. A long build has many others, which a page does not need."""


def tell(settings: Settings, record: Record, planned: Plan | None) -> BuildStory:
    """Collect a build.

    Args:
        settings: The folders.
        record: The record of the build.
        planned: Its plan; None if the recipe is not there any more.
    """
    store = settings.store
    folders = {entry.name: _folder(store, entry) for entry in record.steps}
    performance = _document(folders.get("benchmark"), "performance.json")
    prediction = predict(planned.model) if planned else None
    bundle = settings.dist / record.recipe
    curves = _curves(record.file)
    plans = {placed.step.name: _planned(planned, placed) for placed in planned.steps} if planned else {}
    span = planned_time(planned, {entry.name for entry in record.steps if entry.state != "reused"}) if planned else None
    return BuildStory(
        recipe=record.recipe,
        description=planned.recipe.description if planned else "",
        started=time.strftime("%Y-%m-%d %H:%M", time.gmtime(record.started)),
        is_running=record.is_running,
        is_finished=record.finished,
        error=record.error,
        steps=tuple(_step(store, record, entry, plans.get(entry.name, (0, None)), curves) for entry in record.steps),
        memory=planned.target.memory if planned else None,
        verdict=str(planned.verdict) if planned else "",
        quality=_document(folders.get("verify"), "quality.json"),
        levels=beside_measured(performance, prediction),
        bundle=str(bundle) if record.finished and bundle.is_dir() else "",
        planned=f"{in_time(span.least)} to {in_time(span.most)}" if span else "",
    )


def _planned(plan: Plan, placed: PlacedStep) -> tuple[int, float | None]:
    """Return a step's GPUs and its planned peak, the latter if it lies in the memory that a curve is of."""
    stage = plan.estimate.stage(PHASES.get(placed.step.name, "download"))
    shares = plan.target.unified_memory or plan.target.gpu is None
    return placed.step.gpus, stage.peak.total if stage and shares else None


def _curves(file: Path) -> dict[str, MemorySeries]:
    """Read the memory of each step that this build has begun. A cluster's jobs have records of their own."""
    found: dict[str, MemorySeries] = defaultdict(MemorySeries)
    with suppress(OSError), file.open("rb") as lines:
        for line in lines:
            event = read_line(line) if line.startswith(_MEMORY) else None
            if isinstance(event, MemoryUsed):
                found[event.step].add(event.seconds, event.used, event.limit)
    return found


def _step(
    store: Store, record: Record, entry: Entry, planned: tuple[int, float | None], curves: Mapping[str, MemorySeries]
) -> StepStory:
    begun = curves[entry.name].curve if entry.name in curves else None
    artifact, cost = (store.look(entry.key), store.cost(entry.key)) if entry.has_result else (None, None)
    spent = cost.spent if cost else None
    return StepStory(
        name=entry.name,
        state=record.state_of(entry),
        seconds=entry.seconds,
        made=cost.finished if cost else "",
        took=cost.seconds if cost else None,
        size=artifact.size if artifact else None,
        peak_memory=spent.peak_memory if spent else None,
        digest=artifact.digest if artifact else "",
        error=entry.error,
        gpus=planned[0],
        memory=cost.memory if cost else begun,
        predicted_memory=planned[1],
    )


def _folder(store: Store, entry: Entry) -> Path | None:
    artifact = store.look(entry.key) if entry.has_result else None
    return artifact.folder if artifact else None


def _document(folder: Path | None, name: str) -> dict[str, Any] | None:
    if folder is None or not (folder / name).is_file():
        return None
    document: dict[str, Any] = json.loads((folder / name).read_bytes())
    return document
