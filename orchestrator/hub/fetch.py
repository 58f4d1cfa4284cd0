"""One snapshot into a folder: from the Hub's cache where it is right, from the Hub where not, every byte checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import HfFileMetadata

from orchestrator.errors import DownloadCorruptError, HubOfflineError
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.offline import missing_files
from orchestrator.hub.partial import Partial, digest_of
from orchestrator.hub.snapshot import RemoteFile, Snapshot, listing_text
from orchestrator.hub.stop import Stop
from orchestrator.hub.transfer import TooLongError, transfer
from orchestrator.hub.words import hub_words
from orchestrator.room import existing

_READ = 1 << 20

Report = Callable[[RemoteFile, int], None]
"""Called with a file and how many of its bytes are there; from several threads."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches the files of one snapshot; several threads may, each another file."""

    snapshot: Snapshot
    output: Path
    stop: Stop
    report: Report
    say: Callable[[str], None]
    """Called with what a reader of the log should know."""

    @property
    def cache(self) -> RepoCache:
        """The repository's place in the Hub's cache."""
        return RepoCache.of(self.snapshot)

    def prepare(self, listing: Path) -> None:
        """Write down what is about to be fetched, for days without network and against `hf cache prune`."""
        if not listing.exists() and os.access(existing(listing), os.W_OK):
            listing.parent.mkdir(parents=True, exist_ok=True)
            temporary = listing.with_suffix(f".{os.getpid()}")
            temporary.write_text(listing_text(self.snapshot), encoding="utf-8")
            temporary.replace(listing)
            self.cache.keep(self.snapshot.commit)

    def insist_on_everything(self, include: tuple[str, ...]) -> None:
        """Where the network may not be used, everything must be there.

        Raises:
            HubOfflineError: Naming what is not.
        """
        wanted = self.snapshot
        missing = missing_files(wanted.repo, wanted.commit, wanted.kind, include, wanted)
        if missing:
            message = f"{self._at}: {missing}"
            raise HubOfflineError(message, hint="run it once without --offline")

    def fetch(self, file: RemoteFile) -> None:
        """Bring one file into the folder, checked; it stays in the Hub's own cache for other programs.

        Raises:
            DownloadCorruptError: Where it is twice in a row not what it must be.
            HubError: Where it cannot be had.
            StoppedError: Where the threads are to end.
        """
        pointer = self.cache.pointer(self.snapshot.commit, file.path)
        if pointer.exists():
            if self._is_right(pointer, file):
                link_or_copy(pointer.resolve(), self.output / file.path)
                return
            _remove(pointer.resolve(), pointer)
        with hub_words(self.snapshot.repo, self.snapshot.commit):
            blob = self._from_hub(file)
        link_or_copy(blob.resolve(), self.output / file.path)

    def _from_hub(self, file: RemoteFile) -> Path:
        url = hf_hub_url(self.snapshot.repo, file.path, revision=self.snapshot.commit, repo_type=self.snapshot.kind)
        about = get_hf_file_metadata(url, retry_on_errors=True)
        if about.xet_file_data is not None and not constants.HF_HUB_DISABLE_XET:
            return self._through_client(file)
        etag = _plain(about, file)
        blob = self.cache.blob(etag)
        with self.cache.lock(etag, self.stop):
            if blob.exists() and not self._is_right(blob, file):
                _remove(blob)
            if not blob.exists() and not any(self._transfer(url, file, etag) for _ in range(2)):
                raise self._corrupt(file)
            self.cache.point(self.snapshot.commit, file.path, blob)
        return blob

    def _transfer(self, url: str, file: RemoteFile, etag: str) -> bool:
        """Fetch a file's bytes; what is wrong is given up.

        Returns:
            Whether it is what it must be, and now in the cache.
        """
        digest = digest_of(file.size, large=bool(file.sha256))
        with Partial(self.cache.incomplete(etag), file.size, digest, self.stop) as partial:
            self.report(file, partial.received)
            try:
                transfer(url, f"{self._at}: {file.path}", partial, self.stop, lambda there: self.report(file, there))
            except TooLongError:
                partial.drop()
                self.say(f"{file.path} is not what it must be: longer than {file.size} bytes")
                return False
            if partial.digest.hexdigest() != _etag(file):
                partial.drop()
                self.say(f"{file.path} is not what it must be: {partial.digest.hexdigest()}, not {_etag(file)}")
                return False
            partial.finish(self.cache.blob(etag))
        return True

    def _through_client(self, file: RemoteFile) -> Path:
        """Leave a file of Xet storage to hf_xet, which knows its chunks, and check what it brought."""
        for again in (False, True):
            pointer = Path(
                hf_hub_download(
                    self.snapshot.repo,
                    file.path,
                    revision=self.snapshot.commit,
                    repo_type=self.snapshot.kind,
                    force_download=again,
                )
            )
            if self._is_right(pointer, file):
                return pointer
        _remove(pointer.resolve(), pointer)
        raise self._corrupt(file)

    def _is_right(self, path: Path, file: RemoteFile) -> bool:
        if path.stat().st_size != file.size:
            return False
        digest = digest_of(file.size, large=bool(file.sha256))
        there = 0
        with path.open("rb") as stream:
            while piece := stream.read(_READ):
                self.stop.check()
                digest.update(piece)
                there += len(piece)
                self.report(file, there)
        return digest.hexdigest() == _etag(file)

    def _corrupt(self, file: RemoteFile) -> DownloadCorruptError:
        message = f"{self._at}: {file.path} is not what the Hub says it is, twice in a row"
        return DownloadCorruptError(message, hint="a proxy or a disk may be at fault; nothing was kept")

    @property
    def _at(self) -> str:
        return f"{self.snapshot.repo}@{self.snapshot.commit}"


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file appear in a second place: by hard link, or by copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _etag(file: RemoteFile) -> str:
    """Give the digest by which the Hub, and so its cache, know a file."""
    return file.sha256 or file.git_sha1


def _plain(about: HfFileMetadata, file: RemoteFile) -> str:
    """Give the name of the blob: the Hub's word, so that its client finds it, as long as it is a plain name."""
    etag = about.etag or ""
    return etag if etag and "/" not in etag and not etag.startswith(".") else _etag(file)


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
