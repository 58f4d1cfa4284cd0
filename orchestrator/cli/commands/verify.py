"""Build as far as the checks and show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.building import build_recipe
from orchestrator.cli.options import executor_option, json_option, recipe_argument, set_option, verbose_option
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import print_json, print_table
from orchestrator.errors import ArtifactCorruptError
from orchestrator.plan import ExecutorName, Plan
from orchestrator.runner import StepResult


@click.command("verify")
@recipe_argument
@click.option("--deep", is_flag=True, help="Hash every file of every step again.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
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
    recipe: str,
    deep: bool,
    page: Path | None,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build RECIPE as far as its checks, and show what they found."""
    plan, results = build_recipe(settings, recipe, overrides, executor=executor, last="verify", verbose=verbose)
    if deep:
        _hash_again(settings, results)
    quality: dict[str, Any] = json.loads((results[-1].artifact.folder / "quality.json").read_bytes())
    if page is not None:
        _write_page(plan, results, quality, page)
    if as_json:
        print_json(quality)
        return
    rows = [("✓" if check["passed"] else "✗", check["name"], str(check["detail"])) for check in quality["checks"]]
    print_table(("", "check", "found"), rows)
    if (quality.get("snr_db") or {}).get("min") is not None:  # none where nothing was quantized
        click.echo(
            "\nsignal-to-noise of the weights: {min:.1f} dB at worst, {mean:.1f} dB on average".format_map(
                quality["snr_db"]
            )
        )


def _write_page(plan: Plan, results: tuple[StepResult, ...], quality: dict[str, Any], file: Path) -> None:
    from orchestrator.pages.checked import checked_page  # noqa: PLC0415 - only for a page

    reports = [result.artifact.folder / "quantization.json" for result in results if result.name == "quantize"]
    found = next((json.loads(report.read_bytes()) for report in reports if report.is_file()), None)
    recipe = plan.recipe
    file.write_text(checked_page(recipe.name, recipe.description, quality, found), encoding="utf-8")


def _hash_again(settings: Settings, results: tuple[StepResult, ...]) -> None:
    for result in results:
        try:
            settings.store.check(result.artifact)
        except ArtifactCorruptError:
            settings.store.set_aside(result.artifact.key)
            raise
