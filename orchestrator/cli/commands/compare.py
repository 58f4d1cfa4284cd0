"""Compares the formats of a model: fit, context, requests, speed, and when to use which."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.app.configs import LARGEST, read_object
from orchestrator.app.named import Named
from orchestrator.app.settings import Settings
from orchestrator.cli.options import PageFile, complete_recipe, write_page
from orchestrator.cli.text import print_json, print_table, print_text
from orchestrator.errors import ConfigInvalidError, RecipeUnknownError
from orchestrator.models import shape_of
from orchestrator.pages.advice import advice
from orchestrator.pages.drafts import words
from orchestrator.pages.markdown import comparison_text
from orchestrator.pages.page import comparison_page
from orchestrator.pages.programs import document
from orchestrator.pages.rows import FORMAT_HEADS, conditions, format_cells
from orchestrator.planner.comparison import Comparison, Subject, Terms, compare
from orchestrator.planner.constants import RUNTIMES
from orchestrator.planner.drafts import Drafts, drafts
from orchestrator.planner.known import Known, known_model, missing_sizes
from orchestrator.planner.scheme import KvDtype, Scheme
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.model import Recipe
from orchestrator.recipe.names import ENDING

_USUAL_CONTEXT = 4096
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@click.command("compare")
@click.argument("model", shell_complete=complete_recipe)
@click.option("--target", "target_name", default="dgx-spark", show_default=True, help="The machine.")
@click.option("--engine", type=click.Choice(RUNTIMES), default="trtllm", show_default=True, help="What serves.")
@click.option(
    "--context", type=click.IntRange(1, 2**31),
    help=f"Tokens of each request; {_USUAL_CONTEXT}, or the model's own limit where that is less.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 65536), default=1, show_default=True, help="Concurrent requests.")
@click.option(
    "--kv-cache", "kv_dtype", type=click.Choice(["bf16", "fp8", "nvfp4"]),
    help="How keys and values are kept; what the recipe says, else bf16.",
)  # fmt: skip
@click.option(
    "--wanted", type=click.FloatRange(0, 1e9, min_open=True), multiple=True, metavar="TOKENS/S",
    help="Say what drafts must do for this speed; may be given more than once.",
)  # fmt: skip
@click.option(
    "--format", "style", type=click.Choice(["text", "md", "json", "html"]), default="text", show_default=True,
    help="How to write it; html draws pictures and is one file.",
)  # fmt: skip
@click.option(
    "--html", "page", type=PageFile(), metavar="FILE",
    help="Write the page with pictures to a file as well.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    target_name: str,
    engine: str,
    context: int | None,
    batch: int,
    kv_dtype: KvDtype | None,
    wanted: tuple[float, ...],
    style: str,
    page: Path | None,
    as_json: bool,
) -> None:
    """Compare the formats of MODEL: a recipe or the beginning of its name, a repository on the Hub, a config.json.

    Only a repository that the catalogue does not know needs the network, for its config.json.
    """
    settings: Settings = ctx.obj
    if model.endswith(ENDING):
        file = Named.read(model)
        settings = settings.at(file)
        subject = _of_recipes(file.name, [settings.load(file)])
    else:
        subject = _subject(settings, model)
    length = context or min(_USUAL_CONTEXT, subject.shape.max_position)
    kv_dtype = kv_dtype or _kv_dtype(settings, model)
    terms = Terms(settings.catalog.target(target_name), target_name, engine, batch, length, kv_dtype)
    found = compare(subject, terms)
    needed = drafts(found, wanted)
    if page is not None:
        write_page(page, comparison_page(found, needed))
    match "json" if as_json else style:
        case "json":
            print_json(document(found, needed))
        case "md":
            click.echo(comparison_text(found, needed), nl=False)
        case "html":
            click.echo(comparison_page(found, needed), nl=False)
        case _:
            _show(found, needed)


def _subject(settings: Settings, model: str) -> Subject:
    """Find the model: local files first, then recipes, then the Hub."""
    place = Path(model)
    if place.suffix == ".json" or (place / "config.json").is_file():
        file = place / "config.json" if place.is_dir() else place
        return Subject(model, shape_of(read_object(file), str(file)), str(file))
    family = _family(settings, model)
    if family:
        loaded = [settings.book.load(name) for name in family]
        if model not in settings.book.names:
            _insist_on_one_model(model, loaded)
        return _of_recipes(model, loaded)
    if _REPO.fullmatch(model):
        return _of_repo(model)
    settings.book.load(model)  # raises with the nearest names
    message = f"{model} is neither a recipe, a repository on the Hub nor a config.json"
    raise RecipeUnknownError(message)


def _kv_dtype(settings: Settings, model: str) -> KvDtype:
    """Return a recipe's KV cache format, so that its plan and its comparison agree."""
    known = known_model(settings.book.load(model).recipe) if model in settings.book.names else None
    return known.kv_dtype if known else "bf16"


def _family(settings: Settings, model: str) -> list[str]:
    """Name the recipes of one model: the family `llama3-70b` includes `llama3-70b-nvfp4`."""
    names = settings.book.names
    if model in names:
        own = settings.book.load(model).recipe.quantization.format.replace("_", "-")
        model = model.partition(f"-{own}")[0]
    return [name for name in names if name == model or name.startswith(f"{model}-")]


def _insist_on_one_model(beginning: str, loaded: list[LoadedRecipe]) -> None:
    """Refuse a prefix that recipes of several models share."""
    models: dict[float, str] = {}
    for one in loaded:
        known = known_model(one.recipe)
        if known is not None:
            models.setdefault(known.shape.parameters, one.recipe.name)
    if len(models) > 1:
        message = f"recipes of {len(models)} models begin with `{beginning}`"
        raise RecipeUnknownError(message, hint=f"name a recipe of one: {', '.join(models.values())}")


def _of_recipes(name: str, loaded: list[LoadedRecipe]) -> Subject:
    """Return the model of a family: that of its first recipe with known sizes."""
    recipes = [one.recipe for one in loaded]
    first = next((known for recipe in recipes if (known := known_model(recipe))), None)
    if first is None:
        repo = getattr(recipes[0].model, "repo", None)
        hint = f"`orchestrator compare {repo}` asks the Hub for its config.json" if repo else ""
        raise ConfigInvalidError(missing_sizes(recipes[0]), hint=hint)
    alike = [(recipe, known) for recipe in recipes if (known := known_model(recipe)) and _alike(known, first)]
    by_format: dict[str, tuple[str, ...]] = {}
    schemes: dict[str, Scheme] = {}
    for recipe, known in alike:
        by_format[recipe.quantization.format] = (*by_format.get(recipe.quantization.format, ()), recipe.name)
        if recipe.name == name:
            schemes[recipe.quantization.format] = known.served
        elif _is_usable(recipe, known):
            schemes.setdefault(recipe.quantization.format, known.served)
    return Subject(name, first.shape, first.basis, schemes, by_format)


def _alike(known: Known, first: Known) -> bool:
    return known.shape.parameters == first.shape.parameters


def _is_usable(recipe: Recipe, known: Known) -> bool:
    """Tell whether a recipe's checkpoint stands for its format. FP8 with block scales has kernels of its own."""
    return recipe.quantization.method == "none" and known.served.algorithm != "FP8_BLOCK"


def _of_repo(repo: str) -> Subject:
    from orchestrator.catalog.models import find_model  # noqa: PLC0415 - only for a repository

    entry = find_model(repo)
    if entry is not None:
        subject = Subject(repo, shape_of(entry.config, f"catalogue: {repo}"), entry.source)
    else:
        where = f"config.json of {repo}"
        subject = Subject(repo, shape_of(_fetch(repo), where), f"its {where} on the Hub")
    return subject


def _fetch(repo: str) -> Mapping[str, Any]:
    """Fetch only a repository's config.json."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - the Hub's client loads slowly

    from orchestrator.hub.errors import hub_errors  # noqa: PLC0415 - as above
    from orchestrator.hub.snapshot import resolve_commit, snapshot  # noqa: PLC0415 - as above

    commit = resolve_commit(repo, "main")
    files = snapshot(repo, commit, ("config.json",)).files
    if not files or files[0].size > LARGEST:
        message = f"{repo} has no config.json of a usual size"
        raise ConfigInvalidError(message, hint="name the repository of the model's weights in safetensors")
    with tempfile.TemporaryDirectory() as folder, hub_errors(repo, commit):
        return read_object(Path(hf_hub_download(repo, "config.json", revision=commit, local_dir=folder)))


def _show(comparison: Comparison, needed: Drafts | None) -> None:
    terms = comparison.terms
    print_text(f"{comparison.subject.name} on {terms.target_name}: {conditions(terms)}")
    click.echo()
    print_table(FORMAT_HEADS, map(format_cells, comparison.rows), right=(2, 3, 4, 5, 6), least=(2,))
    click.echo()
    for row in comparison.rows:
        print_text(f"{row.label}: {advice(comparison, row)}")
    if needed:
        click.echo()
        for line in words(needed):
            print_text(line)
