"""Reads the catalogue once: every image, target and option table of the project and the tool."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from orchestrator.catalog.image import Image, Tool
from orchestrator.catalog.project import Project
from orchestrator.catalog.resolve import Layer, resolve
from orchestrator.catalog.target import Target
from orchestrator.documents.files import read_document
from orchestrator.documents.validate import validate
from orchestrator.errors import BadInputError, CatalogError, ImageUnknownError, TargetUnknownError
from orchestrator.values import frozen


class Option(BaseModel):
    """One option of a tool, as its own help gives it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    flags: tuple[str, ...]
    """Every spelling, with dashes."""
    type: Literal["flag", "int", "float", "str"] = "str"
    choices: tuple[str, ...] = ()
    """Legal values; empty: any of the type."""


class _Images(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    images: dict[str, Image]


class _Targets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    targets: dict[str, Target]


@frozen
class Catalog:
    """Looks up images, targets and options by name."""

    project: Project

    @cached_property
    def images(self) -> Mapping[str, Image]:
        """Every image by its short name. The project's own replace those of the tool."""
        return _laid_over(self._images)

    @cached_property
    def targets(self) -> Mapping[str, Target]:
        """Every target by name. The project's own replace those of the tool."""
        return _laid_over(self._targets)

    def image(self, name: str) -> Image:
        """Find an image, or raise with the known names."""
        return _find(self.images, name, "image", self.project.image_files, ImageUnknownError)

    def target(self, name: str) -> Target:
        """Find a target, or raise with the known names."""
        return _find(self.targets, name, "target", self.project.target_files, TargetUnknownError)

    def options(self, image: Image, tool: Tool) -> Mapping[str, Option]:
        """Return the options of an image's tool by every spelling (`--max_batch_size`)."""
        return _by_flag(self.project.tables(image.tools[tool].options)[0])

    def shadows_image(self, name: str) -> Path | None:
        """Return the file whose image replaces another of that name, if any."""
        return _shadowing(self._images, name)

    def shadows_target(self, name: str) -> Path | None:
        """Return the file whose target replaces another of that name, if any."""
        return _shadowing(self._targets, name)

    def shadows_options(self, table: str) -> Path | None:
        """Return the table of options that replaces another of that name, if any."""
        files = self.project.tables(table)
        differs = len(files) > 1 and len({file.read_bytes() for file in files}) > 1
        return files[0] if differs else None

    @cached_property
    def _images(self) -> Mapping[Path, Mapping[str, Image]]:
        found: dict[Path, Mapping[str, Image]] = {}
        layer = Layer()
        for file in self.project.image_files:
            document = read_document(file, CatalogError)
            own, layer = resolve(document, layer)
            found[file] = validate(_Images, own, document.positions, CatalogError).images
        return found

    @cached_property
    def _targets(self) -> Mapping[Path, Mapping[str, Target]]:
        documents = {file: read_document(file, CatalogError) for file in self.project.target_files}
        return {
            file: validate(_Targets, dict(document.data), document.positions, CatalogError).targets
            for file, document in documents.items()
        }


Entry = TypeVar("Entry")


def _laid_over(files: Mapping[Path, Mapping[str, Entry]]) -> Mapping[str, Entry]:
    return {name: entry for entries in files.values() for name, entry in entries.items()}


def _shadowing(files: Mapping[Path, Mapping[str, Entry]], name: str) -> Path | None:
    """Find the last file with an entry, if an earlier file has another entry of that name."""
    having = [file for file, entries in files.items() if name in entries]
    differs = any(files[file][name] != files[having[-1]][name] for file in having[:-1])
    return having[-1] if differs else None


def _find(
    entries: Mapping[str, Entry], name: str, kind: str, files: tuple[Path, ...], error: type[BadInputError]
) -> Entry:
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(entries))}"
    message = f"no {kind} is called `{name}` (looked in {', '.join(map(str, reversed(files)))})"
    raise error(message, hint=hint)


_TABLE = TypeAdapter(tuple[Option, ...], config=ConfigDict(defer_build=True))


@cache  # many recipes share a table, and the files do not change during a run
def _by_flag(file: Path) -> Mapping[str, Option]:
    return MappingProxyType({flag: option for option in _table(file) for flag in option.flags})


def _table(file: Path) -> tuple[Option, ...]:
    try:
        return _TABLE.validate_json(file.read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        message = f"{file}: not a table of options: {error}"
        raise CatalogError(message) from error
