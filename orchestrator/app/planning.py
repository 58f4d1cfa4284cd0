"""Turns a recipe's name into its plan, with the lock if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.app.make_plan import ExecutorName, Plan, make_plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.sizes import fetch_sizes, sizes_of
from orchestrator.errors import FolderMissingError, LockDriftError, Refusal
from orchestrator.hub.listing import RemoteFile, Snapshot, listing_text
from orchestrator.planner.queueing import Targets
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.lock import (
    Lock,
    LockedRepository,
    check_lock,
    pin,
    pin_calibration,
    pin_held_out,
    read_lock,
)
from orchestrator.recipe.model import Recipe
from orchestrator.steps.sources import sources, with_listing
from orchestrator.store.fingerprint import sha256_of
from orchestrator.values import frozen

_HASHED_ALWAYS = 64 << 20
"""Files up to this many bytes are hashed at each locked build. `lock --check` hashes all."""


@frozen
class Planned:
    """A recipe, its lock and its plan."""

    recipe: RecipeName
    loaded: LoadedRecipe
    lock_file: Path
    lock: Lock | None
    plan: Plan
    executor: ExecutorName | None
    """Where to run the steps that can run in more than one place."""


def lock_file_of(settings: Settings, recipe: RecipeName) -> Path:
    """Return the path of a recipe's lock: beside its file, or in the project for a recipe of the tool."""
    return recipe.lock_file or settings.project.recipes / f"{recipe.name}.lock"


def plan(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str] = (),
    executor: ExecutorName | None = None,
    *,
    targets: Targets | None = None,
    locked: bool = False,
    asks_hub: bool = False,
) -> Planned:
    """Plan a recipe by arithmetic, without Docker or GPU. A revision without a lock stays a branch or tag.

    A plan that cannot work is returned as well: see `Plan.refusals`, or call `Plan.raise_refusals`.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run the steps that can run in more than one place.
        targets: The times that users accept.
        locked: Require a lock that belongs to the recipe and resolves everything.
        asks_hub: Read the headers of models whose sizes are not known from the Hub. Without it, no network is used.

    Raises:
        RecipeUnknownError: There is no such recipe.
        RecipeInvalidError: Its text is not valid, or an override is not.
        LockDriftError: With `locked`, the lock does not fit the recipe.
    """
    loaded = settings.load(recipe, overrides)
    lock_file = lock_file_of(settings, recipe)
    lock = read_lock(lock_file)
    if locked:
        lock = check_lock(lock, settings.load(recipe).recipe, lock_file)
    pinned = _pin_all(loaded.recipe, lock, lock_file) if lock else loaded.recipe
    if asks_hub:
        fetch_sizes(settings, pinned)
    made = plan_with_lock(settings, pinned, lock, executor, targets)
    if locked and lock:
        _check_lock_is_complete(made, recipe, lock, lock_file)
    return Planned(recipe, loaded, lock_file, lock, made, executor)


def unexpected_refusals(made: Plan) -> tuple[Refusal, ...]:
    """List the refusals that the recipe does not expect, and one for each expected refusal that does not occur."""
    expected = made.recipe.expected_refusals
    found = {refusal.code for refusal in made.refusals}
    return (
        *(refusal for refusal in made.refusals if refusal.code not in expected),
        *(
            Refusal(
                "NOT_REFUSED",
                f"{made.recipe.name} expects the refusal {code}, but it is not refused",
                "remove it from the recipe",
            )
            for code in expected
            if code not in found
        ),
    )


def images_of(settings: Settings, made: Plan) -> tuple[str, ...]:
    """Name the catalogue's images that a plan pulls to build and to serve, or their base images."""
    found: dict[str, None] = {}
    server = made.recipe.image if made.target.gpu else None
    for name in (*(placed.step.image for placed in made.steps), server):
        if name is not None:
            build = settings.catalog.image(name).build
            found[build.base if build else name] = None
    return tuple(found)


def plan_with_lock(
    settings: Settings,
    recipe: Recipe,
    lock: Lock | None,
    executor: ExecutorName | None,
    targets: Targets | None = None,
) -> Plan:
    """Plan a recipe with the files and images of its lock."""
    find = sizes_of(settings)
    made = make_plan(
        recipe, settings.catalog, lock, find=find, executor=executor, secrets=settings.secrets, targets=targets
    )
    if lock is None:
        return made
    listings = dict(_listings(recipe, lock))
    steps = tuple(
        replace(placed, step=with_listing(placed.step, listings[placed.step.name]))
        if placed.step.name in listings
        else placed
        for placed in made.steps
    )
    return replace(made, steps=steps)


def snapshot_of(known: LockedRepository) -> Snapshot:
    """Convert a lock's entry to the Hub's type."""
    files = tuple(RemoteFile(file.path, file.size, file.sha256, file.git_sha1) for file in known.files)
    return Snapshot(known.repo, known.kind, known.commit, files)


def _listings(recipe: Recipe, lock: Lock) -> Iterator[tuple[str, str]]:
    for step, source in sources(recipe).items():
        known = lock.find(source.repo, source.revision, source.kind)
        if known and known.commit == source.revision:
            yield step, listing_text(snapshot_of(known))


def _pin_all(recipe: Recipe, lock: Lock, lock_file: Path) -> Recipe:
    recipe = pin(recipe, lock, lock_file)
    wanted = sources(recipe)
    for step, put in (("download-calibration", pin_calibration), ("download-held-out", pin_held_out)):
        text = wanted.get(step)
        commit = lock.commit_of(text.repo, text.revision, "dataset") if text else None
        recipe = put(recipe, commit) if commit else recipe
    return recipe


def _check_lock_is_complete(made: Plan, recipe: RecipeName, lock: Lock, lock_file: Path) -> None:
    """Refuse what the lock leaves open, or resolved for another name.

    Raises:
        LockDriftError: Names the first such entry.
    """
    hint = f"write it again: orchestrator lock {recipe}"
    for source in sources(made.recipe).values():
        if lock.find(source.repo, source.revision, source.kind) is None:
            message = f"{lock_file} does not list {source.repo}@{source.revision}"
            raise LockDriftError(message, hint=hint)
    _check_local_files(made, recipe, lock, lock_file)
    catalog = made.binder.catalog
    for placed in made.steps:
        if placed.step.image and placed.executor == "docker":
            build = catalog.image(placed.step.image).build
            name = build.base if build else placed.step.image
            known, reference = lock.images.get(name), catalog.image(name).reference
            if known is None or known.reference != reference:
                was = f"has {known.reference}" if known else "does not list it"
                message = f"the image {name} is {reference}; {lock_file} {was}"
                raise LockDriftError(message, hint=hint)


def _check_local_files(made: Plan, recipe: RecipeName, lock: Lock, lock_file: Path) -> None:
    """Refuse files of the project that changed since the lock. For large files only the size is compared.

    Raises:
        LockDriftError: Names the first such file.
    """
    locked = {place.path: place for place in lock.local}
    for path, place in local_places(made).items():
        known = locked.get(path)
        if known is None:
            message = f"{lock_file} does not list {path}"
            raise LockDriftError(message, hint=f"write it again: orchestrator lock {recipe}")
        there = {name: file.stat().st_size for name, file in files_of(place)}
        for content in known.files:
            size = there.pop(content.path, None)
            if size != content.size or (size <= _HASHED_ALWAYS and sha256_of(place / content.path) != content.sha256):
                message = f"{path}: {content.path or 'it'} differs from {lock_file}"
                raise LockDriftError(message, hint=f"check it, then: orchestrator lock {recipe}")
        if there:
            message = f"{path}: {min(there)} is not in {lock_file}"
            raise LockDriftError(message, hint=f"check it, then: orchestrator lock {recipe}")


def local_places(made: Plan) -> dict[str, Path]:
    """List the folders and files of this machine that a plan reads, by their path in the recipe."""
    return {folder.path: made.binder.place(folder.path) for placed in made.steps for folder in placed.step.folders}


def files_of(place: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder by name. A file yields itself, without a name.

    Raises:
        FolderMissingError: There is neither.
    """
    if not place.exists():
        message = f"there is no {place}"
        raise FolderMissingError(message, hint="model.path and calibration files are relative to the project folder")
    if place.is_file():
        yield "", place
        return
    for file in sorted(place.rglob("*")):
        if file.is_file():
            yield file.relative_to(place).as_posix(), file
