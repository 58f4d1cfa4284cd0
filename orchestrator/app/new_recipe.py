"""Writes a recipe for a model: its parameters, the format that suits the target, and the reasons."""

from __future__ import annotations

from pathlib import Path

from orchestrator.app.model_lookup import look_up_model
from orchestrator.app.recipe_draft import RecipeDraft, name_for, source_of
from orchestrator.app.settings import Settings
from orchestrator.errors import RecipeThereError, machine_faults
from orchestrator.pages.advice import advice
from orchestrator.pages.cells import span_of
from orchestrator.planner.comparison import Comparison, Row, Subject
from orchestrator.planner.figures import requests
from orchestrator.planner.proposal import Candidate, NewRecipe, Proposal, propose
from orchestrator.recipe.model import Format, Recipe
from orchestrator.store.temporary import replacing
from orchestrator.units import in_bytes

_METHODS = {
    "none": "nothing is quantized; the weights are served as published",
    "onepass": "our own quantizer supports this architecture, and loads only a few layers at a time",
    "modelopt": "NVIDIA's quantizer; our own does not support this format for this architecture",
    "trtllm": "",
}


def write_recipe(
    settings: Settings,
    model: str,
    *,
    wanted: Format | None,
    target_name: str,
    revision: str,
    output: Path | None = None,
    force: bool = False,
) -> tuple[Recipe, Path]:
    """Write a recipe for a model. No weights are downloaded.

    Args:
        settings: The environment and the folders.
        model: OWNER/NAME on the Hub, a folder, or a config.json.
        wanted: The format; None: the one that suits the target best.
        target_name: The machine that serves.
        revision: On the Hub, the branch, tag or commit.
        output: The file to write; None: `<model>-<format>.yaml` in `recipes/` or in the working folder.
        force: Overwrite an existing file.

    Returns:
        The recipe and its file.

    Raises:
        RecipeThereError: The file exists.
        PlanRefusedError: No format works on the target.
        ConfigInvalidError: The model is not found, or its config.json describes no model.
    """
    if output is not None:
        _check_file(output, force=force)
    target = settings.catalog.target(target_name)
    found = look_up_model(settings, model, revision)
    base = target_name if settings.book.has_base(target_name) else None

    def draft(candidate: Candidate) -> tuple[RecipeDraft, Path]:
        file = output or _usual_place() / f"{name_for(found.title, candidate.format)}.yaml"
        return RecipeDraft(file.stem, found, candidate, target_name, target, base), file

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
    _check_file(file, force=force)
    text = made.text(_reasons(new, proposal))
    recipe = settings.book.load_text(text, file).recipe
    with machine_faults(f"writing {file}"), replacing(file) as fresh:
        fresh.write_text(text, encoding="utf-8")
    return recipe, file


def _check_file(file: Path, *, force: bool) -> None:
    """Refuse to overwrite a file.

    Raises:
        RecipeThereError: The file exists, and `--force` is not given.
    """
    if file.exists() and not force:
        message = f"{file} exists already"
        raise RecipeThereError(message, hint="--force overwrites it, -o FILE writes another file")


def _usual_place() -> Path:
    """Find the folder of recipes in the working folder."""
    return Path("recipes") if Path("recipes").is_dir() else Path()


def _reasons(new: NewRecipe, proposal: Proposal) -> dict[str, str]:
    gpu = new.target.gpu
    kernels = f" and has kernels for it on SM {gpu.sm}" if gpu else ""
    return {
        "format": " ".join(_why_format(new, proposal)),
        "method": _METHODS[proposal.candidate.method],
        "image": f"the first image of the catalogue that can serve {new.architecture}{kernels}",
    }


def _why_format(new: NewRecipe, proposal: Proposal) -> list[str]:
    row = proposal.row
    reasons = [f"Not {name}: {refusal.message}." for name, refusal in proposal.passed_over.items()]
    if new.declared is not None and proposal.candidate.method == "none":
        reasons.append("It is published in this format; quantizing it again would only lose precision.")
    elif new.wanted is not None:
        reasons.append("As requested.")
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
