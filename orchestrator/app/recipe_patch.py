"""Changes values in the text of a recipe, keeps its comments, and takes the change back."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.documents.yaml_text import parse
from orchestrator.errors import BadInputError, RecipeChangedError, RecipeUnknownError, machine_faults
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.store.temporary import replacing
from orchestrator.values import frozen


@frozen
class Patch:
    """A change of one recipe."""

    file: Path
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        lines = (self.before.splitlines(keepends=True), self.after.splitlines(keepends=True))
        return "".join(difflib.unified_diff(*lines, str(self.file), str(self.file)))


def patch_of(settings: Settings, recipe: RecipeName, values: Mapping[str, object]) -> Patch:
    """Make the patch that sets values of a recipe.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        values: Values by key path.

    Raises:
        RecipeChangedError: Its text is written in a way that this does not change safely.
    """
    loaded = settings.load(recipe)
    before = loaded.file.read_text(encoding="utf-8")
    after = before
    for path, value in values.items():
        after = _set(after, tuple(path.split(".")), value)
    expected = settings.load(recipe, [f"{path}={json.dumps(value)}" for path, value in values.items()])
    if not _says(settings, loaded, after, expected):
        lines = "\n".join(f"  {path}: {json.dumps(value)}" for path, value in values.items())
        message = f"{loaded.file}: its text cannot be changed safely; the values are\n{lines}"
        raise RecipeChangedError(message, hint="write them into the recipe, or give them with --set")
    return Patch(loaded.file, before, after)


def apply_patch(settings: Settings, patch: Patch, kept: Path) -> None:
    """Write the changed recipe, and keep its former text in another file.

    Raises:
        RecipeUnknownError: The recipe belongs to the tool, not to the project.
    """
    require_own(settings, patch.file)
    with machine_faults(f"writing {patch.file}"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"before": patch.before, "after": patch.after}), encoding="utf-8")
        _write(patch.file, patch.after)


def require_own(settings: Settings, file: Path) -> None:
    """Check that a recipe can be changed.

    Raises:
        RecipeUnknownError: It belongs to the tool, not to the project.
    """
    if not file.is_relative_to(settings.project.root):
        message = f"{file} belongs to the tool"
        raise RecipeUnknownError(message, hint=f"copy it to {settings.project.recipes} first; the copy counts instead")


def undo_patch(file: Path, kept: Path) -> Patch:
    """Write the former text of a recipe again.

    Raises:
        RecipeChangedError: No patch was applied, or the recipe was changed since.
    """
    if not kept.is_file():
        message = f"{file}: no patch was applied"
        raise RecipeChangedError(message, hint="tune RECIPE --apply and quality RECIPE --write apply one")
    stored = json.loads(kept.read_bytes())
    if file.read_text(encoding="utf-8") != stored["after"]:
        message = f"{file} was changed after the patch"
        raise RecipeChangedError(message, hint=f"its former text is in {kept}")
    with machine_faults(f"writing {file}"):
        _write(file, stored["before"])
        kept.unlink()
    return Patch(file, stored["after"], stored["before"])


def _write(file: Path, text: str) -> None:
    with replacing(file) as fresh:
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(file.stat().st_mode)


def _says(settings: Settings, loaded: LoadedRecipe, text: str, expected: LoadedRecipe) -> bool:
    try:
        return settings.book.load_text(text, loaded.file).recipe == expected.recipe
    except BadInputError:
        return False


def _set(text: str, path: tuple[str, ...], value: object) -> str:
    """Set one value: in its line, in its parent's flow mapping, or on a new line below its parent."""
    positions = parse(text.encode(), Path("recipe")).positions
    lines, written = text.splitlines(), json.dumps(value)
    depth = next(length for length in range(len(path), -1, -1) if not length or path[:length] in positions)
    if depth == 0:
        return "\n".join([*lines, *_block(path, written, 0)]) + "\n"
    at, column = positions[path[:depth]].line - 1, positions[path[:depth]].column - 1
    head, line = lines[at][:column], lines[at][column:]
    if depth == len(path):
        line = re.sub(r"^([^:]+:\s*)(\"[^\"]*\"|'[^']*'|[^\s,}#]+)", lambda found: found[1] + written, line, count=1)
        lines[at] = head + line
    elif re.match(r"[^:]+:\s*\{", line):
        opened = "".join(f"{part}: {{" for part in path[depth:-1])
        inner = f"{opened}{path[-1]}: {written}{'}' * (len(path) - depth - 1)}"
        line = re.sub(r"^([^:]+:\s*\{)\s*(\}?)", lambda found: found[1] + inner + (found[2] or ", "), line, count=1)
        lines[at] = head + line
    else:
        lines[at + 1 : at + 1] = _block(path[depth:], written, _indent(positions, path[:depth], column))
    return "\n".join(lines) + "\n"


def _indent(positions: Mapping[tuple[str | int, ...], object], parent: tuple[str, ...], column: int) -> int:
    for path, place in positions.items():
        if len(path) == len(parent) + 1 and path[: len(parent)] == parent:
            return int(getattr(place, "column", column + 3)) - 1
    return column + 2


def _block(path: tuple[str, ...], written: str, indent: int) -> list[str]:
    keys = [f"{' ' * (indent + 2 * depth)}{part}:" for depth, part in enumerate(path)]
    return [*keys[:-1], f"{keys[-1]} {written}"]
