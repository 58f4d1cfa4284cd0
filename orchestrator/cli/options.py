"""Defines arguments, options and errors that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.text import program
from orchestrator.errors import RecipeUnknownError, machine_faults

Function = TypeVar("Function", bound=Callable[..., Any])


def complete_recipe(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[click.shell_completion.CompletionItem]:
    """Complete recipe names, or file names if the argument is a path."""
    if os.sep in incomplete or incomplete.startswith("."):
        return [click.shell_completion.CompletionItem(incomplete, type="file")]
    settings: Settings | None = ctx.find_root().obj
    if settings is None:
        settings = Settings(os.environ)
    return [click.shell_completion.CompletionItem(name) for name in settings.book.names if name.startswith(incomplete)]


class RecipeParameter(click.ParamType[RecipeName]):
    """A recipe: its name, or the path of its file."""

    name = "recipe"

    def convert(
        self,
        value: str | RecipeName,
        param: click.Parameter | None,  # noqa: ARG002 - click's signature
        ctx: click.Context | None,  # noqa: ARG002 - click's signature
    ) -> RecipeName:
        """Tell a name from a path."""
        return value if isinstance(value, RecipeName) else RecipeName.parse(value)


def _use_project_of_recipe(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    value: RecipeName | None,
) -> RecipeName | None:
    """Let the command use the project of its recipe."""
    if value and ctx.obj:
        ctx.obj = ctx.obj.at(value)
    return value


def _use_project_of_one_recipe(
    ctx: click.Context, param: click.Parameter, value: tuple[RecipeName, ...]
) -> tuple[RecipeName, ...]:
    """Let the command use the project of its recipe, if there is one recipe."""
    if len(value) == 1:
        _use_project_of_recipe(ctx, param, value[0])
    return value


class PageFile(click.Path):
    """A file to write a page to. A missing folder is refused before any work."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - click's name
        """Check the folder as well as the file."""
        file = super().convert(value, param, ctx)
        folder = Path(value).parent
        if not folder.is_dir():
            self.fail(f"there is no folder {folder}", param, ctx)
        if not Path(value).exists() and not os.access(folder, os.W_OK):
            self.fail(f"you may not write to the folder {folder}", param, ctx)
        return file


def write_page(file: Path, page: str) -> None:
    """Write a page.

    Raises:
        DiskFullError: The disk has no space for it.
        NoPermissionError: The user may not write it.
    """
    with machine_faults(f"writing {file}"):
        file.write_text(page, encoding="utf-8")


def not_built(settings: Settings, recipe: RecipeName) -> RecipeUnknownError:
    """Explain how to build a recipe that was never built.

    Raises:
        RecipeUnknownError: There is no such recipe. Names the nearest one.
    """
    settings.load(recipe)
    message = f"{recipe.name} has no build in {settings.store.root}"
    return RecipeUnknownError(message, hint=f"{program()} build {recipe}")


recipe_argument = click.argument(
    "recipe", type=RecipeParameter(), shell_complete=complete_recipe, callback=_use_project_of_recipe
)
recipes_argument = click.argument(
    "recipes",
    metavar="[RECIPE]...",
    type=RecipeParameter(),
    shell_complete=complete_recipe,
    nargs=-1,
    callback=_use_project_of_one_recipe,
)
optional_recipe_argument = click.argument(
    "recipe", type=RecipeParameter(), shell_complete=complete_recipe, callback=_use_project_of_recipe, required=False
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one value, for example quantization.format=fp8.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show every line that the steps write.")
executor_option = click.option(
    "--executor",
    type=click.Choice(["process", "docker"]),
    help="Where to run the steps that can run in more than one place.",
)
profile_option = click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="Add these services: `monitoring` (Prometheus and Grafana), `chat` (Open WebUI).",
)
