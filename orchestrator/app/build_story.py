"""Collects what is known of a recipe's newest build, for its page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.app.batch import planned_time
from orchestrator.pages.build_page import BuildStory, StepStory
from orchestrator.planner.prediction import beside_measured, predict
from orchestrator.units import in_time

if TYPE_CHECKING:
    from orchestrator.app.make_plan import Plan
    from orchestrator.app.record import Entry, Record
    from orchestrator.app.settings import Settings
    from orchestrator.store.store import Store


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
    gpus = {placed.step.name: placed.step.gpus for placed in planned.steps} if planned else {}
    span = planned_time(planned, {entry.name for entry in record.steps if entry.state != "reused"}) if planned else None
    return BuildStory(
        recipe=record.recipe,
        description=planned.recipe.description if planned else "",
        started=time.strftime("%Y-%m-%d %H:%M", time.gmtime(record.started)),
        is_running=record.is_running,
        is_finished=record.finished,
        error=record.error,
        steps=tuple(_step(store, record, entry, gpus.get(entry.name, 0)) for entry in record.steps),
        memory=planned.target.memory if planned else None,
        verdict=str(planned.verdict) if planned else "",
        quality=_document(folders.get("verify"), "quality.json"),
        levels=beside_measured(performance, prediction),
        bundle=str(bundle) if record.finished and bundle.is_dir() else "",
        planned=f"{in_time(span.least)} to {in_time(span.most)}" if span else "",
    )


def _step(store: Store, record: Record, entry: Entry, gpus: int) -> StepStory:
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
        gpus=gpus,
    )


def _folder(store: Store, entry: Entry) -> Path | None:
    artifact = store.look(entry.key) if entry.has_result else None
    return artifact.folder if artifact else None


def _document(folder: Path | None, name: str) -> dict[str, Any] | None:
    if folder is None or not (folder / name).is_file():
        return None
    document: dict[str, Any] = json.loads((folder / name).read_bytes())
    return document
