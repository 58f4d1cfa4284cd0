"""Resolve what a recipe leaves open — revisions, files, image tags — and write its lock."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import click

from orchestrator import __version__
from orchestrator.cli.options import recipe_argument
from orchestrator.cli.planning import images_of, lock_file_of
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import in_bytes
from orchestrator.errors import LockDriftError, LockInvalidError
from orchestrator.hub.snapshot import resolve_commit, snapshot
from orchestrator.hub.trust import insist_on_commit
from orchestrator.plan import make_plan
from orchestrator.recipe.lock import (
    Lock,
    LockedFile,
    LockedImage,
    LockedRepository,
    lock_text,
    moved,
    read_lock,
    recipe_digest,
)
from orchestrator.recipe.model import Recipe
from orchestrator.steps.sources import Source, sources

_TOOLS = ("huggingface_hub", "python-dxf")


@click.command("lock")
@recipe_argument
@click.option(
    "--check", is_flag=True, help="Write nothing; say what moved upstream and fail (status 7) if anything did."
)
@click.pass_obj
def command(settings: Settings, recipe: str, check: bool) -> None:
    """Resolve RECIPE and write recipes/RECIPE.lock, to be committed.

    The lock has the commit of each repository with size and digest of every file, the digests of each image, and the
    digest of the recipe itself. `build --locked` uses nothing else.
    """
    loaded = settings.book.load(recipe).recipe
    file = lock_file_of(settings, recipe)
    old = read_lock(file) if check else _readable(file)
    new = _resolve(settings, loaded)
    changes = moved(old, new)
    for line in changes:
        click.echo(line)
    if check:
        if changes:
            message = f"{file} is not what the recipe, the Hub and the registries say now"
            raise LockDriftError(message, hint=f"look at the changes, then: orchestrator lock {recipe}")
        click.echo(f"{file} is current")
        return
    _write(file, lock_text(new))
    size = sum(part.size for repository in new.repositories for part in repository.files)
    counts = f"{len(new.repositories)} repositories, {in_bytes(size)}, {len(new.images)} images"
    click.echo(f"wrote {file}: {counts}; commit it")


def _readable(file: Path) -> Lock | None:
    """Read the lock that is to be replaced; one that cannot be read is no reason not to replace it."""
    try:
        return read_lock(file)
    except LockInvalidError as error:
        click.echo(f"{error.message}; it is made anew", err=True)
        return None


def _resolve(settings: Settings, recipe: Recipe) -> Lock:
    images = images_of(settings, make_plan(recipe, settings.catalog, None))
    return Lock(
        recipe=recipe.name,
        recipe_digest=recipe_digest(recipe),
        repositories=tuple(_repository(source) for source in sources(recipe).values()),
        images={name: _image(settings, name) for name in images},
        tools={
            "orchestrator": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _TOOLS},
        },
    )


def _repository(source: Source) -> LockedRepository:
    commit = resolve_commit(source.repo, source.revision, source.kind)
    insist_on_commit(source.repo, commit, source.trusted)
    files = snapshot(source.repo, commit, source.include, source.kind).files
    locked = tuple(LockedFile(path=f.path, size=f.size, sha256=f.sha256, git_sha1=f.git_sha1) for f in files)
    return LockedRepository(repo=source.repo, kind=source.kind, revision=source.revision, commit=commit, files=locked)


def _image(settings: Settings, name: str) -> LockedImage:
    from orchestrator.registry.digests import image_digests  # noqa: PLC0415 - loads the Docker SDK, as few recipes need

    reference = settings.catalog.image(name).reference
    found = image_digests(reference)
    return LockedImage(
        reference=reference,
        index=found.index,
        amd64=found.platforms.get("amd64"),
        arm64=found.platforms.get("arm64"),
    )


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
