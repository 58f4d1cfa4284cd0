"""Loads recipes by name: inheritance, overrides, validation, and the source of each value."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from orchestrator.documents.files import read_document
from orchestrator.documents.validate import validate
from orchestrator.documents.yaml_text import Data, Document, KeyPath, Position, parse, scalar
from orchestrator.errors import (
    BadInputError,
    DocumentSyntaxError,
    OverrideError,
    PathEscapesError,
    RecipeExtendsError,
    RecipeInvalidError,
    RecipeUnknownError,
)
from orchestrator.recipe.model import Recipe
from orchestrator.recipe.names import ENDING, NAME_HINT, NAME_PATTERN
from orchestrator.values import frozen

_OWN_KEYS = frozenset({"name", "description", "formerly", "expected_refusals", "extends"})
"""Fields about the recipe itself, which are not inherited."""

_MAX_CHAIN = 8
_RENAMED = (
    "use `{new}`; what was stored is reused. A bundle stays in dist/{old}, and `status`, `logs` and `undeploy` still"
    " know a server of the old name"
)
_OVERRIDE = Position(Path("--set"), 0, 0)


@frozen
class LoadedRecipe:
    """A recipe and the source of its values."""

    recipe: Recipe
    file: Path
    origins: Mapping[KeyPath, str] = field(repr=False)
    """For each leaf: `file:line` of the recipe or base that set it, or `--set`. A default is not listed."""
    shadows: Mapping[Path, Path] = field(default_factory=dict)
    """The recipe's file and those of its bases that replace another file of that name, each with the other."""


@frozen
class RecipeBook:
    """The recipes of a folder before those of other folders. Bases that recipes extend are in `bases/` of each."""

    folder: Path
    below: tuple[Path, ...] = ()
    """Further folders, nearest first. A recipe extends files of its own folder or further ones."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder, nearest first."""
        return (self.folder, *self.below)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every recipe's name, sorted."""
        return tuple(sorted({file.stem for folder in self.folders for file in folder.glob("*.yaml")}))

    def load(self, name: str, overrides: Iterable[str] = ()) -> LoadedRecipe:
        """Load a recipe by name.

        Args:
            name: Its name, which is its file's name without the ending.
            overrides: `key.path=value`, as on the command line.

        Raises:
            BadInputError: One of its kinds, with file, line and key path.
        """
        file = self._file(name)
        return self._loaded(file, read_document(file, RecipeExtendsError), overrides)

    def load_text(self, text: str, file: Path) -> LoadedRecipe:
        """Load an unsaved recipe as if it were in a file.

        Raises:
            BadInputError: As `load`.
        """
        place = file.parent.resolve() / file.name
        if place.parent != self.folder:
            return self._beside(place).load_text(text, file)
        return self._loaded(place, parse(text.encode(), file), ())

    def has_base(self, name: str) -> bool:
        """Tell whether recipes can extend a base of this name."""
        return any((folder / "bases" / f"{name}.yaml").is_file() for folder in self.folders)

    def _beside(self, file: Path) -> RecipeBook:
        """Put the folder of a file before the folders of this book."""
        return RecipeBook(file.parent, tuple(folder for folder in self.folders if folder != file.parent))

    def _loaded(self, file: Path, document: Document, overrides: Iterable[str]) -> LoadedRecipe:
        documents = self._chain(file, document)
        merged = _merge_chain(list(documents.values()))
        for override in overrides:
            _apply_override(merged, override)
        recipe = validate(Recipe, dict(merged.data), merged.positions, RecipeInvalidError)
        if recipe.name != file.stem:
            where = merged.positions[("name",)]
            message = f"{where}: the recipe is called `{recipe.name}`, but its file is {file.name}"
            raise RecipeInvalidError(message, hint="give the file and the recipe the same name")
        shadows = {used: other for used in documents if (other := self.shadowed(used))}
        return LoadedRecipe(recipe, file, merged.origins(), shadows)

    def load_file(self, file: Path, overrides: Iterable[str] = ()) -> LoadedRecipe:
        """Load a recipe from any file. It extends files beside it, or in the folders of this book.

        Raises:
            BadInputError: As `load`.
        """
        if file.suffix != ENDING or not file.is_file():
            close = file.with_name(f"{file.name}{ENDING}")
            hint = f"did you mean {close}?" if close.is_file() else "`orchestrator recipes` lists the recipes by name"
            expected = "" if file.suffix == ENDING else f": expected a path that ends in {ENDING}"
            message = f"there is no recipe file {file}{expected}"
            raise RecipeUnknownError(message, hint=hint)
        return self._beside(file).load(file.stem, overrides)

    def shadowed(self, file: Path) -> Path | None:
        """Find the different recipe or base of the same name that a file replaces."""
        own, *lower = self._from(file)
        others = (folder / file.relative_to(own) for folder in lower)
        return next((other for other in others if other.is_file() and not _same(file, other)), None)

    def file_of(self, name: str) -> Path | None:
        """Find the file of a recipe in the nearest folder; None if there is none."""
        files = (folder / f"{name}.yaml" for folder in self.folders)
        return next((file for file in files if file.is_file()), None)

    def _file(self, name: str) -> Path:
        if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
            message = f"{name!r} is no recipe name"
            raise RecipeUnknownError(message, hint=NAME_HINT)
        file = self.file_of(name)
        if file is None:
            renamed = self._renamed(name)
            if renamed:
                message = f"the recipe `{name}` is called `{renamed}` now"
                raise RecipeUnknownError(message, hint=_RENAMED.format(old=name, new=renamed))
            close = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean `{close[0]}`?" if close else "`orchestrator recipes` lists them"
            places = ", ".join(str(folder / f"{name}.yaml") for folder in self.folders)
            message = f"no recipe is called `{name}` (looked for {places})"
            raise RecipeUnknownError(message, hint=hint)
        return file

    def _renamed(self, name: str) -> str | None:
        """Find the recipe that had a name before; None if there is none, and for files that are not valid."""
        for file in (file for folder in self.folders for file in folder.glob("*.yaml")):
            with suppress(BadInputError):
                names = read_document(file, RecipeExtendsError).data.get("formerly")
                if isinstance(names, list) and name in names:
                    return file.stem
        return None

    def _chain(self, file: Path, document: Document) -> dict[Path, Document]:
        """Yield a recipe, then the base that it extends, and so on."""
        seen = {file: document}
        while following := self._base(file, document):
            if following in seen or len(seen) == _MAX_CHAIN:
                chain = " → ".join(found.stem for found in (*seen, following))
                message = f"{file}: the chain of `extends` does not end: {chain}"
                raise RecipeExtendsError(message)
            file, document = following, read_document(following, RecipeExtendsError)
            seen[file] = document
        return seen

    def _base(self, file: Path, document: Document) -> Path | None:
        """Find the base of a file, in its own folder or further ones. Its own name means the next one."""
        if "extends" not in document.data:
            return None
        base = document.data["extends"]
        where = document.positions[("extends",)]
        if not isinstance(base, str) or not re.fullmatch(NAME_PATTERN.strip("^$"), base):
            message = f"{where}: `extends` must be a recipe's name; found {base!r}"
            raise RecipeExtendsError(message)
        folders = [place for folder in self._from(file) for place in (folder / "bases", folder)]
        places = [folder / f"{base}.yaml" for folder in folders]
        found = [place for place in places if place.is_file()]
        if found:
            return next((place for place in found if place != file), file)
        known = sorted({place.stem for folder in folders for place in folder.glob("*.yaml")})
        close = difflib.get_close_matches(base, known, n=1)
        message = f"{where}: extends `{base}`, but there is neither {' nor '.join(map(str, places))}"
        raise RecipeExtendsError(message, hint=f"did you mean `{close[0]}`?" if close else "")

    def _from(self, file: Path) -> tuple[Path, ...]:
        """Return the folder of a file, and the folders after it."""
        own = (depth for depth, folder in enumerate(self.folders) if file.parent in (folder, folder / "bases"))
        return self.folders[next(own) :]


def _same(file: Path, other: Path) -> bool:
    return file.is_file() and file.read_bytes() == other.read_bytes()


@dataclass
class _Merged:
    data: dict[str, Data]
    positions: dict[KeyPath, Position]

    def origins(self) -> dict[KeyPath, str]:
        files = {position.file for position in self.positions.values()}
        counts = Counter(file.name for file in files)
        names = {file: file.name if counts[file.name] == 1 else str(file) for file in files}
        found = {path: self.positions[path] for path in _leaves(self.data, ()) if path in self.positions}
        return {path: _origin(position, names) for path, position in found.items()}


def _origin(position: Position, names: Mapping[Path, str]) -> str:
    """Format a position with its file's name, or its whole path if two files have that name."""
    return str(position.file) if position is _OVERRIDE else f"{names[position.file]}:{position.line}"


def _leaves(data: Data, path: KeyPath) -> Iterable[KeyPath]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _merge_chain(documents: list[Document]) -> _Merged:
    """Merge each recipe over its base: mappings merge, everything else replaces."""
    merged = _Merged({}, {})
    for document in reversed(documents):
        own = document is documents[0]
        data = {
            key: value for key, value in document.data.items() if key != "extends" and (own or key not in _OWN_KEYS)
        }
        _lay_over(merged, data, document.positions, ())
    return merged


def _lay_over(merged: _Merged, data: dict[str, Data], positions: Mapping[KeyPath, Position], path: KeyPath) -> None:
    here = _mapping_at(merged.data, path)
    for key, value in data.items():
        place = (*path, key)
        old = here.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _lay_over(merged, value, positions, place)
            continue
        for stale in [known for known in merged.positions if known[: len(place)] == place]:
            del merged.positions[stale]
        here[key] = value
        merged.positions |= {known: found for known, found in positions.items() if known[: len(place)] == place}


def _mapping_at(data: dict[str, Data], path: KeyPath) -> dict[str, Data]:
    here = data
    for part in path:
        inner = here[str(part)]
        assert isinstance(inner, dict)  # noqa: S101 - the caller followed only mappings
        here = inner
    return here


def _apply_override(merged: _Merged, override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts):
        message = f"--set {override}: expected key=value, e.g. quantization.format=fp8"
        raise OverrideError(message)
    if parts[0] in _OWN_KEYS:
        message = f"--set {override}: `{parts[0]}` describes the recipe itself and cannot be overridden"
        raise OverrideError(message)
    try:
        value = scalar(text)
    except DocumentSyntaxError as error:
        message = f"--set {override}: {text!r} is not a value: {error.message}"
        raise OverrideError(message) from error
    if value == {}:
        message = f"--set {override}: an empty mapping changes nothing, because mappings are laid over each other"
        raise OverrideError(message, hint=f"name what to change below it: --set {key}.KEY=VALUE")
    data: dict[str, Data] = {}
    innermost = data
    for part in parts[:-1]:
        inner: dict[str, Data] = {}
        innermost[part] = inner
        innermost = inner
    innermost[parts[-1]] = value
    paths = {leaf[:length] for leaf in _leaves(data, ()) for length in range(1, len(leaf) + 1)}
    _lay_over(merged, data, dict.fromkeys(paths, _OVERRIDE), ())


def resolve_inside(root: Path, path: str) -> Path:
    """Join a path of a recipe to the project folder. An absolute path is unchanged; `~` is the home.

    Raises:
        PathEscapesError: A relative path leaves the folder.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 - `~nobody/x` stays unchanged; Path would raise
    joined = (root / expanded).resolve()
    if not Path(expanded).is_absolute() and not joined.is_relative_to(root.resolve()):
        message = f"`{path}` leaves {root}"
        raise PathEscapesError(message, hint="write an absolute path if the folder really lies elsewhere")
    return joined
