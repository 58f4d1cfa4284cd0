"""Fits the planner's constants to this machine's own benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator.app.settings import Settings
from orchestrator.catalog.target import Target
from orchestrator.cli.options import json_option
from orchestrator.cli.text import print_json, print_table
from orchestrator.errors import (
    MeasurementsMissingError,
    MeasurementUnusableError,
    OrchestratorError,
    machine_faults,
)
from orchestrator.models import shape_of
from orchestrator.planner.calibration import (
    Observation,
    calibrated,
    mean_error,
    observations_of,
)
from orchestrator.planner.constants import CALIBRATED, COSTS, RuntimeConstants, default_constants, to_document
from orchestrator.planner.scheme import Scheme, scheme_of, scheme_of_quant_config
from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store
from orchestrator.store.temporary import replacing

_PERFORMANCE = "performance.json"
_LEAST = 3
"""Levels of concurrency. With fewer, slow bandwidth and slow start-up look the same."""


@dataclass(frozen=True)
class Run:
    """One benchmark, and the checkpoint that it measured."""

    file: Path
    document: Mapping[str, Any]
    checkpoint: Path | None
    """The folder with its config.json."""


@click.command("calibrate")
@click.option("--target", "target_name", default="dgx-spark", show_default=True, help="The machine that this is.")
@json_option
@click.pass_obj
def command(settings: Settings, target_name: str, as_json: bool) -> None:
    """Fit the planner's constants to this machine's own benchmarks; later plans use them and say so.

    Reads every performance.json in the store and in dist/, and writes constants.json into the store.
    """
    target = settings.catalog.target(target_name)
    runs = _runs(settings.store, settings.dist)
    observations, skipped = _observe(runs, target)
    if len(observations) < _LEAST:
        raise _too_few(len(runs), len(observations), skipped, settings)
    before = default_constants().runtime("trtllm")
    used = len(runs) - len(skipped)
    basis = (
        f"{len(observations)} levels of {used} benchmarks of this machine ({target_name}), and published measurements"
    )
    after = calibrated(before, observations, basis)
    file = settings.store.root / CALIBRATED
    _write(file, after, target)
    report = {
        "file": str(file),
        "runs": used,
        "levels": len(observations),
        "skipped": {str(run): reason for run, reason in skipped.items()},
        "mean_error": {"before": mean_error(observations, before), "after": mean_error(observations, after)},
        "costs": {cost: {"before": before.costs[cost], "after": after.costs[cost]} for cost in COSTS},
    }
    if as_json:
        print_json(report)
    else:
        _show(report)


def _runs(store: Store, dist: Path) -> list[Run]:
    """Find every benchmark, each once."""
    artifacts = list(store.artifacts())
    by_digest = {artifact.digest: artifact for artifact in artifacts}
    found: dict[str, Run] = {}
    for artifact in artifacts:
        if artifact.step == "benchmark":
            file = artifact.folder / _PERFORMANCE
            document = _read(file)
            found[artifact.key] = Run(file, document, _checkpoint(document, by_digest))
    for file in sorted(dist.glob(f"*/{_PERFORMANCE}")):
        document = _read(file)
        key = str(_provenance(document).get("key", file))
        model = file.parent / "model"
        if key not in found or found[key].checkpoint is None:
            found[key] = Run(file, document, model if (model / "config.json").is_file() else None)
    return list(found.values())


def _checkpoint(document: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> Path | None:
    """Find the checkpoint among the benchmark's inputs. A TensorRT engine's config.json names no architectures."""
    inputs = _provenance(document).get("inputs")
    for digest in inputs.values() if isinstance(inputs, dict) else ():
        artifact = artifacts.get(digest)
        if artifact and "architectures" in _read(artifact.folder / "config.json"):
            return artifact.folder
    return None


def _observe(runs: list[Run], target: Target) -> tuple[list[Observation], dict[Path, str]]:
    """Turn the runs into observations, and give the reason for each unusable run."""
    found: list[Observation] = []
    skipped: dict[Path, str] = {}
    for run in runs:
        try:
            found += _observations(run, target)
        except OrchestratorError as error:
            skipped[run.file] = error.message
    return found, skipped


def _observations(run: Run, target: Target) -> list[Observation]:
    facts = run.document.get("facts")
    facts = facts if isinstance(facts, dict) else {}
    measured_on = facts.get("sm")
    if target.gpu is None or measured_on != str(target.gpu.sm):
        message = f"measured on compute capability {measured_on}, which is not that of {target.description}"
        raise MeasurementUnusableError(message)
    if run.checkpoint is None:
        message = "its checkpoint is no longer here, so what it read is not known"
        raise MeasurementUnusableError(message)
    shape = shape_of(_read(run.checkpoint / "config.json"), str(run.checkpoint / "config.json"))
    scheme = _scheme(run.checkpoint, str(facts.get("format", "bf16")))
    return observations_of(run.document, shape, scheme, target, default_constants())


def _scheme(checkpoint: Path, format_name: str) -> Scheme:
    quantization = checkpoint / "hf_quant_config.json"
    return (
        scheme_of_quant_config(_read(quantization), str(quantization))
        if quantization.is_file()
        else scheme_of(format_name)
    )


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
    document = to_document(default_constants().with_runtime("trtllm", runtime), "trtllm")
    text = json.dumps({"sm": target.gpu.sm, **document}, indent=2) + "\n"
    with machine_faults("writing the result of the calibration"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh:
            fresh.write_text(text, encoding="utf-8")


def _show(report: Mapping[str, Any]) -> None:
    print_table(("cost", "before", "after"), _rows(report["costs"]), right=(1, 2))
    error = report["mean_error"]
    click.echo(f"{report['levels']} levels of {report['runs']} benchmarks")
    click.echo(f"mean error of their times: {error['before']:.0%} before, {error['after']:.0%} after")
    for file, reason in report["skipped"].items():
        click.echo(f"not used: {file}: {reason}")
    click.echo(f"written to {report['file']}; plans and estimates use it from now on")


def _rows(costs: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str, str]]:
    for name, values in costs.items():
        yield name, f"{values['before']:.3g}", f"{values['after']:.3g}"
