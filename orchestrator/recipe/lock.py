"""Defines a recipe's lock: a commit for each revision, size and digest for each file, a digest for each image.

It is committed and reviewed. Unresolved entries are left out, and nothing is invented.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import LockDriftError, LockInvalidError
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.recipe.names import ENDING

_DIGEST = "^sha256:[0-9a-f]{64}$"
_DIGEST_FORMAT = 1
_ModelType = TypeVar("_ModelType", bound=BaseModel)
_DESCRIPTIVE = frozenset({"description", "formerly", "expected_refusals"})
"""Fields about the recipe itself that do not affect its results."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class LockedFile(_Part):
    """A file of a repository."""

    path: str
    size: int = Field(ge=0)
    sha256: str | None = None
    """Digest of a large file."""
    git_sha1: str
    """Digest of a small file's git blob."""


class LockedRepository(_Part):
    """A revision, resolved."""

    repo: str
    kind: Literal["model", "dataset"] = "model"
    revision: str
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    files: tuple[LockedFile, ...]


class LockedImage(_Part):
    """A tag, resolved."""

    reference: str
    """The tag."""
    index: str = Field(pattern=_DIGEST)
    """The digest to pull by: of its index, or of the one image if there is no index."""
    amd64: str | None = Field(default=None, pattern=_DIGEST)
    """Digest of the image for x86-64."""
    arm64: str | None = Field(default=None, pattern=_DIGEST)
    """Digest of the image for Arm."""
    sizes: dict[str, int] = {}
    """Bytes to pull, by processor: of the image's layers in the registry."""


class LockedContent(_Part):
    """A file of this project or machine."""

    path: str
    """Its path below the recipe's path."""
    size: int = Field(ge=0)
    sha256: str


class LockedPlace(_Part):
    """A model's folder, or a calibration text file, of the project or the machine."""

    path: str
    """Its path in the recipe."""
    files: tuple[LockedContent, ...]


class Lock(_Part):
    """A lock file."""

    format: int = Field(default=1, ge=1, le=1)
    recipe: str
    recipe_digest: str = Field(default="", pattern=f"{_DIGEST}|^$")
    """Digest of the resolved recipe."""
    repositories: tuple[LockedRepository, ...]
    images: dict[str, LockedImage] = {}
    """By the image's name in the catalogue."""
    local: tuple[LockedPlace, ...] = ()
    """Files that are not from a repository."""
    tools: dict[str, str] = {}
    """The versions that resolved it."""

    def find(self, repo: str, revision: str, kind: str = "model") -> LockedRepository | None:
        """Return the locked entry of a revision, or of its commit."""
        for repository in self.repositories:
            if (repository.repo, repository.kind) == (repo, kind) and revision in (
                repository.revision,
                repository.commit,
            ):
                return repository
        return None

    def commit_of(self, repo: str, revision: str, kind: str = "model") -> str | None:
        """Return the commit of a revision, if it is locked."""
        found = self.find(repo, revision, kind)
        return found.commit if found else None

    @property
    def image_digests(self) -> Mapping[str, str]:
        """Return the digest to pull for each image."""
        return {name: image.index for name, image in self.images.items()}

    def image_sizes(self, architecture: str) -> Mapping[str, int]:
        """Return the bytes to pull for each image, if the lock has them."""
        return {name: image.sizes[architecture] for name, image in self.images.items() if architecture in image.sizes}


def hub_models(recipe: Recipe) -> tuple[HubModel, ...]:
    """List a recipe's model repositories on the Hub: the model, then the draft model."""
    draft = getattr(recipe.serve.speculative, "draft", None)
    return tuple(model for model in (recipe.model, draft) if isinstance(model, HubModel))


def recipe_digest(recipe: Recipe) -> str:
    """Calculate the digest of a resolved recipe.

    Default values are left out, so a new key of the schema changes nothing, and neither does
    writing a default. Fields about the recipe itself are left out, too.
    """
    fields = recipe.model_dump(mode="json", exclude_defaults=True, exclude=set(_DESCRIPTIVE))
    text = json.dumps({"format": _DIGEST_FORMAT, "recipe": fields}, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def lock_text(lock: Lock) -> str:
    """Write a lock in canonical form."""
    return json.dumps(_without_nothing(lock.model_dump()), indent=1, ensure_ascii=False) + "\n"


def read_lock(file: Path) -> Lock | None:
    """Read a lock; None if there is none.

    Raises:
        LockInvalidError: It cannot be read.
    """
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        message = f"{file} is a folder"
        raise LockInvalidError(message, hint="move it away") from error
    try:
        return Lock.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = ": ".join(filter(None, (str(file), ".".join(str(part) for part in first["loc"]), first["msg"])))
        raise LockInvalidError(message, hint=_make_again(file)) from error


def check_lock(lock: Lock | None, recipe: Recipe, file: Path) -> Lock:
    """Check a lock against its recipe, for a build that may use nothing else.

    Args:
        lock: The lock.
        recipe: The resolved recipe of the file.
        file: The lock's path.

    Raises:
        LockDriftError: There is no lock, or it belongs to another state of the recipe.
        LockInvalidError: It belongs to another recipe.
    """
    lock = require_lock(lock, recipe, file)
    check_lock_owner(lock, recipe, file)
    if lock.recipe_digest != recipe_digest(recipe):
        message = f"{file} belongs to another state of the recipe, which has changed since"
        raise LockDriftError(message, hint=f"look at the recipe's history, then {_make_again(file)}")
    return lock


def require_lock(lock: Lock | None, recipe: Recipe, file: Path) -> Lock:
    """Refuse to continue without a lock.

    Raises:
        LockDriftError: There is none.
    """
    if lock is None:
        message = f"{recipe.name} has no lock: {file} does not exist"
        raise LockDriftError(message, hint=f"make it: orchestrator lock {_named(file)}")
    return lock


def check_lock_owner(lock: Lock, recipe: Recipe, file: Path) -> None:
    """Refuse the lock of another recipe.

    Raises:
        LockInvalidError: It is one.
    """
    if lock.recipe != recipe.name:
        message = f"{file} belongs to the recipe `{lock.recipe}`, not to `{recipe.name}`"
        raise LockInvalidError(message, hint=_make_again(file))


def pin(recipe: Recipe, lock: Lock, file: Path) -> Recipe:
    """Replace revisions by the locked commits.

    Raises:
        LockInvalidError: The lock belongs to another recipe or to an older state of this one.
    """
    check_lock_owner(lock, recipe, file)
    commits: dict[tuple[str, str], str] = {}
    for model in hub_models(recipe):
        commit = lock.commit_of(model.repo, model.revision)
        if commit is None:
            message = f"{file} does not know {model.repo}@{model.revision}: the recipe has changed since"
            raise LockInvalidError(message, hint=_make_again(file))
        commits[(model.repo, model.revision)] = commit
    return pin_commits(recipe, commits)


def pin_commits(recipe: Recipe, commits: dict[tuple[str, str], str]) -> Recipe:
    """Replace known revisions by commits; keep the others."""
    paths = ("model", "serve.speculative.draft")
    for path, model in zip(paths, (recipe.model, getattr(recipe.serve.speculative, "draft", None)), strict=True):
        if isinstance(model, HubModel):
            recipe = _changed(recipe, f"{path}.revision", commits.get((model.repo, model.revision), model.revision))
    return recipe


def pin_calibration(recipe: Recipe, commit: str) -> Recipe:
    """Replace the revision of the calibration text by a commit."""
    return _changed(recipe, "quantization.calibration.revision", commit)


def pin_held_out(recipe: Recipe, commit: str) -> Recipe:
    """Replace the revision of the held-out text by a commit."""
    return _changed(recipe, "checks.held_out.revision", commit) if recipe.checks.held_out else recipe


def _changed(part: _ModelType, path: str, value: str) -> _ModelType:
    """Copy a part of a recipe with another value at a path of field names."""
    name, _, rest = path.partition(".")
    return part.model_copy(update={name: _changed(getattr(part, name), rest, value) if rest else value})


def moved(old: Lock | None, new: Lock) -> tuple[str, ...]:
    """List the differences between a lock and an older one, line by line."""
    return tuple(_moved(old or Lock(recipe=new.recipe, repositories=()), new))


def _moved(old: Lock, new: Lock) -> Iterator[str]:
    if old.recipe_digest != new.recipe_digest:
        yield f"recipe: {old.recipe_digest or 'not locked'} → {new.recipe_digest}"
    for repository in new.repositories:
        yield from _moved_repository(old.find(repository.repo, repository.revision, repository.kind), repository)
    for name, image in sorted(new.images.items()):
        was = old.images.get(name)
        if was is None:
            yield f"image {name}: {image.reference} is {image.index} (was not locked)"
        elif (
            was.model_copy(update={"sizes": image.sizes}) != image
        ):  # the digests identify them, and older locks have none
            yield f"image {name}: {was.reference} {was.index} → {image.reference} {image.index}"
    yield from _moved_places(old, new)
    locked = {(repository.repo, repository.revision, repository.kind) for repository in new.repositories}
    for repository in old.repositories:
        if (repository.repo, repository.revision, repository.kind) not in locked:
            yield f"{repository.repo}@{repository.revision}: no longer used"
    for name in sorted(old.images.keys() - new.images.keys()):
        yield f"image {name}: no longer used"


def _moved_repository(old: LockedRepository | None, new: LockedRepository) -> Iterator[str]:
    name = f"{new.repo}@{new.revision}"
    if old is None:
        yield f"{name}: {new.commit} (was not locked)"
        return
    if old.commit != new.commit:
        yield f"{name}: {old.commit} → {new.commit}"
    yield from _moved_files(old, new)


def _moved_places(old: Lock, new: Lock) -> Iterator[str]:
    before = {place.path: place for place in old.local}
    for place in new.local:
        yield from _moved_place(before.pop(place.path, None), place)
    for path in before:
        yield f"{path}: no longer used"


def _moved_place(old: LockedPlace | None, new: LockedPlace) -> Iterator[str]:
    if old is None:
        yield f"{new.path}: {len(new.files)} files (was not locked)"
    elif old != new:
        yield f"{new.path}:"
        yield from _moved_files(old, new)


def _moved_files(old: LockedRepository | LockedPlace, new: LockedRepository | LockedPlace) -> Iterator[str]:
    before, after = ({file.path: file for file in repository.files} for repository in (old, new))
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield f"  {path}: is gone"
        elif path not in before:
            yield f"  {path}: is new, {after[path].size} bytes"
        elif before[path] != after[path]:
            name = f"{path}: " if path else ""
            yield f"  {name}{before[path].size} → {after[path].size} bytes, its content changed"


def _make_again(file: Path) -> str:
    return f"make it again: orchestrator lock {_named(file)}"


def _named(file: Path) -> str:
    """Return a recipe's name on the command line: those of a folder `recipes` have names, others are files."""
    return file.stem if file.parent.name == "recipes" else str(file.with_name(f"{file.stem}{ENDING}"))


def _without_nothing(value: object) -> object:
    """Leave out null values, which do not help reviewers."""
    if isinstance(value, dict):
        return {name: _without_nothing(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nothing(part) for part in value]
    return value
