"""Finds faster options for a recipe on this machine."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.recipe_patch import Patch, apply_patch, patch_of, undo_patch
from orchestrator.app.settings import Settings
from orchestrator.app.tuning import MOST_RUNS, Question, Tuning, kept_text, tune, tuning_of
from orchestrator.app.tuning_ledger import Run
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.options import executor_option, json_option, recipe_argument, set_option, verbose_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text, program
from orchestrator.cli.workload_options import AskedWorkload, tuned_workload_options
from orchestrator.planner.figures import workload_words
from orchestrator.units import in_time

_HEADS = ("run", "options", "tokens/s predicted", "measured", "time")


@click.command("tune")
@recipe_argument
@set_option
@executor_option
@tuned_workload_options
@click.option(
    "--runs",
    type=click.IntRange(1, 30),
    default=MOST_RUNS,
    show_default=True,
    metavar="N",
    help="Runs at most, with those of earlier commands.",
)
@click.option("--drafts", "with_drafts", is_flag=True, help="Try other lengths of the recipe's drafts as well.")
@click.option(
    "--run-limit",
    type=click.IntRange(60),
    default=5400,
    show_default=True,
    metavar="SECONDS",
    help="A step that takes longer hangs.",
)
@click.option("--stop-server", is_flag=True, help="Stop deployed servers for the runs, and start them again.")
@click.option("--dry-run", is_flag=True, help="Show the runs and their time. Nothing runs.")
@click.option("--apply", "applies", is_flag=True, help="Write the best options into the recipe.")
@click.option("--undo", is_flag=True, help="Take the last --apply back. Nothing runs.")
@json_option
@verbose_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    runs: int,
    with_drafts: bool,
    run_limit: int,
    stop_server: bool,
    dry_run: bool,
    applies: bool,
    undo: bool,
    as_json: bool,
    verbose: bool,
    asked: AskedWorkload,
) -> None:
    """Find faster options for RECIPE on this machine, with at most a dozen runs.

    Each run passes the recipe's checks and its benchmark with other options: requests at once, tokens per step, memory
    of the cache, kernels. Crashes are noted with their reason and not repeated. An interrupted tuning continues.
    """  # fmt: skip
    if sum((dry_run, applies, undo)) > 1:
        message = "give one of --dry-run, --apply and --undo"
        raise click.UsageError(message)
    if undo:
        print_text(undo_patch(settings.load(recipe).file, kept_text(settings, recipe)).diff.rstrip())
        return
    everything = (*asked.overrides, *overrides)
    question = Question(
        settings, recipe, everything, asked.targets, with_drafts, executor, most=runs, limit=float(run_limit)
    )
    tuning = tuning_of(question)
    if dry_run:
        _show_forecast(tuning, as_json=as_json)
        return
    with BuildView(verbose=verbose) as view:
        tune(tuning, stop_server=stop_server, observer=view, report=lambda run: click.echo(_words(run), err=True))
    patch = patch_of(settings, recipe, tuning.patch) if tuning.patch else None
    if as_json:
        print_json(_document(tuning, patch))
    else:
        _show(tuning, patch)
    if patch and applies:
        apply_patch(settings, patch, kept_text(settings, recipe))
        click.echo(f"wrote {patch.file}; take it back: {program()} tune {recipe} --undo", err=True)
    elif patch:
        click.echo(f"write it into the recipe: {program()} tune {recipe} --apply", err=True)


def _show_forecast(tuning: Tuning, *, as_json: bool) -> None:
    forecast = list(tuning.forecast())
    least, most = tuning.seconds
    if as_json:
        runs = [{"values": tuning.values(point), "predicted": speed} for point, speed in forecast]
        print_json({"runs": runs, "done": len(tuning.ledger.runs), "seconds_of_each": {"least": least, "most": most}})
        return
    rows = [(str(at), _options(tuning.values(point)), f"{speed:.1f}") for at, (point, speed) in enumerate(forecast, 1)]
    print_table(_HEADS[:3], rows, right=(0, 2))
    print_text(
        f"{len(forecast)} runs, each {in_time(least)} to {in_time(most)} if the model is built: "
        f"{in_time(len(forecast) * least)} to {in_time(len(forecast) * most)} in all"
    )
    print_text("these are the runs if each is as fast as predicted; what is measured decides the next one")


def _show(tuning: Tuning, patch: Patch | None) -> None:
    rows = [(str(number), *_cells(run)) for number, run in enumerate(tuning.ledger.runs, 1)]
    print_table(_HEADS, rows, right=(0, 2, 4), least=(4, 2))
    asked = tuning.ledger.workload
    context = asked["input_tokens"] + asked["output_tokens"]
    print_text(f"for {workload_words(asked['concurrency'], context, asked['output_tokens'])}")
    if patch is None:
        print_text("no options are faster than the recipe's by more than the noise of a run")
        return
    gain = "the recipe itself did not run" if tuning.gain is None else f"{tuning.gain:.0%} faster than the recipe"
    print_text(f"best: {_options(tuning.patch)}, {gain}")
    print_text(f"ledger: {tuning.ledger.file}")
    click.echo(patch.diff.rstrip())


def _document(tuning: Tuning, patch: Patch | None) -> dict[str, Any]:
    best = tuning.search.best
    return {
        **tuning.ledger.document(),
        "ledger": str(tuning.ledger.file),
        "best": {"values": tuning.values(best.point), "tokens_per_second": best.speed} if best else None,
        "gain": tuning.gain,
        "patch": tuning.patch,
        "diff": patch.diff if patch else "",
    }


def _words(run: Run) -> str:
    _, predicted, found, taken = _cells(run)
    return f"{_options(run.values)}: {found} (predicted {predicted}), {taken}"


def _cells(run: Run) -> tuple[str, ...]:
    predicted = "-" if run.predicted is None else f"{run.predicted:.1f}"
    found = f"{run.speed:.1f}" if run.speed is not None else str(run.crash)
    return _options(run.values), predicted, found, in_time(run.seconds) if run.seconds else "not run"


def _options(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('serve.')}={value}" for name, value in values.items()) or "as it is"
