"""Finds what in a store is no longer used and what is in use. Removes only on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from orchestrator.app.cluster_chains import is_in_use
from orchestrator.app.cluster_jobs import Chain, jobs_folder
from orchestrator.app.make_plan import Plan
from orchestrator.app.planning import lock_file_of, plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Record
from orchestrator.app.settings import Settings
from orchestrator.errors import FileSystemError, MachineError
from orchestrator.executors.docker import DockerExecutor, LeftContainer
from orchestrator.store.artifact import Artifact
from orchestrator.store.space import files_in
from orchestrator.store.store import Attempt, Store, remove_tree
from orchestrator.units import in_bytes
from orchestrator.values import frozen

Kind = Literal["artifact", "changed", "attempt", "scratch", "wrong download", "container", "jobs"]
_KEY = 64


@frozen
class Garbage:
    """Something that can be removed."""

    kind: Kind
    """`changed`: an artifact that changed on disk and was set aside; `scratch`: saved state of a step that no build
    will continue; `wrong download`: a file that differs from the Hub's and was set aside in the Hub's cache; `jobs`:
    the folder of a cluster's jobs, all of which have ended."""
    name: str
    key: str
    step: str
    size: int
    """Bytes."""
    frees: int
    """Bytes that removing it frees. Files that dist/ links to do not count."""
    remove: Callable[[], bool]
    """Remove it; False if a process uses it now."""


@frozen
class Findings:
    """The content of a store by use."""

    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...]
    """What looks abandoned and is kept, with the reason."""


def needed_keys(settings: Settings) -> frozenset[str]:
    """List the results of each recipe's newest build, and those that each locked recipe would reuse.

    Raises:
        OrchestratorError: A locked recipe or the record of a build cannot be read, so its results are not known.
    """
    root = settings.store.root
    for file in Record.unreadable(root):
        message = f"{file} cannot be read, so the results of the newest build of {file.stem} are not known"
        raise FileSystemError(message, hint=f"build {file.stem} again, or remove the file if nobody needs the results")
    records = (Record.read(root, name) for name in Record.recipes(root))
    keys = {key for record in records if record for key in record.results.values()}
    for recipe in map(RecipeName, settings.book.names):
        if lock_file_of(settings, recipe).is_file():
            keys.update(_keys_of(plan(settings, recipe).plan, settings.store))
    return frozenset(keys)


def _keys_of(plan: Plan, store: Store) -> Iterator[str]:
    artifacts: dict[str, Artifact] = {}
    for placed in plan.steps:
        if all(mount.step in artifacts for mount in placed.step.inputs):
            key = plan.binder.key(placed.step, placed.executor, artifacts)
            yield key
            artifact = store.look(key)
            if artifact:
                artifacts[placed.step.name] = artifact


def left_containers() -> tuple[LeftContainer, ...] | None:
    """Ask Docker for the containers of all orchestrators; None if it does not answer."""
    try:
        return DockerExecutor().containers()
    except MachineError:
        return None


def find_garbage(store: Store, needed: frozenset[str], containers: Sequence[LeftContainer] | None) -> Findings:
    """Find what can be removed.

    Args:
        store: The store.
        needed: The keys that are kept.
        containers: All containers of orchestrators, of this store and of others; None if Docker does not answer.
    """
    ours = [found for found in containers or () if found.output.is_relative_to(store.root)]
    garbage = [
        *_artifacts(store, needed),
        *_set_aside(store),
        *_wrong_downloads(),
        *(_container(store, found) for found in ours if _is_over(store, found, needed)),
    ]
    kept = [f"container {found.name} runs ({found.recipe}: {found.step})" for found in ours if found.running]
    for folder in store.attempts():
        reason = _why_kept(store, folder, needed, None if containers is None else ours)
        if reason:
            kept.append(f"{folder.name[:16]}… {reason}")
        else:
            garbage.append(_attempt(store, folder))
    for folder in sorted((store.root / "scratch").glob("*")):
        reason = _why_scratch_kept(store, folder, needed, ours)
        if reason:
            kept.append(f"scratch {folder.name[:16]}… ({in_bytes(_sizes(folder)[0])}) {reason}")
        else:
            garbage.append(_scratch(store, folder))
    return Findings(tuple(garbage), tuple(kept))


def find_left_jobs(settings: Settings) -> Findings:
    """Find the folders of jobs of a cluster that no build follows and no scheduler has.

    Args:
        settings: The store, and the environment in which the schedulers are asked.
    """
    store, garbage, kept = settings.store, [], []
    chains = {chain.folder: chain for chain in Chain.unfinished(settings)}
    for folder in sorted(jobs_folder(settings).glob("*")):
        chain = chains.get(folder)
        with store.try_lock(folder.name) as held:
            reason = (is_in_use(settings, chain) if chain else "") if held else "a build follows them"
        if reason:
            kept.append(f"jobs {folder.name}: {reason}")
        else:
            garbage.append(
                Garbage("jobs", folder.name, "", "", *_sizes(folder), _removing_jobs(settings, folder, chain))
            )
    return Findings(tuple(garbage), tuple(kept))


def _removing_jobs(settings: Settings, folder: Path, chain: Chain | None) -> Callable[[], bool]:
    def remove() -> bool:
        with settings.store.try_lock(folder.name) as held:
            if not held or (chain and is_in_use(settings, chain)):
                return False
            remove_tree(folder)
            return True

    return remove


def _artifacts(store: Store, needed: frozenset[str]) -> Iterator[Garbage]:
    used = store.used()
    for folder in sorted((store.root / "artifacts").glob("*")):
        key = folder.name
        if key not in needed and key not in used:
            artifact = store.look(key)
            yield Garbage("artifact", key, key, artifact.step if artifact else "", *_sizes(folder), _forget(store, key))


def _forget(store: Store, key: str) -> Callable[[], bool]:
    def remove() -> bool:
        with store.try_lock(key) as held:
            if not held or key in store.used():
                return False
            store.remove(key)
            return True

    return remove


def _set_aside(store: Store) -> Iterator[Garbage]:
    for folder in sorted((store.root / "aside").glob("*")):
        yield Garbage("changed", folder.name, folder.name[:_KEY], "", *_sizes(folder), _removing(folder))


def _removing(folder: Path) -> Callable[[], bool]:
    def remove() -> bool:
        remove_tree(folder)
        return True

    return remove


def _attempt(store: Store, folder: Path) -> Garbage:
    key = folder.name[:_KEY]

    def remove() -> bool:
        with store.try_lock(key) as held:
            if held:
                remove_tree(folder)
            return held

    return Garbage("attempt", folder.name, key, "", *_sizes(folder), remove)


def _scratch(store: Store, folder: Path) -> Garbage:
    def remove() -> bool:
        with store.try_lock(folder.name) as held:
            if held:
                store.drop_scratch(folder.name)
            return held

    return Garbage("scratch", folder.name, folder.name, "", *_sizes(folder), remove)


def _why_scratch_kept(store: Store, folder: Path, needed: frozenset[str], containers: Sequence[LeftContainer]) -> str:
    """Return why a step's saved state is kept; empty if no build will continue it."""
    key = folder.name
    with store.try_lock(key) as held:
        if not held:
            return "is being written"
    if any(found.key == key and not _is_over(store, found, needed) for found in containers):
        return "belongs to a container that the next build adopts"
    if key in needed and not store.look(key):
        return "is saved state; the next build continues from it"
    return ""


def _wrong_downloads() -> Iterator[Garbage]:
    from huggingface_hub import constants  # noqa: PLC0415 - the Hub's client loads slowly

    from orchestrator.hub.cache import set_aside  # noqa: PLC0415 - as above

    cache = Path(constants.HF_HUB_CACHE)
    for file in set_aside(cache):
        size = file.stat().st_size
        yield Garbage("wrong download", str(file.relative_to(cache)), "", "", size, size, _unlinking(file))


def _unlinking(file: Path) -> Callable[[], bool]:
    def remove() -> bool:
        file.unlink(missing_ok=True)
        return True

    return remove


def _why_kept(store: Store, folder: Path, needed: frozenset[str], containers: Sequence[LeftContainer] | None) -> str:
    """Return why an attempt is kept; empty if it is abandoned."""
    key = folder.name[:_KEY]
    with store.try_lock(key) as held:
        if not held:
            return "is being worked on"
    if Attempt(folder).is_sealed and key in needed and not store.look(key):
        return "is finished; the next build publishes it"
    if containers is None and "-docker-" in folder.name:
        return "may belong to a container, and Docker does not answer"
    mine = [found for found in containers or () if found.output.is_relative_to(folder)]
    if any(not _is_over(store, found, needed) for found in mine):
        return "belongs to a container that the next build adopts"
    return ""


def _is_over(store: Store, container: LeftContainer, needed: frozenset[str]) -> bool:
    """Whether a container has stopped and no process will read its results."""
    if container.running or container.owned:
        return False
    return container.key not in needed or store.look(container.key) is not None


def _container(store: Store, container: LeftContainer) -> Garbage:
    def remove() -> bool:
        with store.try_lock(container.key) as held:
            if held:
                DockerExecutor().discard(container.name)
            return held

    return Garbage("container", container.name, container.key, container.step, 0, 0, remove)


def _sizes(folder: Path) -> tuple[int, int]:
    """Return the bytes of a folder's files, and the bytes of those without other hard links."""
    found = tuple(files_in(folder))
    return sum(status.st_size for status in found), sum(status.st_size for status in found if status.st_nlink == 1)
