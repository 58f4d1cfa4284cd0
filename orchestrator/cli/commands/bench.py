"""Builds up to the benchmark and shows its results."""

from __future__ import annotations

import json
from typing import Any

import click

from orchestrator.app.building import Build, build
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.options import executor_option, json_option, recipe_argument, set_option, verbose_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json
from orchestrator.errors import StepUnknownError


@click.command("bench")
@recipe_argument
@set_option
@executor_option
@json_option
@verbose_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build RECIPE up to its benchmark, and show the measurements."""
    try:
        with BuildView(verbose=verbose) as view:
            built = build(settings, recipe, overrides, executor=executor, last="benchmark", observer=view)
    except StepUnknownError as error:
        message = f"{recipe} has no benchmark, or its target has no GPU"
        raise StepUnknownError(message, hint=error.hint) from error
    performance = _performance(built)
    if as_json:
        print_json(performance)
        return
    heads = ("concurrency", "tokens/s", "tokens/s per user", "to first token")
    print_table(heads, [_row(level) for level in performance["levels"]], right=(0, 1, 2, 3))


def _performance(built: Build) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((built.results[-1].artifact.folder / "performance.json").read_bytes())
    return document


def _row(level: dict[str, Any]) -> tuple[str, ...]:
    first_token = (level["time_to_first_token_ms"] or {}).get("average")
    return (
        str(level["concurrency"]),
        _shown(level["output_tokens_per_second"]),
        _shown(level["output_tokens_per_second_per_user"]),
        _shown(first_token, " ms"),
    )


def _shown(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.1f}{unit}"
