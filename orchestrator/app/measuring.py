"""Measures a recipe's server, and keeps the result as a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from orchestrator import __version__
from orchestrator.app.building import Build, Executors, build
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.measurements import Row, add_rows, row_of
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import MachineError, StepUnknownError
from orchestrator.events import Observer, silence
from orchestrator.planner.prediction import predict
from orchestrator.recipe.model import Recipe, Workload
from orchestrator.store.cost import read_cost

PERFORMANCE = "performance.json"
_STEP = "benchmark"
REQUESTS_OF_EACH = 4
"""Requests of each user. With one, all users begin and end together, and prompts are never read between answers."""


def benchmark_of(
    recipe: Recipe, workload: Workload, precision: float | None = None, max_runs: int | None = None
) -> tuple[str, ...]:
    """Return the benchmark of a workload as values of a recipe. Lengths that are not given are the recipe's own.

    Args:
        recipe: The recipe.
        workload: What users send; fields that are not set are not changed.
        precision: The relative half width of the 95 % interval; None: one run.
        max_runs: Most runs.
    """
    given = workload.model_fields_set
    values: dict[str, Any] = {
        name: getattr(workload, name) for name in ("input_tokens", "output_tokens") if name in given
    }
    if workload.concurrency is not None:
        own = recipe.benchmark.requests if recipe.benchmark else 0
        values |= {
            "concurrency": [workload.concurrency],
            "requests": max(own, REQUESTS_OF_EACH * workload.concurrency),
        }
    values |= {"max_runs": max_runs, "precision": precision}
    return tuple(f"benchmark.{name}={json.dumps(value)}" for name, value in values.items())


def measure(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    again: bool = False,
    keep: bool = True,
    limit: float | None = None,
    executors: Executors | None = None,
    observer: Observer = silence,
) -> Row:
    """Build a recipe up to its benchmark, and add the result to the measurements.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run the steps that can run in more than one place.
        again: Measure even if the store has the result.
        keep: Add the row to the measurements.
        limit: Seconds of one step.
        executors: How to create each executor; None: processes and Docker of this machine.
        observer: Gets the events of the build.

    Raises:
        StepUnknownError: The recipe has no benchmark, or its target has no GPU.
        OrchestratorError: As `build`.
    """
    try:
        built = build(
            settings,
            recipe,
            overrides,
            executor=executor,
            first=_STEP if again else None,
            last=_STEP,
            limit=limit,
            executors=executors,
            observer=observer,
        )
    except StepUnknownError as error:
        message = f"{recipe} has no benchmark, or its target has no GPU"
        raise StepUnknownError(message, hint=error.hint) from error
    row = _row(built)
    if keep:
        add_rows(settings, [row])
    return row


def _row(built: Build) -> Row:
    artifact = built.results[-1].artifact
    performance = json.loads((artifact.folder / PERFORMANCE).read_bytes())
    predicted = (predict(built.plan.model) or {}).get("levels", [])
    by_users = {level["concurrency"]: level["output_tokens_per_second"] for level in predicted}
    cost = read_cost(artifact.folder.parent)
    fields = {
        **performance,
        "schema_version": 1,
        "date": cost.finished if cost else datetime.now(UTC).isoformat(timespec="seconds"),
        "orchestrator": __version__,
        "recipe": built.plan.recipe.model_dump(mode="json", exclude_defaults=True),
        "image_digest": image_digest(performance.get("provenance", {}).get("image")),
        "levels": [
            {**level, "predicted": by_users.get(level.get("concurrency"))} for level in performance.get("levels", [])
        ],
    }
    return row_of(fields, str(artifact.folder / PERFORMANCE))


def image_digest(reference: str | None) -> str | None:
    """Return the image's digest: that of the lock, else Docker's; None for an image that was built here."""
    if not reference or "@" in reference:
        return reference.partition("@")[2] if reference else None
    from docker.errors import ImageNotFound  # noqa: PLC0415 - the SDK loads slowly

    from orchestrator.executors.docker_client import connect, explained  # noqa: PLC0415 - as above

    try:
        with closing(connect()) as client, explained(f"looking for image {reference}"):
            found: list[str] = client.images.get(reference).attrs.get("RepoDigests") or []
    except (MachineError, ImageNotFound):
        return None
    return found[0].partition("@")[2] if found else None
