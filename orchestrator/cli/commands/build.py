"""Builds a recipe: download, quantize, check, measure, bundle."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.app.building import build_and_bundle, plan_build
from orchestrator.app.detach import start_detached
from orchestrator.app.named import Named
from orchestrator.app.plan import ExecutorName, Plan
from orchestrator.app.runner import StepResult
from orchestrator.app.settings import Settings
from orchestrator.cli.dry_run import dry_run
from orchestrator.cli.options import (
    executor_option,
    json_option,
    optional_recipe_argument,
    set_option,
    verbose_option,
)
from orchestrator.cli.progress import BuildView
from orchestrator.cli.text import print_json, print_table, program
from orchestrator.units import in_bytes, in_time

if TYPE_CHECKING:
    from orchestrator.bundle.render import Bundle


@click.command("build")
@optional_recipe_argument
@click.option("--dry-run", "dry", is_flag=True, help="Print what would run, and run nothing.")
@click.option("--all", "every", is_flag=True, help="With --dry-run: every recipe.")
@click.option("--from", "first", metavar="STEP", help="Run STEP and all after it even if their results are kept.")
@click.option("--until", "last", metavar="STEP", help="Stop after STEP.")
@click.option("--locked", is_flag=True, help="Use the lock alone; refuse where it is missing, older or not enough.")
@click.option("--offline", is_flag=True, help="Fetch no model and no data; say what is missing.")
@click.option("--detach", is_flag=True, help="Build in the background; follow it with attach, status and logs -f.")
@set_option
@executor_option
@json_option
@verbose_option
@click.pass_context
def command(
    ctx: click.Context,
    recipe: Named | None,
    dry: bool,
    every: bool,
    first: str | None,
    last: str | None,
    locked: bool,
    offline: bool,
    detach: bool,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build RECIPE. Finished steps are reused."""
    settings: Settings = ctx.obj
    if every and not dry:
        message = "--all goes with --dry-run"
        raise click.UsageError(message)
    if every == bool(recipe):
        message = "name one recipe" if not dry else "name one recipe, or --all"
        raise click.UsageError(message)
    if detach and dry:
        message = "--detach does not go with --dry-run"
        raise click.UsageError(message)
    if dry:
        ctx.exit(dry_run(settings, recipe, overrides, executor, as_json=as_json))
    assert recipe is not None  # noqa: S101 - checked above
    if detach:
        ctx.exit(_detached(settings, recipe, as_json=as_json))
    started = time.monotonic()
    plan = plan_build(
        settings, recipe, overrides, executor=executor, first=first, last=last, locked=locked, offline=offline
    )
    with BuildView(verbose=verbose) as view:
        results, bundle = build_and_bundle(settings, plan, first=first, last=last, observer=view)
    if as_json:
        print_json(_document(plan, results, bundle))
        return
    _show(results, bundle, time.monotonic() - started)
    click.echo(_next(recipe, plan, bundle))


def _detached(settings: Settings, recipe: Named, *, as_json: bool) -> int:
    """Start the build in another process. If it ends at once, report it as if it had run here."""
    settings.load(recipe)  # an unknown name must not become a path
    build = start_detached(settings, recipe.name, sys.argv[1:])
    if build.status is not None:
        click.echo(build.log.read_text(encoding="utf-8", errors="replace"), nl=False, err=bool(build.status))
        return build.status
    if as_json:
        print_json({"recipe": recipe.name, "process": build.process, "log": str(build.log)})
        return 0
    click.echo(f"{recipe.name} is being built by process {build.process}; what it says is in {build.log}")
    for what, words in (("attach", "follow it"), ("status", "where it is"), ("logs -f", "what its steps write")):
        click.echo(f"  {program()} {what} {recipe}  # {words}")
    click.echo(f"  kill {build.process}  # stop it; what finished is kept")
    return 0


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


def _next(recipe: Named, plan: Plan, bundle: Bundle | None) -> str:
    if bundle is None:
        return f"\nnext: {program()} build {recipe}"
    reading = f"read {bundle.folder}/README.md"
    following = f"{program()} deploy {recipe}, or {reading}" if plan.target.gpu else reading
    return f"\n{bundle.folder} holds the deployment\nnext: {following}"
