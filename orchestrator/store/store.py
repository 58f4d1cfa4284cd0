"""The store: crash-safe from attempt folder to rename, one lock per key, nothing ever written into what is published.

artifacts/<key>/     manifest.json, log.txt, cost.json, and read-only out/…
attempts/<key>-<n>/  the same, while a step runs; `ended` in it: the command is done, its result is not yet published
scratch/<key>/       how far a step is that can go on after it was ended; gone once its result is published
stats/<key>.json     what the file system said of the files when they were last hashed
locks/<key>.lock     held by whoever works on the key; the kernel frees it when the holder dies
aside/<key>-<n>/     artifacts that were found changed on disk
uses/<n>             a running build and the keys of what it reads
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout

from orchestrator import owner
from orchestrator.errors import ArtifactCorruptError, NoPermissionError, OutputMissingError, machine_faults
from orchestrator.events import Checked
from orchestrator.room import files_in
from orchestrator.store.artifact import Artifact, hash_files, list_files, manifest_text, read_manifest
from orchestrator.store.cost import Cost, read_cost
from orchestrator.temporary import replacing, sweep_temporaries

_ENDED = "ended"
_OWED = "owed"
_MADE_AGAIN = "it is set aside and made again by the next build"


@dataclass(frozen=True)
class Attempt:
    """One try at a step: its own folder, so that no two writers ever share one."""

    folder: Path

    @property
    def out(self) -> Path:
        """What the command may write."""
        return self.folder / "out"

    def discard(self) -> None:
        """Remove it."""
        remove_tree(self.folder)

    def seal(self) -> None:
        """Note that the command ended well and left all it should; everything is on disk before the note is."""
        with machine_faults("keeping the result of a step"):
            _flush_tree(self.folder)
            _write(self.folder / _ENDED, "")
            _flush(self.folder)

    @property
    def is_sealed(self) -> bool:
        """Whether it only has to be published: the note is there, or already the manifest that takes its place."""
        return any((self.folder / name).is_file() for name in (_ENDED, "manifest.json"))

    @classmethod
    def of_output(cls, out: Path) -> Attempt:
        """Find the attempt whose output folder this is."""
        return cls(out.parent)


@dataclass(frozen=True)
class Store:
    """Artifacts below one folder, all on one file system."""

    root: Path

    def make(self) -> None:
        """Make sure that there is a place for everything.

        Raises:
            NoPermissionError: There is none.
        """
        with machine_faults("making the store"):
            self._folder("artifacts")
            for name in (".", "runs", "stats"):
                sweep_temporaries(self.root / name)
            self.used()

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a key; others that want it wait.

        Args:
            key: The key.
            waiting: Called once where somebody else holds it.
        """
        with machine_faults("locking the store"):
            folder = self._folder("locks")
            held = FileLock(folder / f"{key}.lock")
            try:
                held.acquire(timeout=0)
            except Timeout:
                waiting()
                held.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            held.release()

    @contextmanager
    def try_lock(self, key: str) -> Iterator[bool]:
        """Hold a key if nobody else does; says whether it is held."""
        with machine_faults("locking the store"):
            held = FileLock(self._folder("locks") / f"{key}.lock")
            try:
                held.acquire(timeout=0)
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            held.release()

    def find(self, key: str) -> Artifact | None:
        """Find what was published under a key.

        Trusts the file system's word (inode, size, times) as long as it is what it was; hashes again otherwise.

        Raises:
            ArtifactCorruptError: Where a file is gone or is not what was published.
        """
        folder = self.root / "artifacts" / key
        if not folder.is_dir():
            return None
        artifact = read_manifest(folder)
        if self._recorded_stats(key) != _stats(artifact):
            self.check(artifact)
        return artifact

    def check(self, artifact: Artifact) -> None:
        """Hash an artifact again.

        Raises:
            ArtifactCorruptError: Naming the first file that differs.
        """
        with _as_corruption():
            found = {file.path: file for file in hash_files(artifact.folder)}
        for file in artifact.files:
            if found.pop(file.path, None) != file:
                message = f"{artifact.folder / file.path} is not what was published: {file.size} bytes, {file.sha256}"
                raise ArtifactCorruptError(message, hint=_MADE_AGAIN)
        if found:
            message = f"{artifact.folder / min(found)} was never published"
            raise ArtifactCorruptError(message, hint=_MADE_AGAIN)
        self.remember(artifact)

    def remember(self, artifact: Artifact) -> None:
        """Record the file system's word for an artifact that is known to be right (linking changes a file's ctime)."""
        folder = self._folder("stats")
        _write(folder / f"{artifact.key}.json", json.dumps(_stats(artifact)))

    def attempt(self, key: str, executor: str = "process") -> Attempt:
        """Make a fresh folder for one try.

        Args:
            key: The key.
            executor: Who will write there; a container may do so when no orchestrator is left.
        """
        with machine_faults("making room for a step"):
            attempt = Attempt(self._folder("attempts") / f"{key}-{executor}-{uuid.uuid4().hex[:8]}")
            attempt.out.mkdir(parents=True)
        return attempt

    def scratch(self, key: str) -> Path:
        """Make the folder in which a step notes how far it is; unlike a try's own, it is there for the next try."""
        with machine_faults("making room for a step"):
            return self._folder(f"scratch/{key}")

    def drop_scratch(self, key: str) -> None:
        """Forget how far a step was; the caller holds the key's lock."""
        remove_tree(self.root / "scratch" / key)

    def publish(
        self, attempt: Attempt, key: str, step: str, checked: Mapping[str, Checked] = MappingProxyType({})
    ) -> Artifact:
        """Make an attempt's output an artifact: flushed to disk, hashed, then renamed into place at once.

        The caller holds the key's lock. An older artifact of the key gives way.

        Args:
            attempt: The try.
            key: Its key.
            step: The step's name.
            checked: Files that were hashed while they arrived, by their path; they are not read again.
        """
        with machine_faults(f"publishing the result of {step}"):
            sweep_temporaries(attempt.folder)  # of whoever was killed while publishing it
            list_files(attempt.out)  # plain files only
            _flush_tree(attempt.out)
            _write(attempt.folder / "manifest.json", manifest_text(key, step, hash_files(attempt.out, checked)))
            _make_read_only(attempt.out)
            (attempt.folder / _ENDED).unlink(missing_ok=True)
            for folder in (attempt.out, attempt.folder):
                _flush(folder)
            artifacts = self._folder("artifacts")
            final = artifacts / key
            if final.exists():
                final.rename(self.root / "attempts" / f"{key}-{uuid.uuid4().hex[:8]}")
            attempt.folder.rename(final)
            _flush(artifacts)
            artifact = read_manifest(final)
            self.remember(artifact)
        return artifact

    def sealed(self, key: str) -> Attempt | None:
        """Find a try whose command ended well and whose publishing did not; the caller holds the key's lock."""
        tries = (Attempt(folder) for folder in sorted((self.root / "attempts").glob(f"{key}-*")))
        return next((attempt for attempt in tries if attempt.is_sealed), None)

    def size_of_tries(self, key: str) -> int:
        """Give the bytes that unfinished tries at a key hold: used again or given back, so not needed twice."""
        places = (*(self.root / "attempts").glob(f"{key}-*"), self.root / "scratch" / key)
        return sum(status.st_size for place in places for status in files_in(place))

    def owe(self, key: str) -> None:
        """Note, until `sweep`, that something of a try is left to be removed: whoever finds the artifact sees to it."""
        with machine_faults("making room for a step"):
            self._folder(f"attempts/{key}-{_OWED}")

    def is_owed(self, key: str) -> bool:
        """Whether something of earlier tries at a key is still to be removed."""
        return any((self.root / "attempts").glob(f"{key}-*"))

    def sweep(self, key: str, executor: str = "") -> None:
        """Remove what earlier tries at a key left, all of them or those of one executor; the caller holds its lock."""
        for leftover in (self.root / "attempts").glob(f"{key}-{executor}*"):
            remove_tree(leftover)

    def set_aside(self, key: str) -> Path:
        """Move a changed artifact out of the way and keep it for whoever wants to look."""
        return self._move_aside(self.root / "artifacts" / key)

    def remove(self, key: str) -> None:
        """Forget an artifact."""
        with machine_faults("removing from the store"):
            remove_tree(self.root / "artifacts" / key)
            (self.root / "stats" / f"{key}.json").unlink(missing_ok=True)

    def artifacts(self) -> Iterator[Artifact]:
        """Go through everything published that can be read."""
        for folder in sorted((self.root / "artifacts").glob("*")):
            try:
                yield read_manifest(folder)
            except ArtifactCorruptError:
                continue

    def attempts(self) -> tuple[Path, ...]:
        """Every try that is under way or was left behind."""
        return tuple(sorted((self.root / "attempts").glob("*")))

    @contextmanager
    def use(self) -> Iterator[Callable[[str], None]]:
        """While a build runs, take note of the keys that it reads, so that nobody removes them meanwhile."""
        with machine_faults("making the store"):
            file = self._folder("uses") / uuid.uuid4().hex
            file.write_text(f"{owner.ourselves()}\n", encoding="utf-8")

        def note(key: str) -> None:
            with machine_faults("writing to the store"), file.open("a", encoding="utf-8") as stream:
                stream.write(f"{key}\n")

        try:
            yield note
        finally:
            file.unlink(missing_ok=True)

    def used(self) -> frozenset[str]:
        """Name the keys that running builds read; forgets builds that are gone."""
        keys: set[str] = set()
        for file in (self.root / "uses").glob("*"):
            try:
                whose, *noted = file.read_text(encoding="utf-8").splitlines() or [""]
            except FileNotFoundError:
                continue
            if whose and not owner.lives(whose):
                file.unlink(missing_ok=True)
            keys.update(noted)
        return frozenset(keys)

    def look(self, key: str) -> Artifact | None:
        """Read what was published under a key, without a look at its files; None where nothing can be read."""
        try:
            return read_manifest(self.root / "artifacts" / key)
        except ArtifactCorruptError:
            return None

    def cost(self, key: str) -> Cost | None:
        """Read what making an artifact cost; None where nobody noted it."""
        return read_cost(self.root / "artifacts" / key)

    def _move_aside(self, folder: Path) -> Path:
        place = self._folder("aside") / f"{folder.name}-{uuid.uuid4().hex[:8]}"
        folder.rename(place)
        return place

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            message = f"the store cannot be made: {folder} is no place for folders ({error.strerror})"
            raise NoPermissionError(message, hint="choose another place: --store FOLDER") from error
        return folder

    def _recorded_stats(self, key: str) -> object:
        try:
            return json.loads((self.root / "stats" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


@contextmanager
def _as_corruption() -> Iterator[None]:
    """Whatever is wrong with published files is a change: when they were published, they were plain files."""
    try:
        yield
    except (OutputMissingError, FileNotFoundError) as error:
        message = f"a published result was changed: {error}"
        raise ArtifactCorruptError(message, hint=_MADE_AGAIN) from error


def _stats(artifact: Artifact) -> dict[str, list[int]]:
    """Ask the file system about each file; ctime cannot be set back, so a restored mtime does not hide a change."""
    with _as_corruption():
        files = (artifact.manifest, *list_files(artifact.folder))
    found = {}
    for path in files:
        status = path.stat()
        found[path.relative_to(artifact.manifest.parent).as_posix()] = [
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        ]
    return found


def _write(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
        _flush(fresh)


def _flush_tree(folder: Path) -> None:
    """Have a folder's files on disk, then the folders that name them, the inner ones first."""
    for inner, folders, names in os.walk(folder, topdown=False):
        for name in (*names, *(name for name in folders if not Path(inner, name).is_symlink())):
            path = Path(inner, name)
            if not path.is_symlink() and (path.is_file() or path.is_dir()):
                _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_read_only(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        if path.is_dir() or status.st_nlink == 1:  # a linked file belongs to others too: its mode is theirs
            path.chmod(stat.S_IMODE(status.st_mode) & ~0o222)


def remove_tree(folder: Path) -> None:
    """Remove a folder, read-only parts included; fine where it is gone."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o700)
    shutil.rmtree(folder, ignore_errors=True)
