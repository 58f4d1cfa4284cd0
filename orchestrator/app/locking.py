"""Resolves a recipe's revisions, files and image tags, and writes its lock."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator import __version__
from orchestrator.app.make_plan import make_plan
from orchestrator.app.planning import files_of, images_of, local_places, lock_file_of
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import LockInvalidError, machine_faults
from orchestrator.hub.snapshot import resolve_commit, snapshot
from orchestrator.hub.trust import require_trusted_commit
from orchestrator.libraries import installed
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
from orchestrator.registry.digests import image_digests
from orchestrator.steps.sources import Source, sources
from orchestrator.store.fingerprint import sha256_of
from orchestrator.store.temporary import replacing, sweep_temporaries
from orchestrator.values import frozen

_TOOLS = ("huggingface_hub", "python-dxf")


@frozen
class ResolvedLock:
    """A recipe's lock as it would be written now."""

    file: Path
    new: Lock
    changes: tuple[str, ...]
    """The differences from the lock file, each as a line."""
    unreadable: str = ""
    """Why the lock file cannot be read; empty if it can, or if there is none."""


def resolve_lock(settings: Settings, recipe: RecipeName, *, check: bool = False) -> ResolvedLock:
    """Resolve a recipe through the Hub and the registries, and compare the result with its lock file.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        check: Require a readable lock of this recipe.

    Raises:
        LockDriftError: With `check`, there is no lock, or it belongs to another recipe.
        HubError: The Hub does not answer, or has no such revision.
        UntrustedCodeError: The recipe trusts the code of another commit.
    """
    loaded = settings.load(recipe).recipe
    file = lock_file_of(settings, recipe)
    old, unreadable = None, ""
    try:
        old = read_lock(file)
    except LockInvalidError as error:
        if check:
            raise
        unreadable = error.message
    if check:
        old = require_lock(old, loaded, file)
    new = _resolve(settings, loaded)
    return ResolvedLock(file, new, moved(old, new), unreadable)


def write_lock(resolved: ResolvedLock) -> None:
    """Write a lock file. An existing file stays complete until the new one is.

    Raises:
        MachineError: The file cannot be written.
    """
    with machine_faults("writing the lock"):
        resolved.file.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(resolved.file.parent)
        with replacing(resolved.file) as fresh:
            fresh.write_text(lock_text(resolved.new), encoding="utf-8")


def _resolve(settings: Settings, recipe: Recipe) -> Lock:
    plan = make_plan(recipe, settings.catalog, None)  # a lock lists files and images, and needs no sizes
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
            **{name: installed(name) for name in _TOOLS},
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
    reference = settings.catalog.image(name).reference
    found = image_digests(reference)
    return LockedImage(
        reference=reference,
        index=found.index,
        amd64=found.platforms.get("amd64"),
        arm64=found.platforms.get("arm64"),
        sizes={name: found.sizes[name] for name in ("amd64", "arm64") if name in found.sizes},
    )
