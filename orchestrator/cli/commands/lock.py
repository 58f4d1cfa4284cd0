"""Resolve a recipe's revisions to commits and write its lock."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator import __version__
from orchestrator.cli.options import recipe_argument
from orchestrator.cli.planning import lock_file_of
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import in_bytes
from orchestrator.errors import CheckFailedError, LockInvalidError
from orchestrator.hub.client import resolve_commit, snapshot
from orchestrator.recipe.lock import Lock, LockedFile, LockedRepository, hub_models, lock_text, read_lock
from orchestrator.recipe.model import HubModel, Recipe


@click.command("lock")
@recipe_argument
@click.option("--check", is_flag=True, help="Write nothing; say what moved upstream and fail if anything did.")
@click.pass_obj
def command(settings: Settings, recipe: str, check: bool) -> None:
    """Resolve RECIPE's revisions to commits and write recipes/RECIPE.lock, to be committed."""
    loaded = settings.book.load(recipe).recipe
    file = lock_file_of(settings, recipe)
    old = read_lock(file) if check else _readable(file)
    new = _resolve(loaded, old)
    moved = _moved(old, new)
    for line in moved:
        click.echo(line)
    if check:
        if moved:
            message = f"{file} is not what the Hub says now"
            raise CheckFailedError(message, hint=f"look at the changes, then: orchestrator lock {recipe}")
        click.echo(f"{file} is current")
        return
    file.write_text(lock_text(new), encoding="utf-8")
    size = sum(part.size for repository in new.repositories for part in repository.files)
    click.echo(f"wrote {file}: {len(new.repositories)} repositories, {in_bytes(size)}; commit it")


def _readable(file: Path) -> Lock | None:
    """Read the lock that is to be replaced; one that cannot be read is no reason not to replace it."""
    try:
        return read_lock(file)
    except LockInvalidError as error:
        click.echo(f"{error.message}; it is made anew", err=True)
        return None


def _resolve(recipe: Recipe, old: Lock | None) -> Lock:
    return Lock(
        recipe=recipe.name,
        repositories=tuple(_repository(model) for model in hub_models(recipe)),
        images=old.images if old else {},
        tools={"orchestrator": __version__},
    )


def _repository(model: HubModel) -> LockedRepository:
    commit = resolve_commit(model.repo, model.revision)
    files = snapshot(model.repo, commit).files
    locked = tuple(LockedFile(path=f.path, size=f.size, sha256=f.sha256, git_sha1=f.git_sha1) for f in files)
    return LockedRepository(repo=model.repo, revision=model.revision, commit=commit, files=locked)


def _moved(old: Lock | None, new: Lock) -> list[str]:
    lines = []
    for repository in new.repositories:
        name = f"{repository.repo}@{repository.revision}"
        before = old.commit_of(repository.repo, repository.revision) if old else None
        if before is None:
            lines.append(f"{name}: {repository.commit} (was not locked)")
        elif before != repository.commit:
            lines.append(f"{name}: {before} → {repository.commit}")
    return lines
