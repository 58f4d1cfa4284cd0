"""Keeps artifacts: crash-safe publishing by rename, one lock per key, and published files that never change.

artifacts/<key>/     manifest.json, log.txt, cost.json, and read-only out/…
attempts/<key>-<n>/  the same, while a step runs; with `ended`, the command is done and its result not yet published
scratch/<key>/       saved state of a resumable step; removed once its result is published
stats/<key>.json     the files' fingerprints when they were last hashed
locks/<key>.lock     held by the process that works on the key; the kernel frees it when that process ends
aside/<key>-<n>/     artifacts that were found changed on disk
uses/<n>             a running build and the keys of what it reads
jobs/<recipe>-<id>/  the jobs of a build on a cluster, until it has taken their results
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.errors import (
    ArtifactCorruptError,
    LocksMissingError,
    NoPermissionError,
    OutputMissingError,
    machine_faults,
)
from orchestrator.store import owner
from orchestrator.store.artifact import Artifact, hash_files, list_files, manifest_text, read_manifest
from orchestrator.store.cost import Cost, read_cost
from orchestrator.store.fingerprint import fingerprint_of
from orchestrator.store.mounts import may_remember_names
from orchestrator.store.space import files_in
from orchestrator.store.temporary import replacing, sweep_temporaries
from orchestrator.values import frozen

if TYPE_CHECKING:
    from filelock import FileLock

    from orchestrator.events import Checked

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_ENDED = "ended"
_OWED = "owed"
_REMEMBERED, _SLICE = 75.0, 0.1
"""Seconds to wait for a name that is listed, and between two looks. NFS trusts what it knows for 60 (`acdirmax`)."""
_MADE_AGAIN = "it is set aside and made again by the next build"


@frozen
class Attempt:
    """One attempt at a step, in its own folder, so that two writers never share one."""

    folder: Path

    @property
    def out(self) -> Path:
        """The folder that the command may write to."""
        return self.folder / "out"

    def discard(self) -> None:
        """Remove it."""
        remove_tree(self.folder)

    def seal(self) -> None:
        """Mark that the command succeeded with all outputs. Everything is flushed to disk before the mark."""
        with machine_faults("keeping the result of a step"):
            _flush_tree(self.folder)
            _write(self.folder / _ENDED, "")
            _flush(self.folder)

    @property
    def is_sealed(self) -> bool:
        """Whether only publishing is left: the mark exists, or the manifest that replaces it."""
        return any((self.folder / name).is_file() for name in (_ENDED, "manifest.json"))

    @classmethod
    def of_output(cls, out: Path) -> Attempt:
        """Find the attempt of an output folder."""
        return cls(out.parent)


@frozen
class Store:
    """Artifacts below one folder, all on one file system."""

    root: Path

    def make(self) -> None:
        """Create the store's folders.

        Raises:
            NoPermissionError: They cannot be created.
            LocksMissingError: Their file system has no locks.
        """
        with machine_faults("making the store"):
            self._folder("artifacts")
            self._require_locks()
            for name in (".", "runs", "stats"):
                sweep_temporaries(self.root / name)
            self.used()

    @contextmanager
    def lock(
        self, key: str, waiting: Callable[[], None], abort_check: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Hold a key's lock. Others wait for it.

        Args:
            key: The key.
            waiting: Called once if another process holds it.
            abort_check: Called often while it waits. If it raises, waiting ends.
        """
        from filelock import Timeout  # noqa: PLC0415 - a plan locks nothing

        def is_cancelled() -> bool:
            abort_check()
            return False

        with machine_faults("locking the store"):
            lock = self._lock_of(key)
            try:
                held = lock.acquire(blocking=False)
            except Timeout:
                waiting()
                held = lock.acquire(cancel_check=is_cancelled)
        with held:
            yield

    @contextmanager
    def try_lock(self, key: str) -> Iterator[bool]:
        """Try to hold a key's lock and yield the success."""
        from filelock import Timeout  # noqa: PLC0415 - as above

        try:
            with machine_faults("locking the store"):
                held = self._lock_of(key).acquire(blocking=False)
        except Timeout:
            yield False
            return
        with held:
            yield True

    def find(self, key: str) -> Artifact | None:
        """Find the artifact of a key.

        Trusts files with unchanged fingerprints. Otherwise all files are hashed again.

        Raises:
            ArtifactCorruptError: A file is missing or has changed.
        """
        folder = self.root / "artifacts" / key
        self._settle(key)
        if not folder.is_dir():
            return None
        artifact = read_manifest(folder)
        if self._known_fingerprints(key) != _fingerprints(artifact):
            self.check(artifact)
        return artifact

    def check(self, artifact: Artifact) -> None:
        """Hash an artifact again.

        Raises:
            ArtifactCorruptError: Names the first file that differs.
        """
        with _as_corruption():
            found = {file.path: file for file in hash_files(artifact.folder)}
        for file in artifact.files:
            if found.pop(file.path, None) != file:
                published = f"{file.size} bytes with sha256 {file.sha256}"
                message = f"{artifact.folder / file.path} has changed: {published} were published"
                raise ArtifactCorruptError(message, hint=_MADE_AGAIN)
        if found:
            message = f"{artifact.folder / min(found)} was never published"
            raise ArtifactCorruptError(message, hint=_MADE_AGAIN)
        self.remember(artifact)

    def remember(self, artifact: Artifact) -> None:
        """Save the fingerprints of a verified artifact. A new link to a file changes its fingerprint."""
        folder = self._folder("stats")
        _write(folder / f"{artifact.key}.json", json.dumps(_fingerprints(artifact)))

    def attempt(self, key: str, executor: str = "process") -> Attempt:
        """Create a new folder for one attempt.

        Args:
            key: The key.
            executor: The executor that writes there. A container may continue without an orchestrator.
        """
        with machine_faults("creating the folders of a step"):
            attempt = Attempt(self._folder("attempts") / f"{key}-{executor}-{uuid.uuid4().hex[:8]}")
            attempt.out.mkdir(parents=True)
        return attempt

    def scratch(self, key: str) -> Path:
        """Create the folder for a step's saved state. Unlike an attempt's folder, the next attempt uses it again."""
        with machine_faults("creating the folders of a step"):
            return self._folder(f"scratch/{key}")

    def drop_scratch(self, key: str) -> None:
        """Remove a step's saved state. The caller holds the key's lock."""
        remove_tree(self.root / "scratch" / key)

    def publish(
        self, attempt: Attempt, key: str, step: str, checked: Mapping[str, Checked] = MappingProxyType({})
    ) -> Artifact:
        """Publish an attempt's output as an artifact: flush to disk, hash, then rename.

        The caller holds the key's lock. An older artifact of the key is replaced.

        Args:
            attempt: The attempt.
            key: Its key.
            step: The step's name.
            checked: Files that were hashed while they arrived, by path. They are not read again.
        """
        with machine_faults(f"publishing the result of {step}"):
            sweep_temporaries(attempt.folder)  # left by a process that was killed while it published
            list_files(attempt.out)  # plain files only
            _flush_tree(attempt.out)
            _write(attempt.folder / "manifest.json", manifest_text(key, step, hash_files(attempt.out, checked)))
            _make_read_only(attempt.out)
            (attempt.folder / _ENDED).unlink(missing_ok=True)
            for folder in (attempt.out, attempt.folder):
                _flush(folder)
            artifacts = self._folder("artifacts")
            final = artifacts / key
            self._settle(key)
            if final.exists():
                final.rename(self.root / "attempts" / f"{key}-{uuid.uuid4().hex[:8]}")
            attempt.folder.rename(final)
            _flush(artifacts)
            artifact = read_manifest(final)
            self.remember(artifact)
        return artifact

    def sealed(self, key: str) -> Attempt | None:
        """Find a successful attempt that is not published. The caller holds the key's lock."""
        tries = map(Attempt, self.attempts(key))
        return next((attempt for attempt in tries if attempt.is_sealed), None)

    def size_of_attempts(self, key: str) -> int:
        """Return the bytes of unfinished attempts at a key. They are reused or freed, so they are not needed twice."""
        places = (*self.attempts(key), self.root / "scratch" / key)
        return sum(status.st_size for place in places for status in files_in(place))

    def mark_leftovers(self, key: str) -> None:
        """Mark an attempt for removal until `sweep`. The next process that finds the artifact removes it."""
        with machine_faults("creating the folders of a step"):
            self._folder(f"attempts/{key}-{_OWED}")

    def has_leftovers(self, key: str) -> bool:
        """Whether something of earlier attempts at a key must still be removed."""
        return bool(self.attempts(key))

    def sweep(self, key: str, executor: str = "") -> None:
        """Remove earlier attempts at a key, all or those of one executor. The caller holds the key's lock."""
        for leftover in self.attempts(key, executor):
            remove_tree(leftover)

    def set_aside(self, key: str) -> Path:
        """Move a changed artifact aside and keep it for inspection."""
        place = self._folder("aside") / f"{key}-{uuid.uuid4().hex[:8]}"
        (self.root / "artifacts" / key).rename(place)
        return place

    def remove(self, key: str) -> None:
        """Remove an artifact."""
        with machine_faults("removing from the store"):
            remove_tree(self.root / "artifacts" / key)
            (self.root / "stats" / f"{key}.json").unlink(missing_ok=True)

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every readable artifact."""
        for folder in sorted((self.root / "artifacts").glob("*")):
            try:
                yield read_manifest(folder)
            except ArtifactCorruptError:
                continue

    def attempts(self, key: str = "", executor: str = "") -> tuple[Path, ...]:
        """Every attempt that runs or was left behind, or those at a key, or of one executor at a key."""
        start = f"{key}-{executor}" if key else ""  # no pattern: Python would compile one for each key
        return tuple(sorted(each for each in (self.root / "attempts").glob("*") if each.name.startswith(start)))

    @contextmanager
    def use(self) -> Iterator[Callable[[str], None]]:
        """Record the keys that a running build reads, so that no other process removes them."""
        with machine_faults("making the store"):
            file = self._folder("uses") / uuid.uuid4().hex
            file.write_text(f"{owner.this_process()}\n", encoding="utf-8")

        def note(key: str) -> None:
            with machine_faults("writing to the store"), file.open("a", encoding="utf-8") as stream:
                stream.write(f"{key}\n")

        try:
            yield note
        finally:
            file.unlink(missing_ok=True)

    def used(self) -> frozenset[str]:
        """Return the keys that running builds read. Records of ended builds are removed."""
        keys: set[str] = set()
        for file in (self.root / "uses").glob("*"):
            with suppress(FileNotFoundError):  # its build has just ended
                process, *read_keys = file.read_text(encoding="utf-8").splitlines() or [""]
                if process and not owner.is_running(process):
                    file.unlink()
                keys.update(read_keys)
        return frozenset(keys)

    def look(self, key: str) -> Artifact | None:
        """Read the artifact of a key without checking its files; None if it cannot be read."""
        try:
            return read_manifest(self.root / "artifacts" / key)
        except ArtifactCorruptError:
            return None

    def cost(self, key: str) -> Cost | None:
        """Read an artifact's cost; None if there is no record."""
        return read_cost(self.root / "artifacts" / key)

    def log(self, key: str) -> Path:
        """Return the path of an artifact's log."""
        return self.root / "artifacts" / key / "log.txt"

    def _require_locks(self) -> None:
        """Try a lock. Some network file systems have none, and a library may take that for a lock held by others."""
        with (self._folder("locks") / "tried").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                message = f"the file system of {self.root} has no locks: {error.strerror}"
                hint = "mount it with locks (Lustre: -o flock; NFS 4: running lock services), or choose another --store"
                raise LocksMissingError(message, hint=hint) from error

    def _lock_of(self, key: str) -> FileLock:
        from filelock import FileLock  # noqa: PLC0415 - as above

        return FileLock(self._folder("locks") / f"{key}.lock")

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            message = f"cannot create the store in {folder}: {error.strerror}"
            raise NoPermissionError(message, hint="choose another folder: --store FOLDER") from error
        return folder

    def _settle(self, key: str) -> None:
        """Wait for an artifact that is listed and cannot be opened yet.

        A shared file system may remember for a minute that a name was missing, and nevertheless list it.
        """
        artifacts = self.root / "artifacts"
        deadline = time.monotonic() + _REMEMBERED
        while not (artifacts / key).is_dir() and self._may_remember and time.monotonic() < deadline:
            if not artifacts.is_dir() or key not in os.listdir(artifacts):  # noqa: PTH208 - names alone
                break
            time.sleep(_SLICE)

    @cached_property
    def _may_remember(self) -> bool:
        return may_remember_names(self.root)

    def _known_fingerprints(self, key: str) -> object:
        try:
            return json.loads((self.root / "stats" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


@contextmanager
def _as_corruption() -> Iterator[None]:
    """Any problem with published files is a change, because they were plain files when they were published."""
    try:
        yield
    except (OutputMissingError, FileNotFoundError) as error:
        message = f"a published result was changed: {error}"
        raise ArtifactCorruptError(message, hint=_MADE_AGAIN) from error


def _fingerprints(artifact: Artifact) -> dict[str, str]:
    """Return the fingerprint of each file, by its path below the artifact's folder."""
    with _as_corruption():
        files = (artifact.manifest, *list_files(artifact.folder))
        return {file.relative_to(artifact.manifest.parent).as_posix(): fingerprint_of(file) for file in files}


def _write(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
        _flush(fresh)


def _flush_tree(folder: Path) -> None:
    """Flush the plain files and folders below a folder to disk."""
    for path in folder.rglob("*"):
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
        if path.is_dir() or status.st_nlink == 1:  # a linked file's mode belongs to others, too
            path.chmod(stat.S_IMODE(status.st_mode) & ~0o222)


def remove_tree(folder: Path) -> None:
    """Remove a folder with its read-only parts. A missing folder is no error, nor one that another process removes."""
    with suppress(FileNotFoundError):
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
