"""Compares ways to quantize a recipe's model, and writes the best into the recipe."""

from __future__ import annotations

import math
import shlex
from typing import Any

import click

from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.recipe_patch import Patch, apply_patch, patch_of, require_own, undo_patch
from orchestrator.app.settings import Settings
from orchestrator.app.trying import Trial, Tried, kept_text, run_trial
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.options import executor_option, json_option, recipe_argument, set_option, verbose_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text, program
from orchestrator.quantization.candidates import Candidate, parse
from orchestrator.quantization.format_names import SCALE_SEARCHES
from orchestrator.units import in_bytes, in_time

FIGURES = ("nats a token", "perplexity", "agree")
_HEADS = ("", "way", *FIGURES, "time")
_LEAST_DECIMALS, _MOST_DECIMALS = 3, 6


class _Candidates(click.ParamType[tuple[Candidate, ...]]):
    """Names of candidates with commas between them."""

    name = "names"

    def convert(
        self, value: str | tuple[Candidate, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Candidate, ...]:
        """Read the names."""
        if isinstance(value, tuple):
            return value
        try:
            return parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("quality")
@recipe_argument
@click.option(
    "--try",
    "candidates",
    type=_Candidates(),
    default=",".join(SCALE_SEARCHES),
    show_default=True,
    metavar="NAMES",
    help="Searches for scales, each alone or with +gptq.",
)
@set_option
@executor_option
@click.option("--dry-run", is_flag=True, help="Show memory, disk space and time. Nothing runs.")
@click.option("--write", "writes", is_flag=True, help="Write the best into the recipe, and keep its comments.")
@click.option("--undo", is_flag=True, help="Take the last --write back. Nothing runs.")
@json_option
@verbose_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
    candidates: tuple[Candidate, ...],
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    dry_run: bool,
    writes: bool,
    undo: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare ways to encode the NVFP4 of RECIPE's model with the original, in one walk over its weights.

    Each is judged on the recipe's held-out text: divergence from the original with its 95 % interval, perplexity, and
    agreement of the most likely next token. All have the same size and speed when they are served. Of those that do not
    differ significantly from the lowest, the one that takes the least to quantize is the best.
    """  # fmt: skip
    if sum((dry_run, writes, undo)) > 1:
        message = "give one of --dry-run, --write and --undo"
        raise click.UsageError(message)
    kept = kept_text(settings, recipe)
    if undo:
        print_text(undo_patch(settings.load(recipe).file, kept).diff.rstrip())
        return
    trial = Trial(settings, recipe, candidates, overrides, executor)
    if dry_run:
        _show_cost(trial, as_json=as_json)
        return
    if writes:
        require_own(settings, settings.load(recipe).file)  # before hours of work
    with BuildView(verbose=verbose) as view:
        tried = run_trial(trial, observer=view)
    values = trial.values(tried.document["best"])
    patch = patch_of(settings, recipe, values) if values else None
    if as_json:
        print_json(_document(recipe, tried, values, patch))
    else:
        _show(tried)
    if patch is None:
        click.echo(f"{recipe} has it already", err=True)
    elif writes:
        apply_patch(settings, patch, kept)
        click.echo(f"wrote {patch.file}; take it back: {program()} quality {recipe} --undo", err=True)
    else:
        click.echo(f"write it into the recipe: {program()} quality {recipe} {_again(trial)} --write", err=True)


def _again(trial: Trial) -> str:
    """Repeat the options that name this comparison, whose result is reused."""
    given = [f"--set {shlex.quote(override)}" for override in trial.overrides]
    given += [f"--executor {trial.executor}"] if trial.executor else []
    return " ".join(["--try", ",".join(candidate.name for candidate in trial.candidates), *given])


def _show_cost(trial: Trial, *, as_json: bool) -> None:
    cost = trial.cost(trial.plan())
    memory, disk, time = cost.memory, cost.disk.most if cost.disk else None, cost.time
    if as_json:
        seconds = {"least": time.least, "most": time.most, "basis": time.basis} if time else None
        print_json({"memory": {"bytes": memory.total, "basis": memory.basis}, "disk": disk, "seconds": seconds})
        return
    print_text(f"memory: {in_bytes(memory.total)}: {memory.basis}")
    print_text(f"disk: {'not known' if disk is None else in_bytes(disk)} of saved state, until it ends")
    known = f"{in_time(time.least)} to {in_time(time.most)}: {time.basis}" if time else "not known for this machine"
    print_text(f"time: {known}")


def _document(recipe: RecipeName, tried: Tried, values: dict[str, object], patch: Patch | None) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "reused": tried.reused,
        "key": tried.key,
        "seconds": tried.seconds,
        **tried.document,
        "patch": values,
        "diff": patch.diff if patch else "",
    }


def _show(tried: Tried) -> None:
    found = tried.document
    original = ("", "bf16", "0", f"{found['original']['perplexity']:.4g}", "100%", "")
    rows = [original, *(_cells(found, row, tried.seconds) for row in found["candidates"])]
    print_table(_HEADS, rows, right=(3, 4, 5), least=(5,))
    print_text(f"{found['tokens']:,} held-out tokens of {found['sequences']} samples; ± is the 95 % interval")
    print_text(verdict(found))
    for row in found["candidates"]:
        if row["as_mse"]:
            print_text(f"{row['name']}: {row['as_mse']} modules saw too few tokens and were encoded as by mse")


def _cells(found: dict[str, Any], row: dict[str, Any], seconds: dict[str, float]) -> tuple[str, ...]:
    name, tied = row["name"], row["name"] in found["tied"]
    mark = "best" if name == found["best"] else "tied" if tied else ""
    taken = in_time(seconds[name]) if name in seconds else ""
    return mark, name, *figures(row), taken


def figures(row: dict[str, Any]) -> tuple[str, str, str]:
    """Write what was found of a way to quantize, under `FIGURES`."""
    return figure(row["divergence"]), f"{row['perplexity']:.4g}", f"{row['agreement']['mean']:.1%}"


def figure(interval: dict[str, float | None]) -> str:
    """Write a mean with half of its interval, to the interval's first digit."""
    mean, low, high = interval["mean"] or 0.0, interval["low"], interval["high"]
    if low is None or high is None:
        return f"{mean:.3g}"
    half = (high - low) / 2
    first = -math.floor(math.log10(half)) if half else _LEAST_DECIMALS
    decimals = min(max(first, _LEAST_DECIMALS), _MOST_DECIMALS)
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def verdict(found: dict[str, Any]) -> str:
    """Say which candidate is the best, and why if others are as good."""
    best, lowest, tied = found["best"], found["lowest"], found["tied"]
    others = ", ".join(name for name in tied if name != best)
    if found["candidates"][0]["divergence"]["low"] is None:
        return f"best: {best}, the lowest; fewer than 3 samples tell no interval, so this may be chance"
    if not others:
        return f"best: {best}"
    why = "has the lowest divergence and takes the least" if best == lowest else "takes the least to quantize"
    return f"best: {best}, which {why}; not significantly different: {others}"
