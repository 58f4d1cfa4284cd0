"""Shows whether a recipe fits, what it costs and what it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.app import planning
from orchestrator.app.access import GatedModel, gated_model
from orchestrator.app.forecast import Forecast, forecast
from orchestrator.app.make_plan import ExecutorName, Plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.shadows import Shadow, shadows_of
from orchestrator.cli.error_view import show_error
from orchestrator.cli.options import PageFile, executor_option, json_option, recipe_argument, set_option, write_page
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text, program
from orchestrator.cli.users_view import show_users
from orchestrator.cli.workload_options import AskedWorkload, workload_options
from orchestrator.errors import PlanRefusedError
from orchestrator.pages.cells import (
    FIGURE_NAMES,
    PHASE_HEADS,
    draft_words,
    figure_words,
    phase_cells,
    phase_name,
    span_words,
    speed_heads,
    speed_rows,
    users_words,
)
from orchestrator.planner.estimate import Estimate, Speeds, Stage
from orchestrator.planner.known import missing_sizes
from orchestrator.planner.serving import memory_words
from orchestrator.planner.users import users_document


@click.command("plan")
@recipe_argument
@set_option
@executor_option
@workload_options
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show how each figure was calculated, and where each step runs.")
@click.option(
    "--html",
    "page",
    type=PageFile(),
    metavar="FILE",
    help="Also write one self-contained page with charts.",
)
@click.pass_context
def command(
    ctx: click.Context,
    recipe: RecipeName,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    verbose: bool,
    page: Path | None,
    asked: AskedWorkload,
) -> None:
    """Show whether RECIPE fits, what it costs and what it does. Exit status 4 if it cannot work."""
    settings: Settings = ctx.obj
    everything = (*overrides, *asked.overrides)
    planned = planning.plan(settings, recipe, everything, executor, targets=asked.targets, asks_hub=True)
    steps = forecast(planned.plan, settings.store, Path("WORK"))
    if page is not None:
        _write_page(settings, planned.plan, page)
    shadows = shadows_of(settings, planned.loaded, (placed.step.image for placed in planned.plan.steps))
    if as_json:
        print_json(plan_document(planned.plan, steps, shadows))
    else:
        gated = gated_model(planned.plan.recipe, settings.book)
        show_plan(planned.plan, steps, recipe, shadows, gated, verbose=verbose)
    if planned.plan.refusals:
        ctx.exit(PlanRefusedError.exit_status)


def _write_page(settings: Settings, plan: Plan, file: Path) -> None:
    from orchestrator.app.measurements import rows_in  # noqa: PLC0415 - only for a page
    from orchestrator.cli.measured_view import measured_cells  # noqa: PLC0415 - as above
    from orchestrator.pages.page import plan_page  # noqa: PLC0415 - as above
    from orchestrator.pages.plan_contents import comparison_for, plan_contents  # noqa: PLC0415 - as above

    measured = tuple(measured_cells(rows_in(settings, plan.recipe.name)))
    contents = plan_contents(plan.model, plan.estimate, plan.refusals, plan.warnings, measured)
    write_page(file, plan_page(contents, comparison_for(plan.model)))


def plan_document(plan: Plan, steps: tuple[Forecast, ...], shadows: tuple[Shadow, ...] = ()) -> dict[str, Any]:
    """Convert a plan to JSON."""
    return {
        "recipe": plan.recipe.name,
        "target": plan.recipe.target,
        "works": not plan.refusals,
        "verdict": plan.verdict,
        "shadows": [shadow.document() for shadow in shadows],
        "refusals": [asdict(refusal) for refusal in plan.refusals],
        "warnings": [asdict(warning) for warning in plan.warnings],
        "estimate": {name: asdict(figure) for name, figure in plan.estimate.figures.items()},
        "phases": [_phase(stage) for stage in plan.estimate.stages],
        "scale_search": {
            "name": plan.recipe.quantization.scale_search,
            "seconds": asdict(plan.estimate.search) if plan.estimate.search else None,
        },
        "rounding": plan.recipe.quantization.rounding,
        "smoothing": plan.recipe.quantization.smoothing,
        "input_scales": plan.recipe.quantization.input_scales,
        "layer_inputs": plan.recipe.quantization.layer_inputs,
        "speeds": asdict(plan.estimate.speeds) if plan.estimate.speeds else None,
        **(users_document(plan.estimate.users) if plan.estimate.users else {}),
        "arithmetic": plan.arithmetic or None,
        "drafts": asdict(plan.estimate.draft_speed) if plan.estimate.draft_speed else None,
        "steps": [
            {
                "name": f.placed.step.name,
                "executor": f.placed.executor,
                "decision": f.decision,
                "network": f.placed.step.network,
            }
            for f in steps
        ],
    }


def _phase(stage: Stage) -> dict[str, Any]:
    peak, time = stage.peak, stage.time
    return {
        "phase": stage.phase,
        "memory_bytes": round(peak.total),
        "least_memory_bytes": None if peak.least is None else round(peak.least),
        "parts_bytes": {part: round(size) for part, size in peak.parts.items()},
        "available_bytes": round(peak.available),
        "fits": peak.fits,
        "may_fit": peak.may_fit,
        "kind": peak.kind,
        "basis": peak.basis,
        "disk_bytes": round(stage.kept),
        "seconds": asdict(time) if time else None,
    }


def show_plan(
    plan: Plan,
    steps: tuple[Forecast, ...],
    recipe: RecipeName,
    shadows: tuple[Shadow, ...] = (),
    gated: GatedModel | None = None,
    *,
    verbose: bool,
) -> None:
    """Print a plan for a person.

    Args:
        plan: The plan.
        steps: What each of its steps will do.
        recipe: The recipe as the user named it, for the line to paste.
        shadows: The user's files that replace files of the tool.
        gated: The recipe's model, if it is gated.
        verbose: Print how each figure was calculated, and what each step runs.
    """
    print_text(f"{plan.recipe.name} on {plan.recipe.target}: {plan.verdict}")
    print_text(plan.recipe.description, hanging=0)
    if gated:
        print_text(str(gated), hanging=0)
    for shadow in shadows:
        print_text(f"uses {shadow}")
    click.echo()
    if plan.refusals:
        show_error(PlanRefusedError(plan.refusals))
    for warning in plan.warnings:
        print_text(f"limit[{warning.code}]: {warning.message}")
        print_text(f"  → {warning.hint}", hanging=4)
    if plan.refusals or plan.warnings:
        click.echo()
    _show_phases(plan)
    if not plan.refusals:
        _show_speeds(plan.estimate, verbose=verbose)
    if verbose:
        _show_basis(plan)
    if steps and verbose:
        _show_steps(steps)
    if steps and not plan.refusals:
        _show_next(recipe, steps, verbose=verbose)


def _show_phases(plan: Plan) -> None:
    print_table(PHASE_HEADS, map(phase_cells, plan.estimate.stages), right=(1, 2, 3, 4), least=(5, 3))
    click.echo()
    print_text(f"available memory: {memory_words(plan.target, plan.recipe.target)}")
    print_text(f"memory to serve: {plan.estimate.serve_memory} at least; disk in total: {plan.estimate.disk}")
    if plan.target.gpu and plan.estimate.max_context is None:
        print_text(f"not counted: KV cache and activations, because {missing_sizes(plan.recipe)}")
    if plan.arithmetic:
        print_text(f"arithmetic: {plan.arithmetic}")
    if plan.estimate.search:
        search = f"scale_search {plan.recipe.quantization.scale_search}"
        print_text(f"{search}: {span_words(plan.estimate.search)} of quantize")
    click.echo()


def _show_speeds(estimate: Estimate, *, verbose: bool) -> None:
    if estimate.speeds:
        _show_table(estimate.speeds)
    if estimate.users and verbose:
        show_users(estimate.users)
    elif estimate.users:
        for line in users_words(estimate.users):
            print_text(line)
    for name, figure in (("max_context", estimate.max_context), ("max_requests", estimate.max_requests)):
        if figure and estimate.speeds:
            print_text(f"{FIGURE_NAMES[name]}: {figure_words(figure)} ({figure.basis})")
    if estimate.draft_speed:
        print_text(f"speculative decoding: {draft_words(estimate.draft_speed)}")
    if estimate.speeds:
        print_text(estimate.speeds.basis[-2])
        click.echo()


def _show_table(speeds: Speeds) -> None:
    heads = speed_heads(speeds)
    between = range(2, len(heads) - 1)  # the usual context and the longest one stay
    print_table(heads, speed_rows(speeds), right=range(1, len(heads)), least=between)
    click.echo()


def _show_basis(plan: Plan) -> None:
    click.echo("how it was calculated")
    for line in _basis(plan.estimate):
        print_text(f"- {line}")
    click.echo()


def _basis(estimate: Estimate) -> Iterator[str]:
    for stage in estimate.stages:
        yield f"{phase_name(stage)}, memory: {stage.peak.basis}"
        if stage.time:
            yield f"{phase_name(stage)}, time: {stage.time.basis} ({stage.time.kind})"
    for name, figure in estimate.figures.items():
        yield f"{FIGURE_NAMES[name]} {figure_words(figure)}: {figure.basis}"
    yield from estimate.speeds.basis if estimate.speeds else ()


def _show_steps(steps: tuple[Forecast, ...]) -> None:
    print_table(
        ("step", "where", "image", "decision"),
        [(f.placed.step.name, f.placed.executor, _image(f), f.decision) for f in steps],
    )
    click.echo()


def _show_next(recipe: RecipeName, steps: tuple[Forecast, ...], *, verbose: bool) -> None:
    if not verbose:
        print_text("steps: " + " → ".join(_step(f) for f in steps))
    online = [f.placed.step.name for f in steps if f.placed.step.network and f.decision != "reuse"]
    print_text(f"network: {', '.join(online)}" if online else "network: no step needs it")
    if not verbose:
        print_text("-v explains each figure, --html FILE draws charts")
    click.echo(f"next: {program()} build {recipe}")


def _step(forecast: Forecast) -> str:
    return f"{forecast.placed.step.name}{' (reused)' if forecast.decision == 'reuse' else ''}"


def _image(forecast: Forecast) -> str:
    return forecast.job.image.reference if forecast.job.image else "this machine's Python"
