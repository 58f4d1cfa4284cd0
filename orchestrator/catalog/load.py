"""The catalogue: every image, target and option table, read once from the project's files."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from orchestrator.catalog.image import Image, Tool
from orchestrator.catalog.project import Project
from orchestrator.catalog.resolve import resolve
from orchestrator.catalog.target import Target
from orchestrator.documents.files import read_document
from orchestrator.documents.validate import validate
from orchestrator.errors import BadInputError, CatalogError, ImageUnknownError, TargetUnknownError


class Option(BaseModel):
    """One option of a tool, as its own help gives it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flags: tuple[str, ...]
    """Every spelling, with dashes."""
    type: Literal["flag", "int", "float", "str"] = "str"
    choices: tuple[str, ...] = ()
    """Legal values; empty: any of the type."""


class _Images(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    images: dict[str, Image]


class _Targets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: dict[str, Target]


@dataclass(frozen=True)
class Catalog:
    """Looks up images, targets and options by name."""

    project: Project

    @cached_property
    def images(self) -> Mapping[str, Image]:
        """Every image by its short name."""
        document = read_document(self.project.images_file, CatalogError)
        return validate(_Images, resolve(document), document.positions, CatalogError).images

    @cached_property
    def targets(self) -> Mapping[str, Target]:
        """Every target by name; the user's own win over the built-in ones."""
        found: dict[str, Target] = {}
        for file in self.project.target_files:
            document = read_document(file, CatalogError)
            found |= validate(_Targets, dict(document.data), document.positions, CatalogError).targets
        return found

    def image(self, name: str) -> Image:
        """Find an image, or say which names there are."""
        return _find(self.images, name, "image", self.project.images_file, ImageUnknownError)

    def target(self, name: str) -> Target:
        """Find a target, or say which names there are."""
        return _find(self.targets, name, "target", self.project.target_files[-1], TargetUnknownError)

    def options(self, image: Image, tool: Tool) -> Mapping[str, Option]:
        """Give the options of an image's tool by every spelling (`--max_batch_size`)."""
        return _by_flag(self.project.tools / f"{image.tools[tool].options}.json")


Entry = TypeVar("Entry")


def _find(entries: Mapping[str, Entry], name: str, kind: str, file: Path, error: type[BadInputError]) -> Entry:
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(entries))}"
    message = f"no {kind} is called `{name}` (looked in {file})"
    raise error(message, hint=hint)


_TABLE = TypeAdapter(tuple[Option, ...])


@cache  # many recipes share a table, and the files do not change while we run
def _by_flag(file: Path) -> Mapping[str, Option]:
    return MappingProxyType({flag: option for option in _table(file) for flag in option.flags})


def _table(file: Path) -> tuple[Option, ...]:
    try:
        return _TABLE.validate_json(file.read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        message = f"{file}: not a table of options: {error}"
        raise CatalogError(message) from error
