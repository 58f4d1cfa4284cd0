"""Compares the formats of a model that is named by a recipe, a repository on the Hub or a config.json."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.app.model_files import hub_files, local_files
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.sizes import sizes_of
from orchestrator.catalog.image import Image
from orchestrator.catalog.models import find_model
from orchestrator.catalog.target import Target
from orchestrator.errors import ConfigInvalidError, RecipeUnknownError
from orchestrator.planner.comparison import Comparison, Subject, Terms, compare
from orchestrator.planner.drafting import Drafting
from orchestrator.planner.known import Find, Known, known_model, known_repo, missing_sizes
from orchestrator.planner.queueing import Targets
from orchestrator.planner.scheme import KvDtype, Scheme, scheme_of, scheme_of_files
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.model import Recipe, Workload
from orchestrator.recipe.names import ENDING
from orchestrator.serving.runtimes import runtime_of

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def compare_formats(
    settings: Settings,
    model: str,
    *,
    target_name: str,
    engine: str,
    workload: Workload | None = None,
    targets: Targets | None = None,
    drafter: Drafting | None = None,
    kv_dtype: KvDtype | None = None,
) -> Comparison:
    """Compare the formats of a model.

    Args:
        settings: The environment and the folders.
        model: A recipe, the beginning of recipes' names, a repository on the Hub, or a config.json.
        target_name: The machine.
        engine: The runtime.
        workload: What users send; the usual lengths are shortened to what the model allows.
        targets: The times that users accept.
        drafter: Drafts tokens; None: plain decoding.
        kv_dtype: The format of the KV cache; None: that of the recipe, else bf16.

    Raises:
        RecipeUnknownError: The model is not found, or recipes of several models match.
        ConfigInvalidError: The model's sizes are not known.
        HubError: The Hub does not answer, or has no such repository.
    """
    if model.endswith(ENDING):
        file = RecipeName.parse(model)
        settings = settings.at(file)
        subject = _of_recipes(file.name, [settings.load(file)], sizes_of(settings))
    else:
        subject = _find_subject(settings, model)
    workload = (workload or Workload()).within(subject.shape.max_position)
    kv_dtype = kv_dtype or _kv_dtype(settings, model)
    target = settings.catalog.target(target_name)
    serving = (image for image in settings.catalog.images.values() if _serves(image, target, engine))
    terms = Terms(
        target,
        target_name,
        engine,
        workload.concurrency or 1,
        workload.context,
        kv_dtype,
        output_tokens=workload.output_tokens,
        rate=workload.rate,
        targets=targets,
        drafter=drafter,
    )
    return compare(subject, terms, serving)


def _serves(image: Image, target: Target, engine: str) -> bool:
    runs = image.serves and engine == runtime_of(image).COSTS
    return runs and target.architecture in image.architectures


def _find_subject(settings: Settings, model: str) -> Subject:
    """Find the model: local files first, then recipes, then the Hub."""
    place = Path(model)
    if place.suffix == ".json" or (place / "config.json").is_file():
        files = local_files(place)
        return Subject(model, files.shape, files.where, declared=scheme_of_files(files))
    family = family_of(settings, model)
    if family:
        loaded = [settings.book.load(name) for name in family]
        if model not in settings.book.names:
            _check_one_model(model, loaded, sizes_of(settings))
        return _of_recipes(model, loaded, sizes_of(settings))
    if _REPO.fullmatch(model):
        return _of_repo(settings, model)
    settings.book.load(model)  # raises with the nearest names
    message = f"{model} is neither a recipe, a repository on the Hub nor a config.json"
    raise RecipeUnknownError(message)


def _kv_dtype(settings: Settings, model: str) -> KvDtype:
    """Return a recipe's KV cache format, so that its plan and its comparison agree."""
    known = known_model(settings.book.load(model).recipe, sizes_of(settings)) if model in settings.book.names else None
    return known.kv_dtype if known else "bf16"


def family_of(settings: Settings, model: str) -> list[str]:
    """Name the recipes of one model: the family `llama3-70b` includes `llama3-70b-nvfp4`."""
    names = settings.book.names
    if model in names:
        own = settings.book.load(model).recipe.quantization.format.replace("_", "-")
        model = model.partition(f"-{own}")[0]
    return [name for name in names if name == model or name.startswith(f"{model}-")]


def _check_one_model(beginning: str, loaded: list[LoadedRecipe], find: Find) -> None:
    """Refuse a prefix that recipes of several models share."""
    models: dict[float, str] = {}
    for one in loaded:
        known = known_model(one.recipe, find)
        if known is not None:
            models.setdefault(known.shape.parameters, one.recipe.name)
    if len(models) > 1:
        message = f"recipes of {len(models)} models begin with `{beginning}`"
        raise RecipeUnknownError(message, hint=f"name a recipe of one: {', '.join(models.values())}")


def _of_recipes(name: str, loaded: list[LoadedRecipe], find: Find) -> Subject:
    """Return the model of a family: that of its first recipe with known sizes."""
    recipes = [one.recipe for one in loaded]
    first = next((known for recipe in recipes if (known := known_model(recipe, find))), None)
    if first is None:
        repo = getattr(recipes[0].model, "repo", None)
        hint = f"`orchestrator compare {repo}` asks the Hub for its config.json" if repo else ""
        raise ConfigInvalidError(missing_sizes(recipes[0]), hint=hint)
    alike = [(recipe, known) for recipe in recipes if (known := known_model(recipe, find)) and _alike(known, first)]
    by_format: dict[str, tuple[str, ...]] = {}
    schemes: dict[str, Scheme] = {}
    for recipe, known in alike:
        by_format[recipe.quantization.format] = (*by_format.get(recipe.quantization.format, ()), recipe.name)
        if recipe.name == name:
            schemes[recipe.quantization.format] = known.served
    return Subject(name, first.shape, first.basis, schemes, by_format, declared=_published(name, alike))


def _published(name: str, alike: list[tuple[Recipe, Known]]) -> Scheme | None:
    """Return the scheme of a checkpoint that the named recipe, or each of a family, serves as it is published."""
    asked = [(recipe, known) for recipe, known in alike if recipe.name == name] or alike
    schemes = {known.source.algorithm: known.source for _, known in asked}
    if len(schemes) > 1 or any(recipe.quantization.method != "none" for recipe, _ in asked):
        return None
    (scheme,) = schemes.values()
    return None if scheme.algorithm == scheme_of("bf16").algorithm else scheme


def _alike(known: Known, first: Known) -> bool:
    return known.shape.parameters == first.shape.parameters


def _of_repo(settings: Settings, repo: str) -> Subject:
    found = known_repo(repo)
    if found is not None:
        entry = find_model(repo)
        published = scheme_of(entry.format) if entry and entry.format else None
        return Subject(repo, found.shape, found.basis, declared=found.stored or published)
    files = hub_files(settings, repo)
    basis = f"its files on the Hub, {files.where}"
    return Subject(repo, files.shape, basis, declared=scheme_of_files(files))
