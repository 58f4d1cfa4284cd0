"""Resolves a recipe's revisions, files and image tags, and writes its lock."""

from __future__ import annotations

import click

from orchestrator.app.locking import resolve_lock, write_lock
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.options import recipe_argument
from orchestrator.errors import LockDriftError
from orchestrator.recipe.lock import Lock
from orchestrator.units import in_bytes


@click.command("lock")
@recipe_argument
@click.option("--check", is_flag=True, help="Write nothing. Show what changed upstream; exit status 7 if anything did.")
@click.pass_obj
def command(settings: Settings, recipe: RecipeName, check: bool) -> None:
    """Resolve RECIPE and write its lock: recipes/RECIPE.lock in the project, or beside the recipe's file. Commit it.

    The lock lists the commit of each repository, the size and digest of every file, the digests of each image, and the
    digest of the recipe. `build --locked` uses nothing else.
    """
    found = resolve_lock(settings, recipe, check=check)
    if found.unreadable:
        click.echo(f"{found.unreadable}; it is created again", err=True)
    for line in found.changes:
        click.echo(line)
    if not check:
        write_lock(found)
        click.echo(f"wrote {found.file}: {_summary(found.new)}; commit it")
    elif found.changes:
        message = f"{found.file} differs from the recipe, the Hub or the registries"
        raise LockDriftError(message, hint=f"check the changes, then: orchestrator lock {recipe}")
    else:
        click.echo(f"{found.file} is current")


def _summary(lock: Lock) -> str:
    size = sum(part.size for repository in lock.repositories for part in repository.files)
    local = sum(len(place.files) for place in lock.local)
    counts = [f"{len(lock.repositories)} repositories, {in_bytes(size)}" if lock.repositories else "no repository"]
    counts += [f"{len(lock.images)} images" if lock.images else "no image"]
    counts += [f"{local} local files"] if local else []
    return ", ".join(counts)
