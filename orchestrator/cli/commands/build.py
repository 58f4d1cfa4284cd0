"""Build a recipe: download, quantize, check, measure, bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from orchestrator.bundle.render import Bundle
from orchestrator.cli.building import build_recipe, bundle_of
from orchestrator.cli.dry_run import dry_run
from orchestrator.cli.options import RecipeName, executor_option, json_option, set_option, verbose_option
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import in_bytes, in_time, print_json, print_table, program
from orchestrator.plan import ExecutorName, Plan
from orchestrator.runner import StepResult


@click.command("build")
@click.argument("recipe", type=RecipeName(), required=False)
@click.option("--dry-run", "dry", is_flag=True, help="Print what would run, and run nothing.")
@click.option("--all", "every", is_flag=True, help="With --dry-run: every recipe.")
@click.option("--from", "first", metavar="STEP", help="Run STEP and all after it even if their results are kept.")
@click.option("--until", "last", metavar="STEP", help="Stop after STEP.")
@click.option("--locked", is_flag=True, help="Use the lock alone; refuse where it is missing, older or not enough.")
@click.option("--offline", is_flag=True, help="Fetch no model and no data; say what is missing.")
@set_option
@executor_option
@json_option
@verbose_option
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str | None,
    dry: bool,
    every: bool,
    first: str | None,
    last: str | None,
    locked: bool,
    offline: bool,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build RECIPE; what was done before is not done again."""
    settings: Settings = ctx.obj
    if every and not dry:
        message = "--all goes with --dry-run"
        raise click.UsageError(message)
    if every == bool(recipe):
        message = "name one recipe" if not dry else "name one recipe, or --all"
        raise click.UsageError(message)
    if dry:
        ctx.exit(dry_run(settings, recipe, overrides, executor, as_json=as_json))
    assert recipe is not None  # noqa: S101 - checked above
    started = time.monotonic()
    plan, results = build_recipe(
        settings,
        recipe,
        overrides,
        executor=executor,
        first=first,
        last=last,
        verbose=verbose,
        locked=locked,
        offline=offline,
    )
    bundle = None if last else bundle_of(settings, plan, {r.name: r.artifact for r in results})
    if as_json:
        print_json(_document(plan, results, bundle))
        return
    _show(results, bundle, time.monotonic() - started)
    click.echo(_next(plan, bundle))


def _document(plan: Plan, results: Sequence[StepResult], bundle: Bundle | None) -> dict[str, object]:
    return {
        "recipe": plan.recipe.name,
        "steps": [
            {
                "name": result.name,
                "reused": result.reused,
                "seconds": round(result.seconds, 3),
                "bytes_in": result.bytes_in,
                "bytes_out": result.artifact.size,
                "key": result.artifact.key,
                "digest": result.artifact.digest,
                "folder": str(result.artifact.folder),
            }
            for result in results
        ],
        "bundle": str(bundle.folder) if bundle else None,
    }


def _show(results: Sequence[StepResult], bundle: Bundle | None, seconds: float) -> None:
    rows = [
        (
            result.name,
            "reused" if result.reused else "run",
            in_time(result.seconds),
            in_bytes(result.bytes_in),
            in_bytes(result.artifact.size),
        )
        for result in results
    ]
    if bundle:
        rows.append(
            ("bundle", "reused" if bundle.reused else "run", in_time(bundle.seconds), "", in_bytes(bundle.size))
        )
    rows.append(("total", "", in_time(seconds), "", ""))
    print_table(("step", "", "time", "in", "out"), rows, right=(2, 3, 4))


def _next(plan: Plan, bundle: Bundle | None) -> str:
    name = plan.recipe.name
    if bundle is None:
        return f"\nnext: {program()} build {name}"
    return f"\n{bundle.folder} holds the deployment\nnext: {program()} deploy {name}, or read {bundle.folder}/README.md"
