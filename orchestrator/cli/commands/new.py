"""Writes a recipe for a model: its parameters, the format that suits the target, and the reasons."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click

from orchestrator.app.drafting import Draft, name_for, source_of
from orchestrator.app.finding import find
from orchestrator.app.named import Named
from orchestrator.app.planning import plan_with
from orchestrator.app.runner import forecast
from orchestrator.app.settings import Settings
from orchestrator.cli.commands.plan import plan_document, show_plan
from orchestrator.cli.options import PageFile, json_option
from orchestrator.cli.text import print_json
from orchestrator.errors import RecipeThereError, machine_faults
from orchestrator.pages.advice import advice
from orchestrator.pages.rows import span_of
from orchestrator.planner.comparison import Comparison, Row, Subject
from orchestrator.planner.figures import requests
from orchestrator.planner.proposal import Candidate, NewRecipe, Proposal, propose
from orchestrator.recipe.model import Format, Recipe
from orchestrator.recipe.names import NAME_PATTERN
from orchestrator.store.temporary import replacing
from orchestrator.units import in_bytes

_METHODS = {
    "none": "nothing is quantized: the weights are served as they are",
    "onepass": "our own quantizer knows this class, and holds only a few layers at a time",
    "modelopt": "NVIDIA's quantizer; our own does not make this format of this class",
    "trtllm": "",
}


@click.command("new")
@click.argument("model")
@click.option(
    "--format", "wanted", type=click.Choice([name for name in get_args(Format) if name != "auto"]),
    help="Of the weights; else what `compare` would pick.",
)  # fmt: skip
@click.option("--target", "target_name", default="dgx-spark", show_default=True, help="The machine that serves.")
@click.option("--revision", default="main", show_default=True, help="On the Hub: branch, tag or commit.")
@click.option(
    "-o", "--output", type=PageFile(), metavar="FILE",
    help="Where to write it; <model>-<format>.yaml in recipes/ where there is one, else where you stand.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    wanted: Format | None,
    target_name: str,
    revision: str,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a recipe for MODEL: OWNER/NAME on the Hub, a folder, or a config.json; then print its plan.

    No weights are downloaded. Nothing is written if the model's class is not known, or if it cannot work on the
    target. The reason is printed as `plan` prints it.
    """
    if output is not None:
        _insist_on_name(output)
        _insist_on_free(output, force=force)
    target = settings.catalog.target(target_name)
    found = find(settings, model, revision)
    base = target_name if settings.book.has_base(target_name) else None

    def draft(candidate: Candidate) -> tuple[Draft, Path]:
        file = output or _usual_place() / f"{name_for(found.title, candidate.format)}.yaml"
        return Draft(file.stem, found, candidate, target_name, target, base), file

    def written(candidate: Candidate) -> Recipe:
        made, file = draft(candidate)
        return settings.book.load_text(made.text(), file).recipe

    new = NewRecipe(
        name=source_of(found),
        architecture=found.model.architecture,
        shape=found.shape,
        declared=found.declared,
        target_name=target_name,
        target=target,
        wanted=wanted,
        has_base=base is not None,
    )
    proposal = propose(new, settings.catalog, written)
    made, file = draft(proposal.candidate)
    _insist_on_free(file, force=force)
    text = made.text(_reasons(new, proposal))
    recipe = settings.book.load_text(text, file).recipe
    with machine_faults(f"writing {file}"), replacing(file) as fresh:
        fresh.write_text(text, encoding="utf-8")
    _show(settings, recipe, file, as_json=as_json)


def _insist_on_name(file: Path) -> None:
    """Refuse a file name that cannot be a recipe's name."""
    if file.suffix != ".yaml" or not re.fullmatch(NAME_PATTERN.strip("^$"), file.stem):
        message = f"{file.name} is no name for a recipe: lower-case letters, digits, `.`, `_` and `-`, then .yaml"
        raise click.BadParameter(message, param_hint="--output")


def _insist_on_free(file: Path, *, force: bool) -> None:
    """Refuse to overwrite a file.

    Raises:
        RecipeThereError: The file exists, and `--force` is not given.
    """
    if file.exists() and not force:
        message = f"{file} is there already"
        raise RecipeThereError(message, hint="--force writes over it, -o FILE writes elsewhere")


def _usual_place() -> Path:
    """Find the folder of recipes in the working folder."""
    return Path("recipes") if Path("recipes").is_dir() else Path()


def _reasons(new: NewRecipe, proposal: Proposal) -> dict[str, str]:
    gpu = new.target.gpu
    kernels = f" and has kernels for it on SM {gpu.sm}" if gpu else ""
    return {
        "format": " ".join(_why_format(new, proposal)),
        "method": _METHODS[proposal.candidate.method],
        "image": f"the first image of the catalogue that serves {new.architecture}{kernels}",
    }


def _why_format(new: NewRecipe, proposal: Proposal) -> list[str]:
    row = proposal.row
    reasons = [f"Not {name}: {refusal.message}." for name, refusal in proposal.passed_over.items()]
    if new.declared is not None:
        reasons.append("It is published so; quantizing it again would only lose precision.")
    elif new.wanted is not None:
        reasons.append("As asked for.")
    elif row is not None:
        subject = Subject(new.name, row.serving.shape, "")
        reasons.append(advice(Comparison(subject, new.terms, (row,)), row))
    if row is not None:
        reasons.append(f"Weights: {in_bytes(row.figures.weights_bytes)}{_speed(new, row)}.")
    return reasons


def _speed(new: NewRecipe, row: Row) -> str:
    band, asked = row.figures.decode, new.terms
    if band is None:
        return ""
    return f", {span_of(band)} tokens/s predicted for {requests(asked.batch)} at {asked.context:,} tokens"


def _show(settings: Settings, recipe: Recipe, file: Path, *, as_json: bool) -> None:
    """Print the recipe's path and its plan."""
    plan = plan_with(settings, recipe, None, None)
    steps = forecast(plan, settings.store, Path("WORK"))
    if as_json:
        print_json({"file": str(file), **plan_document(plan, steps)})
        return
    click.echo(f"wrote {file}\n")
    known = file.resolve().parent == settings.project.recipes.resolve()
    show_plan(plan, steps, Named(recipe.name) if known else Named.read(str(file)), verbose=False)
