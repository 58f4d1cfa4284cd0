"""Derives recipes from a recipe, one for each combination of values, and writes them into the project."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import BadInputError, OverrideError, machine_faults
from orchestrator.recipe.model import Recipe
from orchestrator.store.temporary import replacing

_SHORT = {"format": "quantization.format"}
"""Keys that may be written without their section."""
_HEAD = "# Written by `orchestrator build --matrix`; edit it like any other recipe.\n"


def read_axes(assignments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `KEY=VALUE,VALUE` each.

    Raises:
        OverrideError: A text is not of this form, or a key cannot have several values.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for text in assignments:
        key, _, rest = text.partition("=")
        key = _SHORT.get(key.strip(), key.strip())
        values = tuple(dict.fromkeys(value.strip() for value in rest.split(",")))
        if not key or not all(values) or key in axes:
            message = f"--matrix {text}: expected KEY=VALUE,VALUE once for each key"
            raise OverrideError(message, hint="for example --matrix format=fp8,nvfp4 --matrix target=dgx-spark,h100")
        if key.split(".")[0] == "model":
            message = f"--matrix {text}: a recipe describes one model"
            raise OverrideError(message, hint="name a recipe for each model; all get every combination")
        axes[key] = values
    return axes


def derived_recipes(settings: Settings, recipe: RecipeName, axes: Mapping[str, Sequence[str]]) -> Iterator[RecipeName]:
    """Yield a recipe for each combination of values.

    A combination is named after its values: `llama3-8b-nvfp4` with the format fp8 is `llama3-8b-fp8`. If there is a
    recipe of that name with these values, it is taken. Otherwise one that extends the given recipe is written into the
    project, so that all commands know it.

    Args:
        settings: The settings with the project.
        recipe: The recipe from which the others are derived.
        axes: The values of each key.

    Raises:
        BadInputError: A value is not valid, or another recipe has the name of a combination.
        MachineError: The project cannot be written.
    """
    base = settings.load(recipe).recipe
    for values in itertools.product(*axes.values()):
        wanted = dict(zip(axes, values, strict=True))
        overrides = [f"{key}={value}" for key, value in wanted.items()]
        varied = _varied(settings, recipe, overrides)
        if varied == base:
            yield recipe
            continue
        file = (recipe.file.parent if recipe.file else settings.project.recipes) / f"{_name_of(base, wanted)}.yaml"
        in_project = recipe.file is None and settings.project.is_found
        name = RecipeName(file.stem, None if in_project else file)
        if file.is_file() or (in_project and settings.book.file_of(file.stem)):
            _require_values(settings.load(name).recipe, varied, wanted)
        else:
            _write(file, base, wanted)
        yield name


def _varied(settings: Settings, recipe: RecipeName, overrides: Sequence[str]) -> Recipe:
    """Return a recipe with other values, which its plan finds in the catalogues.

    Raises:
        BadInputError: A value is not valid. The option is named as it was given.
    """
    try:
        return plan(settings, recipe, overrides).loaded.recipe
    except BadInputError as error:
        raise type(error)(error.message.replace("--set", "--matrix"), hint=error.hint) from error


def _name_of(base: Recipe, wanted: Mapping[str, str]) -> str:
    name = base.name
    for key, value in wanted.items():
        name = name.removesuffix(f"-{_word(_value(base, key))}") + f"-{_word(value)}"
    return name


def _word(value: object) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", str(value).lower()).strip("-.")


def _value(recipe: Recipe, key: str) -> object:
    found: object = recipe
    for part in key.split("."):
        found = getattr(found, part, None)
    return found


def _require_values(there: Recipe, varied: Recipe, wanted: Mapping[str, str]) -> None:
    for key in wanted:
        if _value(there, key) != _value(varied, key) or there.model != varied.model:
            message = f"--matrix: the recipe `{there.name}` exists, and has another {key} or model"
            raise OverrideError(message, hint="rename one of the recipes")


def _write(file: Path, base: Recipe, wanted: Mapping[str, str]) -> None:
    document: dict[str, Any] = {
        "name": file.stem,
        "description": f"{base.name} with {', '.join(f'{key} {value}' for key, value in wanted.items())}.",
        "extends": base.name,
    }
    for key, value in wanted.items():
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = yaml.safe_load(value)
    with machine_faults(f"writing {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh:
            fresh.write_text(_HEAD + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
