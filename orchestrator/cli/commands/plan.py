"""Say whether a recipe will fit, what it costs and what it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.failure import show_error
from orchestrator.cli.options import PageFile, executor_option, json_option, recipe_argument, set_option, write_page
from orchestrator.cli.planning import plan_recipe
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import print_json, print_table, program
from orchestrator.errors import PlanRefusedError
from orchestrator.pages.rows import PHASE_HEADS, PHASE_NAMES, draft_words, phase_cells, speed_heads, speed_rows
from orchestrator.plan import ExecutorName, Plan
from orchestrator.planner.estimate import Estimate, Speeds, Stage
from orchestrator.planner.serving import room_words
from orchestrator.runner import Forecast, forecast


@click.command("plan")
@recipe_argument
@set_option
@executor_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Say how every figure was reckoned, and what each step runs.")
@click.option(
    "--html",
    "page",
    type=PageFile(),
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
    verbose: bool,
    page: Path | None,
) -> None:
    """Say whether RECIPE will fit, what it costs and what it does; exit status 4 where it cannot work."""
    settings: Settings = ctx.obj
    planned = plan_recipe(settings, recipe, overrides, executor)
    steps = forecast(planned.plan, settings.store, Path("WORK"))
    if page is not None:
        _write_page(planned.plan, page)
    if as_json:
        print_json(plan_document(planned.plan, steps))
    else:
        show_plan(planned.plan, steps, recipe, verbose=verbose)
    if planned.plan.refusals:
        ctx.exit(PlanRefusedError.exit_status)


def _write_page(plan: Plan, file: Path) -> None:
    from orchestrator.pages.page import plan_page  # noqa: PLC0415 - only for a page
    from orchestrator.pages.planned import comparison_for, plan_facts  # noqa: PLC0415 - as above

    facts = plan_facts(plan.recipe, plan.target, plan.estimate, plan.refusals, plan.warnings)
    write_page(file, plan_page(facts, comparison_for(plan.recipe, plan.target)))


def plan_document(plan: Plan, steps: tuple[Forecast, ...]) -> dict[str, Any]:
    """Spell a plan for programs."""
    return {
        "recipe": plan.recipe.name,
        "target": plan.recipe.target,
        "works": not plan.refusals,
        "verdict": plan.verdict,
        "refusals": [asdict(refusal) for refusal in plan.refusals],
        "warnings": [asdict(warning) for warning in plan.warnings],
        "estimate": {name: asdict(figure) for name, figure in plan.estimate.figures.items()},
        "phases": [_phase(stage) for stage in plan.estimate.stages],
        "speeds": asdict(plan.estimate.speeds) if plan.estimate.speeds else None,
        "drafts": asdict(plan.estimate.drafted) if plan.estimate.drafted else None,
        "steps": [{"name": f.placed.step.name, "executor": f.placed.executor, "decision": f.decision} for f in steps],
    }


def _phase(stage: Stage) -> dict[str, Any]:
    peak, time = stage.peak, stage.time
    return {
        "phase": stage.phase,
        "memory_bytes": round(peak.total),
        "parts_bytes": {part: round(size) for part, size in peak.parts.items()},
        "room_bytes": round(peak.room),
        "fits": peak.fits,
        "kind": peak.kind,
        "basis": peak.basis,
        "disk_bytes": round(stage.kept),
        "seconds": asdict(time) if time else None,
    }


def show_plan(plan: Plan, steps: tuple[Forecast, ...], recipe: str, *, verbose: bool) -> None:
    """Print a plan for a person.

    Args:
        plan: The plan.
        steps: What each of its steps will do.
        recipe: The recipe as a command takes it, for the line to paste.
        verbose: Say how each figure was found, and what each step runs.
    """
    click.echo(f"{plan.recipe.name} on {plan.recipe.target}: {plan.verdict}")
    click.echo(f"{plan.recipe.description}\n")
    if plan.refusals:
        show_error(PlanRefusedError(plan.refusals))
    for warning in plan.warnings:
        click.echo(f"limit[{warning.code}]: {warning.message}\n  → {warning.hint}")
    if plan.refusals or plan.warnings:
        click.echo()
    _show_phases(plan)
    if plan.estimate.speeds and not plan.refusals:
        _show_speeds(plan.estimate, plan.estimate.speeds)
    if verbose:
        _show_basis(plan)
    if steps and verbose:
        _show_steps(steps)
    if steps and not plan.refusals:
        _show_next(recipe, steps, verbose=verbose)


def _show_phases(plan: Plan) -> None:
    print_table(PHASE_HEADS, map(phase_cells, plan.estimate.stages), right=(1, 2, 3, 4))
    click.echo(f"\nroom: {room_words(plan.target, plan.recipe.target)}")
    click.echo(f"serving takes at least {plan.estimate.serve_memory}; disk in all: {plan.estimate.disk}\n")


def _show_speeds(estimate: Estimate, speeds: Speeds) -> None:
    heads = speed_heads(speeds)
    print_table(heads, speed_rows(speeds), right=range(1, len(heads)))
    click.echo()
    for name, figure in (("longest text", estimate.longest_text), ("most texts", estimate.most_texts)):
        if figure:
            click.echo(f"{name}: {figure}, {figure.basis}")
    if estimate.drafted:
        click.echo(f"drafts: {draft_words(estimate.drafted)}")
    click.echo(f"{speeds.basis[-2]}\n")


def _show_basis(plan: Plan) -> None:
    click.echo("how it was reckoned")
    for line in _basis(plan.estimate):
        click.echo(f"- {line}")
    click.echo()


def _basis(estimate: Estimate) -> Iterator[str]:
    for stage in estimate.stages:
        yield f"{PHASE_NAMES[stage.phase]}, memory: {stage.peak.basis}"
        if stage.time:
            yield f"{PHASE_NAMES[stage.phase]}, time: {stage.time.basis} ({stage.time.kind})"
    for name, figure in estimate.figures.items():
        yield f"{name.replace('_', ' ')} {figure}: {figure.basis}"
    yield from estimate.speeds.basis if estimate.speeds else ()


def _show_steps(steps: tuple[Forecast, ...]) -> None:
    print_table(
        ("step", "where", "image", "decision"),
        [(f.placed.step.name, f.placed.executor, _image(f), f.decision) for f in steps],
    )
    click.echo()


def _show_next(recipe: str, steps: tuple[Forecast, ...], *, verbose: bool) -> None:
    if not verbose:
        click.echo("steps: " + " → ".join(_step(f) for f in steps))
        click.echo("-v says how each figure was reckoned, --html FILE draws them")
    click.echo(f"next: {program()} build {recipe}")


def _step(forecast: Forecast) -> str:
    return f"{forecast.placed.step.name}{' (reused)' if forecast.decision == 'reuse' else ''}"


def _image(forecast: Forecast) -> str:
    return forecast.job.image.reference if forecast.job.image else "this machine's Python"
