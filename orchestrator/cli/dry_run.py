"""Prints the plan with the exact commands that would run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.app import planning
from orchestrator.app.building import executors_of
from orchestrator.app.forecast import Forecast, forecast
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.planning import Planned, unexpected_refusals
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.error_view import show_error
from orchestrator.cli.text import print_json
from orchestrator.errors import OrchestratorError, PlanRefusedError
from orchestrator.executors.job import OUTPUT, Inside

_WORK = Path("/WORK")
"""Placeholder for the folder that the user chooses."""


def dry_run(
    settings: Settings,
    recipes: Sequence[RecipeName],
    overrides: Sequence[str],
    executor: ExecutorName | None,
    *,
    as_json: bool,
) -> int:
    """Print one recipe's plan, or a line for each of several; without a recipe, for all.

    Returns:
        The exit status: 4 for a refused recipe. For the whole catalogue, 4 only if a recipe is refused without
        `expected_refusals`, or has them and is not refused.
    """
    if len(recipes) == 1:
        planned = planning.plan(settings, recipes[0], overrides, executor)
        if as_json:
            print_json(document(settings, planned))
        else:
            _print_lines(settings, planned)
        return PlanRefusedError.exit_status if planned.plan.refusals else 0
    every = recipes or tuple(RecipeName(name) for name in settings.book.names)
    return _dry_run_many(settings, every, overrides, executor, as_json=as_json)


def _dry_run_many(
    settings: Settings,
    recipes: Sequence[RecipeName],
    overrides: Sequence[str],
    executor: ExecutorName | None,
    *,
    as_json: bool,
) -> int:
    worst = 0
    documents = []
    for recipe in recipes:
        name = recipe.name
        try:
            planned = planning.plan(settings.at(recipe), recipe, overrides, executor)
            documents.append(document(settings, planned))
        except OrchestratorError as error:
            worst = max(worst, error.exit_status)
            if not as_json:
                click.echo(f"✗ {name}: {error.code}")
            show_error(error)
            continue
        as_expected = not unexpected_refusals(planned.plan)
        worst = max(worst, 0 if as_expected else PlanRefusedError.exit_status)
        if not as_json:
            click.echo(f"{'✓' if as_expected else '✗'} {name}: {_summary(documents[-1], as_expected=as_expected)}")
    if as_json:
        print_json(documents)
    return worst


def _summary(found: Mapping[str, Any], *, as_expected: bool) -> str:
    if found["refusals"]:
        codes = ", ".join(refusal["code"] for refusal in found["refusals"])
        return f"refused, as the recipe expects: {codes}" if as_expected else f"refused: {codes}"
    return " → ".join(step["name"] for step in found["steps"])


def document(settings: Settings, planned: Planned) -> dict[str, Any]:
    """Make the one JSON document that describes a recipe's build."""
    steps = forecast(planned.plan, settings.store, _WORK)
    return {
        "recipe": planned.plan.recipe.name,
        "lock": str(planned.lock_file) if planned.lock else None,
        "steps": [_step(found) for found in steps],
        "refusals": [asdict(refusal) for refusal in planned.plan.refusals],
    }


def _step(found: Forecast) -> dict[str, Any]:
    job, step = found.job, found.placed.step
    return {
        "name": step.name,
        "executor": found.placed.executor,
        "image": job.image.reference if job.image else None,
        "argv": [_text(argument) for argument in job.argv],
        "mounts": [
            {"source": _work(str(mount.source)), "target": mount.target, "read_only": mount.read_only}
            for mount in job.mounts
        ]
        + [{"source": _work(str(job.output)), "target": OUTPUT, "read_only": False}],
        "environment": {name: _text(value) for name, value in job.environment.items()},
        "secrets": list(step.secrets),
        "network": job.network,
        "gpus": job.gpus,
        "outputs": [output.pattern for output in step.outputs],
        "decision": found.decision,
    }


def _text(argument: str | Inside) -> str:
    if isinstance(argument, str):
        return argument
    return f"{argument.target}/{argument.path}" if argument.path else argument.target


def _print_lines(settings: Settings, planned: Planned) -> None:
    click.echo(f"# {planned.plan.recipe.name}: {planned.plan.recipe.description}")
    if planned.plan.refusals:
        show_error(PlanRefusedError(planned.plan.refusals))
        return
    for warning in planned.plan.warnings:
        click.echo(f"# warning[{warning.code}]: {warning.message}")
    click.echo(': "${WORK:=$PWD/work}"')
    executors = executors_of(settings)
    for found in forecast(planned.plan, settings.store, _WORK):
        step = found.placed.step
        click.echo(f"\n# {step.name}: {found.decision}")
        if found.decision == "reuse":
            continue
        click.echo(f'mkdir -p "$WORK/{step.name}/out"')
        for name, text in step.files.items():
            click.echo(
                f'mkdir -p "$WORK/{step.name}/files" && cat > "$WORK/{step.name}/files/{name}" <<\'END\'\n{text}END'
            )
        line = executors[found.placed.executor]().command_line(found.job)
        click.echo(_work(" ".join(_quote(part) for part in line)))


def _quote(part: str) -> str:
    return f'"{part}"' if str(_WORK) in part else shlex.quote(part)


def _work(text: str) -> str:
    return text.replace(f"{_WORK}/", "$WORK/")
