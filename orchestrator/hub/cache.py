"""Defines the paths in the Hub's own cache, which we share with other programs.

models--OWNER--NAME/blobs/ETAG                            a file's bytes, under its sha256 or git sha1
models--OWNER--NAME/blobs/ETAG.orchestrator.incomplete    a partial download (ours)
models--OWNER--NAME/blobs/ETAG.orchestrator.journal       how many bytes of it are flushed to disk (ours)
models--OWNER--NAME/snapshots/COMMIT/PATH                 a link to a blob
models--OWNER--NAME/refs/REVISION                         the commit of a revision
models--OWNER--NAME/orchestrator/COMMIT-PATTERNS.json     the list of a commit's files (ours)
models--OWNER--NAME/orchestrator/aside/PATH               the last wrong bytes of a file (ours)
.locks/models--OWNER--NAME/ETAG.lock                      held by the process that writes the blob
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # exported lazily

from orchestrator.hub.listing import Snapshot
from orchestrator.hub.patterns import RepoType
from orchestrator.hub.stop import Stop
from orchestrator.values import frozen

_OURS = ".orchestrator"
_ASIDE = "orchestrator/aside"
_LOOK = 0.5
"""Seconds between two checks for a stop while another program holds a lock."""


@frozen
class RepoCache:
    """One repository in the cache."""

    root: Path
    repo: str
    kind: RepoType

    @classmethod
    def of(cls, snapshot: Snapshot) -> RepoCache:
        """Return the repository of a snapshot, in the cache of HF_HUB_CACHE or HF_HOME."""
        return cls(Path(constants.HF_HUB_CACHE), snapshot.repo, snapshot.kind)

    @property
    def folder(self) -> Path:
        """The repository's folder."""
        return self.root / self._name

    @property
    def _name(self) -> str:
        return repo_folder_name(repo_id=self.repo, repo_type=self.kind)

    def blob(self, etag: str) -> Path:
        """The path of a file's complete bytes."""
        return self.folder / "blobs" / etag

    def incomplete(self, etag: str) -> Path:
        """The path of a partial download."""
        return self.folder / "blobs" / f"{etag}{_OURS}.incomplete"

    def pointer(self, commit: str, path: str) -> Path:
        """The path of a file by name."""
        return self.folder / "snapshots" / commit / path

    def listing(self, name: str) -> Path:
        """The path of the list of a commit's files, which is kept for offline use."""
        return self.folder / "orchestrator" / f"{name}.json"

    def aside(self, path: str) -> Path:
        """Return the path for wrong bytes of a file. There is one for each file, so that they do not pile up."""
        place = self.folder / _ASIDE / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def point(self, commit: str, path: str, blob: Path) -> Path:
        """Link a blob under its name; copy it if the file system has no links."""
        pointer = self.pointer(commit, path)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        temporary = pointer.with_name(f".{pointer.name}{_OURS}")  # under the blob's lock, no other process writes it
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            os.link(blob, temporary)
        temporary.replace(pointer)
        return pointer

    def keep(self, commit: str) -> None:
        """Create a ref for a commit without a branch, so that `hf cache prune` keeps it."""
        reference = self.folder / "refs" / f"orchestrator-{commit[:12]}"
        if not reference.exists():
            reference.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a read-only cache cannot be changed
                reference.write_text(commit, encoding="ascii")

    @contextmanager
    def lock(self, etag: str, stop: Stop) -> Iterator[None]:
        """Hold a blob's lock as the Hub's client does, so that only one program fetches it."""
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
    """List every file of a cache whose bytes were wrong.

    Args:
        root: The cache, as in HF_HUB_CACHE.
    """
    for folder in sorted(root.glob(f"*/{_ASIDE}")):
        yield from sorted(file for file in folder.rglob("*") if file.is_file())
