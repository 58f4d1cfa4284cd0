"""Builds up to the checks and shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.verifying import Verification, failed_verification, verify
from orchestrator.cli import costs
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.commands.quality import FIGURES, figures
from orchestrator.cli.options import (
    PageFile,
    executor_option,
    json_option,
    recipe_argument,
    set_option,
    verbose_option,
    write_page,
)
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json
from orchestrator.errors import CheckFailedError


@click.command("verify")
@recipe_argument
@click.option("--deep", is_flag=True, help="Hash every file of every step again.")
@click.option(
    "--html",
    "page",
    type=PageFile(),
    metavar="FILE",
    help="Also write one self-contained page with charts.",
)
@set_option
@executor_option
@json_option
@verbose_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
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
            found = verify(settings, recipe, overrides, executor=executor, deep=deep, observer=view)
    except CheckFailedError as error:
        if page is not None:
            _write_page(settings, failed_verification(settings, recipe, overrides, error, executor=executor), page)
        raise
    quality = found.quality
    if page is not None:
        _write_page(settings, found, page)
    if as_json:
        print_json(quality)
        return
    rows = [(_mark(check), check["name"], str(check["detail"])) for check in quality["checks"]]
    print_table(("", "check", "found"), rows)
    if quality["divergence"] is not None:
        click.echo(f"\n{quality['divergence']['meaning']}")
    if compared := quality.get("compared"):
        own, ways = compared["own"], compared["candidates"]
        click.echo("")
        print_table(
            ("way", "", *FIGURES),
            [(row["name"], "this model" if row["name"] == own else "", *figures(row)) for row in ways],
        )
    if quality["advice"]:
        click.echo(f"\nwhat to try: {quality['advice']}")
    if (quality.get("snr_db") or {}).get("min") is not None:  # absent if nothing was quantized
        click.echo(
            "\nsignal-to-noise of the weights: {min:.1f} dB at worst, {mean:.1f} dB on average".format_map(
                quality["snr_db"]
            )
        )


def _mark(check: Mapping[str, Any]) -> str:
    """Return the mark of a check: failed, worse than normal for the format, or passed."""
    if not check["passed"]:
        return "✗"
    return "!" if check["warning"] else "✓"


def _write_page(settings: Settings, found: Verification, file: Path) -> None:
    from orchestrator.pages.quality_page import Making, quality_page  # noqa: PLC0415 - only for a page

    known = [(result.name, settings.store.cost(result.artifact.key)) for result in found.results]
    making = Making(costs.HEADS, costs.NUMBERS, [costs.cells(name, cost) for name, cost in known if cost])
    recipe = found.plan.recipe
    page = quality_page(recipe.name, recipe.description, found.quality, found.quantization or None, making)
    write_page(file, page)
