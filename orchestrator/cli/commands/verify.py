"""Builds up to the checks and shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.app import building
from orchestrator.app.building import build_recipe, plan_build
from orchestrator.app.named import Named
from orchestrator.app.plan import ExecutorName, Plan
from orchestrator.app.runner import Runner, StepResult
from orchestrator.app.settings import Settings
from orchestrator.cli import costs
from orchestrator.cli.options import (
    PageFile,
    executor_option,
    json_option,
    recipe_argument,
    set_option,
    verbose_option,
    write_page,
)
from orchestrator.cli.progress import BuildView
from orchestrator.cli.text import print_json, print_table
from orchestrator.errors import ArtifactCorruptError, CheckFailedError
from orchestrator.events import silence


@click.command("verify")
@recipe_argument
@click.option("--deep", is_flag=True, help="Hash every file of every step again.")
@click.option(
    "--html",
    "page",
    type=PageFile(),
    metavar="FILE",
    help="Write one self-contained page with pictures as well.",
)
@set_option
@executor_option
@json_option
@verbose_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: Named,
    deep: bool,
    page: Path | None,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build RECIPE up to its checks, and show the results."""
    try:
        with BuildView(verbose=verbose) as view:
            plan, results = build_recipe(settings, recipe, overrides, executor=executor, last="verify", observer=view)
    except CheckFailedError as error:
        if page is not None:
            _write_page_of_failure(settings, plan_build(settings, recipe, overrides, executor=executor), error, page)
        raise
    if deep:
        _hash_again(settings, results)
    quality: dict[str, Any] = json.loads((results[-1].artifact.folder / "quality.json").read_bytes())
    if page is not None:
        _write_page(settings, plan, results, quality, page)
    if as_json:
        print_json(quality)
        return
    rows = [("✓" if check["passed"] else "✗", check["name"], str(check["detail"])) for check in quality["checks"]]
    print_table(("", "check", "found"), rows)
    if (quality.get("snr_db") or {}).get("min") is not None:  # absent if nothing was quantized
        click.echo(
            "\nsignal-to-noise of the weights: {min:.1f} dB at worst, {mean:.1f} dB on average".format_map(
                quality["snr_db"]
            )
        )


def _write_page(
    settings: Settings, plan: Plan, results: tuple[StepResult, ...], quality: dict[str, Any], file: Path
) -> None:
    from orchestrator.pages.checked import Making, checked_page  # noqa: PLC0415 - only for a page

    recipe, found = plan.recipe, _report(results, "quantize", "quantization.json")
    known = [(result.name, settings.store.cost(result.artifact.key)) for result in results]
    made = [costs.cells(name, cost) for name, cost in known if cost]
    making = Making(costs.HEADS, costs.NUMBERS, made)
    write_page(file, checked_page(recipe.name, recipe.description, quality, found or None, making))


def _write_page_of_failure(settings: Settings, plan: Plan, error: CheckFailedError, file: Path) -> None:
    """Draw the results of the steps before the checks, which show the cause of a failure."""
    steps = [placed.step.name for placed in plan.steps]
    before = steps[steps.index("verify") - 1]
    results = Runner(settings.store, building.executors(), silence).run(plan, last=before)  # all of them are cached
    tensors = _report(results, "quantize", "quantization.json").get("tensors", [])
    quality = {
        "passed": False,
        "checks": [{"name": error.code, "passed": False, "detail": f"{error.message}. {error.hint}"}],
        "skipped": [],
        "layers": [{"name": tensor["module"], "snr_db": tensor["snr_db"]} for tensor in tensors],
        "divergence": _report(results, "evaluate", "evaluation.json") or None,
    }
    _write_page(settings, plan, results, quality, file)


def _report(results: tuple[StepResult, ...], step: str, file: str) -> dict[str, Any]:
    """Read a step's output file; an empty object if there is no such step or file."""
    found = [result.artifact.folder / file for result in results if result.name == step]
    return next((dict(json.loads(report.read_bytes())) for report in found if report.is_file()), {})


def _hash_again(settings: Settings, results: tuple[StepResult, ...]) -> None:
    for result in results:
        try:
            settings.store.check(result.artifact)
        except ArtifactCorruptError:
            settings.store.set_aside(result.artifact.key)
            raise
