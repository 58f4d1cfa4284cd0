"""Builds a recipe: download, quantize, check, measure, bundle."""

from __future__ import annotations

import sys
import time

import click

from orchestrator.app.building import Build, build
from orchestrator.app.detach import start_detached
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.dry_run import dry_run
from orchestrator.cli.options import (
    executor_option,
    json_option,
    optional_recipe_argument,
    set_option,
    verbose_option,
)
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, program
from orchestrator.units import in_bytes, in_time


@click.command("build")
@optional_recipe_argument
@click.option("--dry-run", "dry", is_flag=True, help="Print the commands of each step, and run nothing.")
@click.option("--all", "every", is_flag=True, help="With --dry-run: every recipe.")
@click.option("--from", "first", metavar="STEP", help="Run STEP and all later steps even if their results are cached.")
@click.option("--until", "last", metavar="STEP", help="Stop after STEP.")
@click.option(
    "--locked",
    is_flag=True,
    help="Use only what the lock lists. Refuse if the lock is missing, older than the recipe or incomplete.",
)
@click.option("--offline", is_flag=True, help="Download no model and no data. Refuse if a file is missing.")
@click.option("--detach", is_flag=True, help="Build in the background; follow it with attach, status and logs -f.")
@set_option
@executor_option
@json_option
@verbose_option
@click.pass_context
def command(
    ctx: click.Context,
    recipe: RecipeName | None,
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
        message = "--all needs --dry-run"
        raise click.UsageError(message)
    if every == bool(recipe):
        message = "name one recipe" if not dry else "name one recipe, or --all"
        raise click.UsageError(message)
    if detach and dry:
        message = "--detach and --dry-run exclude each other"
        raise click.UsageError(message)
    if dry:
        ctx.exit(dry_run(settings, recipe, overrides, executor, as_json=as_json))
    assert recipe is not None  # noqa: S101 - checked above
    if detach:
        ctx.exit(_detached(settings, recipe, as_json=as_json))
    started = time.monotonic()
    with BuildView(verbose=verbose) as view:
        built = build(
            settings,
            recipe,
            overrides,
            executor=executor,
            first=first,
            last=last,
            locked=locked,
            offline=offline,
            observer=view,
        )
    if as_json:
        print_json(_document(built))
        return
    _show(built, time.monotonic() - started)
    click.echo(_next(recipe, built))


def _detached(settings: Settings, recipe: RecipeName, *, as_json: bool) -> int:
    """Start the build in another process. If it ends at once, report it as if it had run here."""
    settings.load(recipe)  # an unknown name must not become a path
    started = start_detached(settings, recipe.name, sys.argv[1:])
    if started.status is not None:
        click.echo(started.log.read_text(encoding="utf-8", errors="replace"), nl=False, err=bool(started.status))
        return started.status
    if as_json:
        print_json({"recipe": recipe.name, "process": started.process, "log": str(started.log)})
        return 0
    click.echo(f"{recipe.name} is being built by process {started.process}; its output goes to {started.log}")
    for what, words in (("attach", "follow it"), ("status", "its steps"), ("logs -f", "the output of its steps")):
        click.echo(f"  {program()} {what} {recipe}  # {words}")
    click.echo(f"  kill {started.process}  # stop it; finished steps are kept")
    return 0


def _document(built: Build) -> dict[str, object]:
    return {
        "recipe": built.plan.recipe.name,
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
            for result in built.results
        ],
        "bundle": str(built.bundle.folder) if built.bundle else None,
    }


def _show(built: Build, seconds: float) -> None:
    rows = [
        (
            result.name,
            "reused" if result.reused else "run",
            in_time(result.seconds),
            in_bytes(result.bytes_in),
            in_bytes(result.artifact.size),
        )
        for result in built.results
    ]
    if bundle := built.bundle:
        rows.append(
            ("bundle", "reused" if bundle.reused else "run", in_time(bundle.seconds), "", in_bytes(bundle.size))
        )
    rows.append(("total", "", in_time(seconds), "", ""))
    print_table(("step", "", "time", "in", "out"), rows, right=(2, 3, 4))


def _next(recipe: RecipeName, built: Build) -> str:
    if built.bundle is None:
        return f"\nnext: {program()} build {recipe}"
    reading = f"read {built.bundle.folder}/README.md"
    following = f"{program()} deploy {recipe}, or {reading}" if built.plan.target.gpu else reading
    return f"\n{built.bundle.folder} contains the deployment\nnext: {following}"
