"""Fits the planner's constants to measurements: rows, and benchmarks that the store and `dist/` still have."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from orchestrator.app.measurements import rows_in
from orchestrator.app.model_files import local_files
from orchestrator.app.settings import Settings
from orchestrator.app.sizes import sizes_of
from orchestrator.catalog.target import Target
from orchestrator.documents.validate import validate
from orchestrator.errors import (
    MeasurementsMissingError,
    MeasurementUnusableError,
    OrchestratorError,
    machine_faults,
)
from orchestrator.models.shape import ModelShape
from orchestrator.planner.calibration import (
    Observation,
    calibrated,
    mean_error,
    observations_of,
)
from orchestrator.planner.constants import CALIBRATED, COSTS, Runtime, RuntimeConstants, default_constants, to_document
from orchestrator.planner.known import Find, known_model
from orchestrator.planner.scheme import Scheme, scheme_of, scheme_of_files
from orchestrator.recipe.model import Recipe
from orchestrator.serving.runtimes import RUNTIMES
from orchestrator.store.artifact import Artifact
from orchestrator.store.temporary import replacing
from orchestrator.values import frozen

_PERFORMANCE = "performance.json"
_LEAST = 3
"""Levels of concurrency of a runtime. With fewer, slow bandwidth and slow start-up look the same."""


@frozen
class _Benchmark:
    """One benchmark, and the checkpoint that it measured."""

    file: str
    """Where it was found."""
    document: Mapping[str, Any]
    checkpoint: Path | None
    """The folder with its config.json."""
    recipe: Mapping[str, Any] | None = None
    """The recipe of a row, from which its model's sizes follow."""


def calibrate(settings: Settings, target_name: str) -> dict[str, Any]:
    """Fit the planner's constants of each measured runtime to its rows and benchmarks, and write them into the store.

    Args:
        settings: The environment and the folders.
        target_name: The target that this machine is.

    Returns:
        A report for JSON: the file, the benchmarks that were skipped, and for each runtime how many were used, the
        mean error and the constants before and after.

    Raises:
        MeasurementsMissingError: There are too few usable measurements.
    """
    target = settings.catalog.target(target_name)
    runs = _runs(settings)
    observed, skipped = _observe(runs, target, sizes_of(settings))
    enough = {name: found for name, found in observed.items() if len(found) >= _LEAST}
    if not enough:
        raise _too_few(len(runs), observed, skipped, settings)
    fits = {name: _fit(name, found, target_name, target) for name, found in enough.items()}
    file = settings.store.root / CALIBRATED
    _write(file, {name: fit.after for name, fit in fits.items()}, target)
    return {
        "file": str(file),
        "skipped": skipped,
        "runtimes": {name: fit.report for name, fit in fits.items()},
        "too_few": {name: len(found) for name, found in observed.items() if name not in fits},
    }


@frozen
class _Fit:
    """The constants of one runtime before and after, and what was fitted."""

    before: RuntimeConstants
    after: RuntimeConstants
    observations: Sequence[Observation]

    @property
    def report(self) -> dict[str, Any]:
        before, after = self.before, self.after
        return {
            "runs": len({one.group for one in self.observations}),
            "levels": len(self.observations),
            "mean_error": {
                name: mean_error(self.observations, of) for name, of in (("before", before), ("after", after))
            },
            "costs": {cost: {"before": before.costs[cost], "after": after.costs[cost]} for cost in COSTS},
        }


def _fit(name: Runtime, observations: Sequence[Observation], target_name: str, target: Target) -> _Fit:
    assert target.gpu is not None  # noqa: S101 - runs of other machines were skipped
    before = default_constants().runtime(name, target.gpu.sm)
    runs = len({one.group for one in observations})
    basis = (
        f"{len(observations)} levels of {runs} benchmarks of this machine ({target_name}), and published measurements"
    )
    return _Fit(before, calibrated(before, observations, basis), observations)


def _runs(settings: Settings) -> list[_Benchmark]:
    """Find every benchmark, each once. Rows go first; the same step may have been measured again."""
    artifacts = list(settings.store.artifacts())
    by_digest = {artifact.digest: artifact for artifact in artifacts}
    rows = [
        _Benchmark(f"row {row.date:%Y-%m-%d} of {row.recipe.name}", document, _checkpoint(document, by_digest), recipe)
        for row in rows_in(settings)
        for document in [row.document()]
        for recipe in [document["recipe"]]
    ]
    measured = {str(_provenance(row.document).get("key")) for row in rows}
    return [*rows, *(run for key, run in _kept(settings, artifacts, by_digest).items() if key not in measured)]


def _kept(
    settings: Settings, artifacts: Sequence[Artifact], by_digest: Mapping[str, Artifact]
) -> dict[str, _Benchmark]:
    """Find the benchmarks of the store and of deployments by their key."""
    found: dict[str, _Benchmark] = {}
    for artifact in artifacts:
        if artifact.step == "benchmark":
            file = artifact.folder / _PERFORMANCE
            document = _read(file)
            found[artifact.key] = _Benchmark(str(file), document, _checkpoint(document, by_digest))
    for file in sorted(settings.dist.glob(f"*/{_PERFORMANCE}")):
        document = _read(file)
        key = str(_provenance(document).get("key", file))
        model = file.parent / "model"
        if key not in found or found[key].checkpoint is None:
            found[key] = _Benchmark(str(file), document, model if (model / "config.json").is_file() else None)
    return found


def _checkpoint(document: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> Path | None:
    """Find the checkpoint among the benchmark's inputs. A TensorRT engine's config.json names no architectures."""
    inputs = _provenance(document).get("inputs")
    for digest in inputs.values() if isinstance(inputs, dict) else ():
        artifact = artifacts.get(digest)
        if artifact and "architectures" in _read(artifact.folder / "config.json"):
            return artifact.folder
    return None


def _observe(
    runs: list[_Benchmark], target: Target, find: Find
) -> tuple[dict[Runtime, list[Observation]], dict[str, str]]:
    """Turn the runs into observations of each runtime, and give the reason for each unusable run."""
    found: dict[Runtime, list[Observation]] = defaultdict(list)
    skipped: dict[str, str] = {}
    for run in runs:
        try:
            found[_runtime(run)] += _observations(run, target, find)
        except OrchestratorError as error:
            skipped[run.file] = error.message
    return {name: some for name, some in found.items() if some}, skipped


def _facts(run: _Benchmark) -> Mapping[str, Any]:
    facts = run.document.get("facts")
    return facts if isinstance(facts, dict) else {}


def _runtime(run: _Benchmark) -> Runtime:
    """Return what served a run, by the version that its facts have; older ones have none, and are of TensorRT-LLM."""
    facts = _facts(run)
    return cast("Runtime", next((RUNTIMES[name].COSTS for name in RUNTIMES if name in facts), "trtllm"))


def _observations(run: _Benchmark, target: Target, find: Find) -> list[Observation]:
    facts = _facts(run)
    measured_on = facts.get("sm")
    if target.gpu is None or measured_on != str(target.gpu.sm):
        message = f"measured on compute capability {measured_on}, which is not that of {target.description}"
        raise MeasurementUnusableError(message)
    if (run.recipe or {}).get("serve", {}).get("speculative"):
        message = "measured with drafts, whose steps are not those of plain decoding"
        raise MeasurementUnusableError(message)
    shape, scheme = _model(run, str(facts.get("format", "bf16")), find)
    return observations_of(run.document, shape, scheme, target, default_constants(), runtime=_runtime(run))


def _model(run: _Benchmark, form: str, find: Find) -> tuple[ModelShape, Scheme]:
    """Describe what was measured: by its checkpoint, else by the recipe of the row."""
    if run.checkpoint is not None:
        files = local_files(run.checkpoint)
        return files.shape, scheme_of_files(files) or scheme_of(form)
    recipe = validate(Recipe, dict(run.recipe), {}, MeasurementUnusableError) if run.recipe else None
    known = known_model(recipe, find) if recipe else None
    if known is None:
        message = "its checkpoint is no longer here, so what it read is not known"
        raise MeasurementUnusableError(message)
    return known.shape, known.served


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is none. The caller reports the missing fields."""
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _provenance(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("provenance")
    return found if isinstance(found, dict) else {}


def _too_few(
    runs: int, found: Mapping[Runtime, Sequence[Observation]], skipped: Mapping[str, str], settings: Settings
) -> MeasurementsMissingError:
    where = f"{settings.measurements}, {settings.store.root} and {settings.dist}"
    levels = max(map(len, found.values()), default=0)
    message = f"found {levels} usable levels in {runs} benchmarks in {where}, expected at least {_LEAST} of one runtime"
    reasons = "".join(f"\n{file}: {reason}" for file, reason in skipped.items())
    return MeasurementsMissingError(message + reasons, hint="measure first: orchestrator bench RECIPE")


def _write(file: Path, runtimes: Mapping[Runtime, RuntimeConstants], target: Target) -> None:
    assert target.gpu is not None  # noqa: S101 - runs of other machines were skipped
    document = to_document(replace(default_constants(), runtimes=runtimes))
    text = json.dumps({"sm": target.gpu.sm, **document}, indent=2) + "\n"
    with machine_faults("writing the result of the calibration"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh:
            fresh.write_text(text, encoding="utf-8")
