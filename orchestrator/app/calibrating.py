"""Fits the planner's constants to this machine's own benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.app.model_files import local_files
from orchestrator.app.settings import Settings
from orchestrator.catalog.target import Target
from orchestrator.errors import (
    MeasurementsMissingError,
    MeasurementUnusableError,
    OrchestratorError,
    machine_faults,
)
from orchestrator.planner.calibration import (
    Observation,
    calibrated,
    mean_error,
    observations_of,
)
from orchestrator.planner.constants import CALIBRATED, COSTS, Runtime, RuntimeConstants, default_constants, to_document
from orchestrator.planner.scheme import scheme_of, scheme_of_files
from orchestrator.serving.runtimes import RUNTIMES
from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store
from orchestrator.store.temporary import replacing

_CALIBRATED: Runtime = "trtllm"
"""The runtime whose constants are calibrated."""
_PERFORMANCE = "performance.json"
_LEAST = 3
"""Levels of concurrency. With fewer, slow bandwidth and slow start-up look the same."""


@dataclass(frozen=True)
class _Benchmark:
    """One benchmark, and the checkpoint that it measured."""

    file: Path
    document: Mapping[str, Any]
    checkpoint: Path | None
    """The folder with its config.json."""


def calibrate(settings: Settings, target_name: str) -> dict[str, Any]:
    """Fit the planner's constants to every benchmark in the store and in `dist/`, and write them into the store.

    Args:
        settings: The environment and the folders.
        target_name: The target that this machine is.

    Returns:
        A report for JSON: the file, the benchmarks that were used or skipped, and the constants before and after.

    Raises:
        MeasurementsMissingError: There are too few usable measurements.
    """
    target = settings.catalog.target(target_name)
    runs = _runs(settings.store, settings.dist)
    observations, skipped = _observe(runs, target)
    if len(observations) < _LEAST:
        raise _too_few(len(runs), len(observations), skipped, settings)
    before = default_constants().runtime(_CALIBRATED)
    used = len(runs) - len(skipped)
    basis = (
        f"{len(observations)} levels of {used} benchmarks of this machine ({target_name}), and published measurements"
    )
    after = calibrated(before, observations, basis)
    file = settings.store.root / CALIBRATED
    _write(file, after, target)
    return {
        "file": str(file),
        "runs": used,
        "levels": len(observations),
        "skipped": {str(run): reason for run, reason in skipped.items()},
        "mean_error": {"before": mean_error(observations, before), "after": mean_error(observations, after)},
        "costs": {cost: {"before": before.costs[cost], "after": after.costs[cost]} for cost in COSTS},
    }


def _runs(store: Store, dist: Path) -> list[_Benchmark]:
    """Find every benchmark, each once."""
    artifacts = list(store.artifacts())
    by_digest = {artifact.digest: artifact for artifact in artifacts}
    found: dict[str, _Benchmark] = {}
    for artifact in artifacts:
        if artifact.step == "benchmark":
            file = artifact.folder / _PERFORMANCE
            document = _read(file)
            found[artifact.key] = _Benchmark(file, document, _checkpoint(document, by_digest))
    for file in sorted(dist.glob(f"*/{_PERFORMANCE}")):
        document = _read(file)
        key = str(_provenance(document).get("key", file))
        model = file.parent / "model"
        if key not in found or found[key].checkpoint is None:
            found[key] = _Benchmark(file, document, model if (model / "config.json").is_file() else None)
    return list(found.values())


def _checkpoint(document: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> Path | None:
    """Find the checkpoint among the benchmark's inputs. A TensorRT engine's config.json names no architectures."""
    inputs = _provenance(document).get("inputs")
    for digest in inputs.values() if isinstance(inputs, dict) else ():
        artifact = artifacts.get(digest)
        if artifact and "architectures" in _read(artifact.folder / "config.json"):
            return artifact.folder
    return None


def _observe(runs: list[_Benchmark], target: Target) -> tuple[list[Observation], dict[Path, str]]:
    """Turn the runs into observations, and give the reason for each unusable run."""
    found: list[Observation] = []
    skipped: dict[Path, str] = {}
    for run in runs:
        try:
            found += _observations(run, target)
        except OrchestratorError as error:
            skipped[run.file] = error.message
    return found, skipped


def _observations(run: _Benchmark, target: Target) -> list[Observation]:
    facts = run.document.get("facts")
    facts = facts if isinstance(facts, dict) else {}
    others = [RUNTIMES[name].LABEL for name in RUNTIMES if name in facts and RUNTIMES[name].COSTS != _CALIBRATED]
    if others:
        message = f"measured with {others[0]}, and the constants of TensorRT-LLM are calibrated"
        raise MeasurementUnusableError(message)
    measured_on = facts.get("sm")
    if target.gpu is None or measured_on != str(target.gpu.sm):
        message = f"measured on compute capability {measured_on}, which is not that of {target.description}"
        raise MeasurementUnusableError(message)
    if run.checkpoint is None:
        message = "its checkpoint is no longer here, so what it read is not known"
        raise MeasurementUnusableError(message)
    files = local_files(run.checkpoint)
    scheme = scheme_of_files(files) or scheme_of(str(facts.get("format", "bf16")))
    return observations_of(run.document, files.shape, scheme, target, default_constants())


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


def _too_few(runs: int, levels: int, skipped: Mapping[Path, str], settings: Settings) -> MeasurementsMissingError:
    where = f"{settings.store.root} and {settings.dist}"
    message = f"found {levels} usable levels in {runs} benchmarks in {where}, expected at least {_LEAST}"
    reasons = "".join(f"\n{file}: {reason}" for file, reason in skipped.items())
    return MeasurementsMissingError(message + reasons, hint="measure first: orchestrator bench RECIPE")


def _write(file: Path, runtime: RuntimeConstants, target: Target) -> None:
    assert target.gpu is not None  # noqa: S101 - runs of other machines were skipped
    document = to_document(default_constants().with_runtime(_CALIBRATED, runtime), _CALIBRATED)
    text = json.dumps({"sm": target.gpu.sm, **document}, indent=2) + "\n"
    with machine_faults("writing the result of the calibration"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh:
            fresh.write_text(text, encoding="utf-8")
