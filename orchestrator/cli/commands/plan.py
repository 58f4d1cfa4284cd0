"""Say whether a recipe will fit, what it costs and what it does."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.failure import show_error
from orchestrator.cli.options import executor_option, json_option, recipe_argument, set_option
from orchestrator.cli.planning import Planned, plan_recipe
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import print_json, print_table, program
from orchestrator.errors import PlanRefusedError
from orchestrator.plan import ExecutorName, Plan
from orchestrator.planner.figures import Figure
from orchestrator.runner import Forecast, forecast


@click.command("plan")
@recipe_argument
@set_option
@executor_option
@json_option
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Write one self-contained page with pictures as well.",
)
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Say whether RECIPE will fit, what it costs and what it does; exit status 4 where it cannot work."""
    settings: Settings = ctx.obj
    planned = plan_recipe(settings, recipe, overrides, executor)
    steps = forecast(planned.plan, settings.store, Path("WORK"))
    if page is not None:
        _write_page(planned.plan, page)
    if as_json:
        print_json(_document(planned, steps))
    else:
        _show(planned, steps)
    if planned.plan.refusals:
        ctx.exit(PlanRefusedError.exit_status)


def _write_page(plan: Plan, file: Path) -> None:
    from orchestrator.pages.page import plan_page  # noqa: PLC0415 - only for a page
    from orchestrator.pages.planned import comparison_for, plan_facts  # noqa: PLC0415 - as above

    facts = plan_facts(plan.recipe, plan.target, plan.estimate, plan.refusals, plan.warnings)
    file.write_text(plan_page(facts, comparison_for(plan.recipe, plan.target)), encoding="utf-8")


def _figures(planned: Planned) -> dict[str, Figure]:
    estimate = planned.plan.estimate
    found = {field.name: getattr(estimate, field.name) for field in fields(estimate)}
    return {name: figure for name, figure in found.items() if isinstance(figure, Figure)}


def _document(planned: Planned, steps: tuple[Forecast, ...]) -> dict[str, Any]:
    plan = planned.plan
    return {
        "recipe": plan.recipe.name,
        "target": plan.recipe.target,
        "works": not plan.refusals,
        "refusals": [asdict(refusal) for refusal in plan.refusals],
        "warnings": [asdict(warning) for warning in plan.warnings],
        "estimate": {name: asdict(figure) for name, figure in _figures(planned).items()},
        "steps": [{"name": f.placed.step.name, "executor": f.placed.executor, "decision": f.decision} for f in steps],
    }


def _show(planned: Planned, steps: tuple[Forecast, ...]) -> None:
    plan = planned.plan
    verdict = "cannot work" if plan.refusals else "can work, with warnings" if plan.warnings else "can work"
    click.echo(f"{plan.recipe.name} on {plan.recipe.target}: {verdict}")
    click.echo(f"{plan.recipe.description}\n")
    if plan.refusals:
        show_error(PlanRefusedError(plan.refusals))
        return
    for warning in plan.warnings:
        click.echo(f"warning[{warning.code}]: {warning.message}\n  → {warning.hint}")
    rows = [(name.replace("_", " "), str(figure), figure.basis) for name, figure in _figures(planned).items()]
    print_table(("what", "predicted", "basis"), rows, right=(1,))
    click.echo()
    print_table(
        ("step", "where", "image", "decision"),
        [(f.placed.step.name, f.placed.executor, _image(f), f.decision) for f in steps],
    )
    click.echo(f"\nnext: {program()} build {plan.recipe.name}")


def _image(forecast: Forecast) -> str:
    return forecast.job.image.reference if forecast.job.image else "this machine's Python"
