"""Fetches one snapshot into a folder, from the Hub's cache or the Hub, and checks every byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.utils import XetFileData  # type: ignore[attr-defined] # exported lazily

from orchestrator.errors import DownloadCorruptError, HubOfflineError
from orchestrator.events import Checked, Warned
from orchestrator.hub import calls
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.listing import RemoteFile, Snapshot, listing_text
from orchestrator.hub.offline import missing_files
from orchestrator.hub.partial import Partial, digest_of, sweep_journal
from orchestrator.hub.stop import Stop
from orchestrator.hub.transfer import TooLongError, transfer
from orchestrator.hub.xet import XetFaultError, stream
from orchestrator.store.fingerprint import fingerprint_of
from orchestrator.store.space import existing
from orchestrator.store.temporary import replacing, sweep_temporaries
from orchestrator.values import frozen

_READ = 1 << 20

Report = Callable[[RemoteFile, int], None]
"""Called with a file and its number of bytes, from several threads."""


@frozen
class Fetcher:
    """Fetches the files of one snapshot. Several threads may fetch different files."""

    snapshot: Snapshot
    output: Path
    stop: Stop
    report: Report
    notify: Callable[[Warned | Checked], None]
    """Called with messages for the user, from several threads."""

    @property
    def cache(self) -> RepoCache:
        """The repository in the Hub's cache."""
        return RepoCache.of(self.snapshot)

    def prepare(self, listing: Path) -> None:
        """Save the list of files before the download, for offline use and against `hf cache prune`."""
        if not listing.exists() and os.access(existing(listing), os.W_OK):
            listing.parent.mkdir(parents=True, exist_ok=True)
            sweep_temporaries(listing.parent)
            with replacing(listing) as fresh:
                fresh.write_text(listing_text(self.snapshot), encoding="utf-8")
            self.cache.keep(self.snapshot.commit)

    def require_all_cached(self, include: tuple[str, ...]) -> None:
        """Check that everything is in the cache if the network must not be used.

        Raises:
            HubOfflineError: Names the missing files.
        """
        snapshot = self.snapshot
        missing = missing_files(snapshot.repo, snapshot.commit, snapshot.kind, include, snapshot)
        if missing:
            message = f"{self._at}: {missing}"
            raise HubOfflineError(message, hint="run it once without --offline")

    def fetch(self, file: RemoteFile) -> None:
        """Fetch and check one file. It stays in the Hub's own cache for other programs.

        Raises:
            DownloadCorruptError: Its bytes are wrong twice in a row.
            HubError: It cannot be downloaded.
            StoppedError: The threads must stop.
        """
        pointer = self.cache.pointer(self.snapshot.commit, file.path)
        if pointer.exists() and not self._is_right(pointer, file):
            pointer.unlink(missing_ok=True)
        if not pointer.exists():
            with hub_errors(self.snapshot.repo, self.snapshot.commit, file.path):
                pointer = self._from_hub(file)
        self._place(pointer.resolve(), file)

    def _place(self, blob: Path, file: RemoteFile) -> None:
        """Put a checked file in the folder. The very same file is not hashed again."""
        target = self.output / file.path
        link_or_copy(blob, target)
        if file.sha256 and target.samefile(blob):
            self.notify(Checked(file.path, file.sha256, fingerprint_of(target)))

    def _from_hub(self, file: RemoteFile) -> Path:
        url = hf_hub_url(self.snapshot.repo, file.path, revision=self.snapshot.commit, repo_type=self.snapshot.kind)
        about = calls.file_metadata(self.snapshot.repo, self.snapshot.commit, file.path, self.snapshot.kind, self.stop)
        etag = _plain(about, file)
        blob = self.cache.blob(etag)
        xet = None if constants.HF_HUB_DISABLE_XET else about.xet_file_data
        with self.cache.lock(etag, self.stop):
            if blob.exists() and self._is_right(blob, file):
                sweep_journal(self.cache.incomplete(etag))
            if not blob.exists():
                self._fetch(url, xet, file, etag)
            self.cache.point(self.snapshot.commit, file.path, blob)
        return blob

    def _fetch(self, url: str, xet: XetFileData | None, file: RemoteFile, etag: str) -> None:
        """Fetch a file's bytes. If they are wrong, retry once over plain HTTP.

        Raises:
            DownloadCorruptError: They are wrong again.
        """
        first = self._transfer(url, xet, file, etag)
        if first is None:
            return
        self._warn(f"{first}; fetching it again")
        second = self._transfer(url, None, file, etag)
        if second is not None:
            repeated = "and the same bytes again" if second == first else second
            message = f"{self._at}: the received bytes are wrong, twice in a row\n  {first}\n  {repeated}"
            hint = "a proxy or a disk may be at fault: compare the file that was set aside. Wrong bytes are never used"
            raise DownloadCorruptError(message, hint=hint)

    def _transfer(self, url: str, xet: XetFileData | None, file: RemoteFile, etag: str) -> str | None:
        """Fetch a file's bytes. Wrong bytes are set aside.

        Returns:
            None if the bytes are right and now in the cache; else the problem.
        """
        digest = digest_of(file.size, large=bool(file.sha256))
        with Partial(self.cache.incomplete(etag), file.size, digest, self.stop) as partial:
            self.report(file, partial.received)
            try:
                self._receive(url, xet, file, partial)
                found = partial.digest.hexdigest()
            except TooLongError:
                found = f"longer than {file.size} bytes"
            if found == file.digest:
                partial.finish(self.cache.blob(etag))
                return None
            place = self.cache.aside(file.path)
            partial.move_aside(place)
            return self._wrong(file, found, place)

    def _receive(self, url: str, xet: XetFileData | None, file: RemoteFile, partial: Partial) -> None:
        def report(received: int) -> None:
            self.report(file, received)

        if xet is not None:
            try:
                stream(xet, partial, self.stop, report)
            except XetFaultError as fault:
                self._warn(f"{file.path}: Xet storage: {fault}; fetching the rest over plain HTTP")
        transfer(url, f"{self._at}: {file.path}", partial, self.stop, report)

    def _is_right(self, path: Path, file: RemoteFile) -> bool:
        """Check the cache's bytes. Wrong bytes are set aside."""
        digest = digest_of(file.size, large=bool(file.sha256))
        received = 0
        with path.open("rb") as opened:
            while path.stat().st_size == file.size and (piece := opened.read(_READ)):
                self.stop.check()
                digest.update(piece)
                received += len(piece)
                self.report(file, received)
        if received == file.size and digest.hexdigest() == file.digest:
            return True
        place = self.cache.aside(file.path)
        path.resolve().replace(place)
        found = digest.hexdigest() if received == file.size else f"{place.stat().st_size} bytes instead of {file.size}"
        self._warn(f"the cache's copy of {self._wrong(file, found, place)}; fetching it again")
        return False

    @staticmethod
    def _wrong(file: RemoteFile, found: str, place: Path) -> str:
        kind = "sha256" if file.sha256 else "git sha1"
        return f"{file.path} is {found}, not {kind} {file.digest}; set aside as {place}"

    def _warn(self, message: str) -> None:
        self.notify(Warned(message))

    @property
    def _at(self) -> str:
        return f"{self.snapshot.repo}@{self.snapshot.commit}"


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file available at a second path: by hard link, or by copy if the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _plain(about: HfFileMetadata, file: RemoteFile) -> str:
    """Return the blob's name: the Hub's own, so that its client finds it, if it is a plain name."""
    etag = about.etag or ""
    return etag if etag and "/" not in etag and not etag.startswith(".") else file.digest
