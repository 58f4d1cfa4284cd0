"""Resolves a recipe's revisions, files and image tags, and writes its lock."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import click

from orchestrator import __version__
from orchestrator.app.named import Named
from orchestrator.app.plan import make_plan
from orchestrator.app.planning import files_of, images_of, local_places, lock_file_of
from orchestrator.app.settings import Settings
from orchestrator.cli.options import recipe_argument
from orchestrator.errors import LockDriftError, LockInvalidError, machine_faults
from orchestrator.hub.snapshot import resolve_commit, snapshot
from orchestrator.hub.trust import require_trusted_commit
from orchestrator.recipe.lock import (
    Lock,
    LockedContent,
    LockedFile,
    LockedImage,
    LockedPlace,
    LockedRepository,
    lock_text,
    moved,
    read_lock,
    recipe_digest,
    require_lock,
)
from orchestrator.recipe.model import Recipe
from orchestrator.steps.sources import Source, sources
from orchestrator.store.fingerprint import sha256_of
from orchestrator.store.temporary import replacing, sweep_temporaries
from orchestrator.units import in_bytes

_TOOLS = ("huggingface_hub", "python-dxf")


@click.command("lock")
@recipe_argument
@click.option(
    "--check", is_flag=True, help="Write nothing; say what moved upstream and fail (status 7) if anything did."
)
@click.pass_obj
def command(settings: Settings, recipe: Named, check: bool) -> None:
    """Resolve RECIPE and write its lock, to be committed: recipes/RECIPE.lock of the project, or beside its file.

    The lock has the commit of each repository with size and digest of every file, the digests of each image, size and
    digest of every file that the recipe takes from the project, and the digest of the recipe itself.
    `build --locked` uses nothing else.
    """
    loaded = settings.load(recipe).recipe
    file = lock_file_of(settings, recipe)
    old = require_lock(read_lock(file), loaded, file) if check else _readable(file)
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
    local = sum(len(place.files) for place in new.local)
    counts = [f"{len(new.repositories)} repositories, {in_bytes(size)}" if new.repositories else "no repository"]
    counts += [f"{len(new.images)} images" if new.images else "no image"]
    counts += [f"{local} local files"] if local else []
    click.echo(f"wrote {file}: {', '.join(counts)}; commit it")


def _readable(file: Path) -> Lock | None:
    """Read the lock that will be replaced. An unreadable lock is replaced, too."""
    try:
        return read_lock(file)
    except LockInvalidError as error:
        click.echo(f"{error.message}; it is created again", err=True)
        return None


def _resolve(settings: Settings, recipe: Recipe) -> Lock:
    plan = make_plan(recipe, settings.catalog, None)
    images = images_of(settings, plan)
    return Lock(
        recipe=recipe.name,
        recipe_digest=recipe_digest(recipe),
        repositories=tuple(_repository(source) for source in sources(recipe).values()),
        images={name: _image(settings, name) for name in images},
        local=tuple(_place(path, place) for path, place in local_places(plan).items()),
        tools={
            "orchestrator": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _TOOLS},
        },
    )


def _repository(source: Source) -> LockedRepository:
    commit = resolve_commit(source.repo, source.revision, source.kind)
    require_trusted_commit(source.repo, commit, source.trusted)
    files = snapshot(source.repo, commit, source.include, source.kind).files
    locked = tuple(LockedFile(path=f.path, size=f.size, sha256=f.sha256, git_sha1=f.git_sha1) for f in files)
    return LockedRepository(repo=source.repo, kind=source.kind, revision=source.revision, commit=commit, files=locked)


def _place(path: str, place: Path) -> LockedPlace:
    """Hash a recipe's files of the project or the machine, several at once."""
    found = dict(files_of(place))
    with ThreadPoolExecutor(4) as pool:
        digests = pool.map(sha256_of, found.values())
    files = tuple(
        LockedContent(path=name, size=file.stat().st_size, sha256=digest)
        for (name, file), digest in zip(found.items(), digests, strict=True)
    )
    return LockedPlace(path=path, files=files)


def _image(settings: Settings, name: str) -> LockedImage:
    from orchestrator.registry.digests import image_digests  # noqa: PLC0415 - loads the Docker SDK

    reference = settings.catalog.image(name).reference
    found = image_digests(reference)
    return LockedImage(
        reference=reference,
        index=found.index,
        amd64=found.platforms.get("amd64"),
        arm64=found.platforms.get("arm64"),
        sizes={name: found.sizes[name] for name in ("amd64", "arm64") if name in found.sizes},
    )


def _write(file: Path, text: str) -> None:
    with machine_faults("writing the lock"):
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(file.parent)
        with replacing(file) as fresh:
            fresh.write_text(text, encoding="utf-8")
