"""The resolved twin of a recipe: a commit for each revision, a size and digest for each file, a digest for each image.

Made to be committed and read in a review. What has not been resolved is not in it: nothing is invented.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import LockInvalidError
from orchestrator.recipe.model import HubModel, Recipe


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LockedFile(_Part):
    """A file of a repository."""

    path: str
    size: int = Field(ge=0)
    sha256: str | None = None
    """Of a large file."""
    git_sha1: str
    """Of a small file's git blob."""


class LockedRepository(_Part):
    """A revision, resolved."""

    repo: str
    revision: str
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    files: tuple[LockedFile, ...]


class Lock(_Part):
    """A lock file."""

    format: int = Field(default=1, ge=1, le=1)
    recipe: str
    repositories: tuple[LockedRepository, ...]
    images: dict[str, str] = {}
    """Per image of the catalogue, the digest of its index: `sha256:…`."""
    tools: dict[str, str] = {}
    """The versions that resolved it."""

    def commit_of(self, repo: str, revision: str) -> str | None:
        """Give the commit of a revision, if it is locked."""
        for repository in self.repositories:
            if (repository.repo, repository.revision) == (repo, revision):
                return repository.commit
        return None


def hub_models(recipe: Recipe) -> tuple[HubModel, ...]:
    """Name every repository that a recipe takes from the Hub: the model, then the draft model."""
    draft = getattr(recipe.serve.speculative, "draft", None)
    return tuple(model for model in (recipe.model, draft) if isinstance(model, HubModel))


def lock_text(lock: Lock) -> str:
    """Write a lock down, in one way."""
    return json.dumps(lock.model_dump(), indent=1, ensure_ascii=False) + "\n"


def read_lock(file: Path) -> Lock | None:
    """Read a lock; None where there is none.

    Raises:
        LockInvalidError: Where it cannot be read.
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
        raise LockInvalidError(message, hint=f"make it again: orchestrator lock {file.stem}") from error


def pin(recipe: Recipe, lock: Lock, file: Path) -> Recipe:
    """Put the locked commits in place of the revisions.

    Raises:
        LockInvalidError: Where the lock belongs to another recipe or to an older state of this one.
    """
    hint = f"make it again: orchestrator lock {recipe.name}"
    if lock.recipe != recipe.name:
        message = f"{file} belongs to the recipe `{lock.recipe}`, not to `{recipe.name}`"
        raise LockInvalidError(message, hint=hint)
    commits: dict[tuple[str, str], str] = {}
    for model in hub_models(recipe):
        commit = lock.commit_of(model.repo, model.revision)
        if commit is None:
            message = f"{file} does not know {model.repo}@{model.revision}: the recipe has changed since"
            raise LockInvalidError(message, hint=hint)
        commits[(model.repo, model.revision)] = commit
    return pin_commits(recipe, commits)


def pin_commits(recipe: Recipe, commits: dict[tuple[str, str], str]) -> Recipe:
    """Put commits in place of the revisions that are known; keep the others."""

    def pinned(model: HubModel) -> HubModel:
        return model.model_copy(update={"revision": commits.get((model.repo, model.revision), model.revision)})

    if isinstance(recipe.model, HubModel):
        recipe = recipe.model_copy(update={"model": pinned(recipe.model)})
    draft = getattr(recipe.serve.speculative, "draft", None)
    if isinstance(draft, HubModel) and recipe.serve.speculative:
        speculative = recipe.serve.speculative.model_copy(update={"draft": pinned(draft)})
        serve = recipe.serve.model_copy(update={"speculative": speculative})
        recipe = recipe.model_copy(update={"serve": serve})
    return recipe
