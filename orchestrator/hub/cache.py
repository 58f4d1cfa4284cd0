"""Where things lie in the Hub's own cache, so that every other program finds what we fetched, and we what it fetched.

models--OWNER--NAME/blobs/ETAG                            a file's bytes, under its sha256 or git sha1
models--OWNER--NAME/blobs/ETAG.orchestrator.incomplete    on its way (ours)
models--OWNER--NAME/blobs/ETAG.orchestrator.journal       how much of that is safely on disk (ours)
models--OWNER--NAME/snapshots/COMMIT/PATH                 a link to a blob
models--OWNER--NAME/refs/REVISION                         the commit of a revision
models--OWNER--NAME/orchestrator/COMMIT-PATTERNS.json     the list of a commit's files (ours)
models--OWNER--NAME/orchestrator/aside/PATH               the last wrong bytes of a file (ours)
.locks/models--OWNER--NAME/ETAG.lock                      held by whoever writes the blob
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # exported lazily

from orchestrator.hub.snapshot import Snapshot
from orchestrator.hub.stop import Stop
from orchestrator.hub.wanted import RepoType

_OURS = ".orchestrator"
_ASIDE = "orchestrator/aside"
_LOOK = 0.5
"""Seconds between two looks at whether we are to stop while another program holds a lock."""


@dataclass(frozen=True)
class RepoCache:
    """One repository in the cache."""

    root: Path
    repo: str
    kind: RepoType

    @classmethod
    def of(cls, snapshot: Snapshot) -> RepoCache:
        """Find the place of a snapshot's repository, where HF_HUB_CACHE or HF_HOME say."""
        return cls(Path(constants.HF_HUB_CACHE), snapshot.repo, snapshot.kind)

    @property
    def folder(self) -> Path:
        """The repository's folder."""
        return self.root / self._name

    @property
    def _name(self) -> str:
        return "--".join((f"{self.kind}s", *self.repo.split("/")))

    def blob(self, etag: str) -> Path:
        """Where a file's bytes are, once they are all there."""
        return self.folder / "blobs" / etag

    def incomplete(self, etag: str) -> Path:
        """Where they are while they arrive."""
        return self.folder / "blobs" / f"{etag}{_OURS}.incomplete"

    def pointer(self, commit: str, path: str) -> Path:
        """Where a file is found by name."""
        return self.folder / "snapshots" / commit / path

    def listing(self, name: str) -> Path:
        """Where the list of a commit's files is kept for days without network."""
        return self.folder / "orchestrator" / f"{name}.json"

    def aside(self, path: str) -> Path:
        """Name the place for wrong bytes of a file; one for each file, so that they never pile up."""
        place = self.folder / _ASIDE / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def point(self, commit: str, path: str, blob: Path) -> Path:
        """Make a blob appear under its name; a link where the file system has links."""
        pointer = self.pointer(commit, path)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        temporary = pointer.with_name(f".{pointer.name}{_OURS}")  # under the blob's lock nobody else writes it
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            os.link(blob, temporary)
        temporary.replace(pointer)
        return pointer

    def keep(self, commit: str) -> None:
        """Name a commit that no branch points to, so that `hf cache prune` does not take it for leftovers."""
        reference = self.folder / "refs" / f"orchestrator-{commit[:12]}"
        if not reference.exists():
            reference.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a cache that may only be read has what it has
                reference.write_text(commit, encoding="ascii")

    @contextmanager
    def lock(self, etag: str, stop: Stop) -> Iterator[None]:
        """Hold a blob as the Hub's own client does: of all programs on this cache, one fetches it."""
        file = self.root / ".locks" / self._name / f"{etag}.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            held = WeakFileLock(file, timeout=_LOOK)
            try:
                held.__enter__()
            except Timeout:
                stop.check()
                continue
            break
        try:
            yield
        finally:
            held.__exit__(None, None, None)


def set_aside(root: Path) -> Iterator[Path]:
    """Name every file of a cache whose bytes were wrong.

    Args:
        root: The cache: what HF_HUB_CACHE names.
    """
    for folder in sorted(root.glob(f"*/{_ASIDE}")):
        yield from sorted(file for file in folder.rglob("*") if file.is_file())
