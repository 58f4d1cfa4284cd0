"""From a recipe's name to its plan, with the lock applied where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.cli.settings import Settings
from orchestrator.errors import ArtifactCorruptError, HubOfflineError, LockDriftError
from orchestrator.hub.offline import missing_files
from orchestrator.hub.snapshot import RemoteFile, Snapshot, listing_text, resolve_commit
from orchestrator.hub.trust import insist_on_commit, insist_on_leave
from orchestrator.plan import ExecutorName, Plan, make_plan
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.lock import (
    Lock,
    LockedRepository,
    hub_models,
    insist_on,
    pin,
    pin_calibration,
    pin_commits,
    read_lock,
)
from orchestrator.recipe.model import Recipe
from orchestrator.steps.sources import sources, with_listing

_CODE_OPTION = "trust_remote_code"


@dataclass(frozen=True)
class Planned:
    """A recipe, its lock and its plan."""

    loaded: LoadedRecipe
    lock_file: Path
    lock: Lock | None
    plan: Plan


def lock_file_of(settings: Settings, name: str) -> Path:
    """Name the place of a recipe's lock."""
    return settings.project.recipes / f"{name}.lock"


def plan_recipe(
    settings: Settings,
    name: str,
    overrides: Sequence[str] = (),
    executor: ExecutorName | None = None,
    *,
    locked: bool = False,
) -> Planned:
    """Plan a recipe without any network: what no lock has resolved stays a branch or tag.

    Args:
        settings: Where everything is.
        name: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run what can run in more than one place.
        locked: Insist that the lock is there, belongs to the recipe as it stands, and resolves everything.
    """
    loaded = settings.book.load(name, overrides)
    lock_file = lock_file_of(settings, name)
    lock = read_lock(lock_file)
    if locked:
        lock = insist_on(lock, settings.book.load(name).recipe, lock_file)
    recipe = _pinned(loaded.recipe, lock, lock_file) if lock else loaded.recipe
    plan = _plan(settings, recipe, lock, executor)
    if locked and lock:
        _insist_on_all(plan, lock, lock_file)
    return Planned(loaded, lock_file, lock, plan)


def resolve(settings: Settings, planned: Planned, executor: ExecutorName | None, *, offline: bool = False) -> Plan:
    """Ask the Hub for the commits that are still open, and plan again with them; insist on trust where it is needed."""
    recipe = planned.plan.recipe
    open_models = {(model.repo, model.revision) for model in hub_models(recipe)}
    commits = {
        (repo, revision): resolve_commit(repo, revision, offline=offline) for repo, revision in sorted(open_models)
    }
    pinned = pin_commits(recipe, commits)
    _insist_on_trust(pinned)
    if pinned == recipe:
        return planned.plan
    return _plan(settings, pinned, planned.lock, executor)


def insist_on_offline(settings: Settings, plan: Plan, lock: Lock | None) -> None:
    """Where the network may not be used, what the downloads would fetch must be in the store or in the Hub's cache.

    Raises:
        HubOfflineError: Naming all that is missing.
    """
    lines = []
    wanted = sources(plan.recipe)
    for placed in plan.steps:
        source = wanted.get(placed.step.name)
        key = plan.binder.key(placed.step, placed.executor, {}) if source else ""
        if source and not _in_store(settings, key):
            commit = resolve_commit(source.repo, source.revision, source.kind, offline=True)
            known = lock.find(source.repo, commit, source.kind) if lock else None
            missing = missing_files(
                source.repo, commit, source.kind, source.include, _snapshot(known) if known else None
            )
            if missing:
                lines.append(f"{placed.step.name}: {source.repo}@{commit}: {missing}")
    if lines:
        message = "\n".join(("not everything is here:", *lines))
        raise HubOfflineError(message, hint="run it once without --offline")


def images_of(settings: Settings, plan: Plan) -> tuple[str, ...]:
    """Name the images of the catalogue that a plan pulls: those of its steps, or what those are built from."""
    found: dict[str, None] = {}
    for placed in plan.steps:
        name = placed.step.image
        if name is not None:
            build = settings.catalog.image(name).build
            found[build.base if build else name] = None
    return tuple(found)


def _plan(settings: Settings, recipe: Recipe, lock: Lock | None, executor: ExecutorName | None) -> Plan:
    plan = make_plan(recipe, settings.catalog, lock, executor=executor, secrets=settings.secrets)
    if lock is None:
        return plan
    listings = dict(_listings(recipe, lock))
    steps = tuple(
        replace(placed, step=with_listing(placed.step, listings[placed.step.name]))
        if placed.step.name in listings
        else placed
        for placed in plan.steps
    )
    return replace(plan, steps=steps)


def _listings(recipe: Recipe, lock: Lock) -> Iterator[tuple[str, str]]:
    for step, source in sources(recipe).items():
        known = lock.find(source.repo, source.revision, source.kind)
        if known and known.commit == source.revision:
            yield step, listing_text(_snapshot(known))


def _snapshot(known: LockedRepository) -> Snapshot:
    files = tuple(RemoteFile(file.path, file.size, file.sha256, file.git_sha1) for file in known.files)
    return Snapshot(known.repo, known.kind, known.commit, files)


def _pinned(recipe: Recipe, lock: Lock, lock_file: Path) -> Recipe:
    recipe = pin(recipe, lock, lock_file)
    text = sources(recipe).get("download-calibration")
    commit = lock.commit_of(text.repo, text.revision, "dataset") if text else None
    return pin_calibration(recipe, commit) if commit else recipe


def _insist_on_all(plan: Plan, lock: Lock, lock_file: Path) -> None:
    """Refuse what the lock leaves open, or resolved for another name.

    Raises:
        LockDriftError: Naming the first such thing.
    """
    hint = f"make it again: orchestrator lock {plan.recipe.name}"
    for source in sources(plan.recipe).values():
        if lock.find(source.repo, source.revision, source.kind) is None:
            message = f"{lock_file} does not know {source.repo}@{source.revision}"
            raise LockDriftError(message, hint=hint)
    catalog = plan.binder.catalog
    for placed in plan.steps:
        if placed.step.image and placed.executor == "docker":
            build = catalog.image(placed.step.image).build
            name = build.base if build else placed.step.image
            known, reference = lock.images.get(name), catalog.image(name).reference
            if known is None or known.reference != reference:
                was = f"has {known.reference}" if known else "does not know it"
                message = f"the image {name} is {reference}; {lock_file} {was}"
                raise LockDriftError(message, hint=hint)


def _insist_on_trust(recipe: Recipe) -> None:
    wanted = sources(recipe)
    for source in wanted.values():
        insist_on_commit(source.repo, source.revision, source.trusted)
    model = wanted.get("download")
    places: Mapping[str, Mapping[str, object]] = {
        "quantization.options": recipe.quantization.options,
        "engine.convert": recipe.engine.convert,
        "engine.build": recipe.engine.build,
        "serve.options": recipe.serve.options,
    }
    for place, options in places.items():
        if model and options.get(_CODE_OPTION):
            insist_on_leave(model.repo, model.revision, f"{place}.{_CODE_OPTION}", model.trusted)


def _in_store(settings: Settings, key: str) -> bool:
    try:
        return settings.store.find(key) is not None
    except ArtifactCorruptError:
        return False
