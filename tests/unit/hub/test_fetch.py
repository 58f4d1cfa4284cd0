"""One file from the Hub into a folder: every byte is checked, wrong bytes are set aside, right ones are not fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants

from orchestrator.errors import DownloadCorruptError, HubNotFoundError, HubOfflineError
from orchestrator.events import Checked, Warned
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.fetch import Fetcher, link_or_copy
from orchestrator.hub.listing import RemoteFile, Snapshot, read_listing
from orchestrator.hub.stop import Stop, StoppedError
from tests.unit.hub.conftest import FakeHub

COMMIT = "c" * 40
BYTES = b"weights" * 1000
SHA256 = hashlib.sha256(BYTES).hexdigest()
LARGE = RemoteFile("sub/model.safetensors", len(BYTES), SHA256, "3" * 40)
TEXT = b"{}"
SMALL = RemoteFile("config.json", 2, None, hashlib.sha1(b"blob 2\0" + TEXT, usedforsecurity=False).hexdigest())


class Download:
    """A fetcher, the Hub that it asks, and what it tells."""

    def __init__(self, hub: FakeHub, folder: Path) -> None:
        self.hub = hub
        self.output = folder / "out"
        self.stop = Stop()
        self.told: list[Warned | Checked] = []
        self.reported: list[tuple[str, int]] = []
        self.cache = RepoCache(folder / "hub", "o/m", "model")
        self.sent = [BYTES]
        """What the Hub sends, one for each request; the last one from then on."""
        self.etag = SHA256
        hub.answer = self.answer

    @property
    def fetcher(self) -> Fetcher:
        files = Snapshot("o/m", "model", COMMIT, (SMALL, LARGE))
        return Fetcher(files, self.output, self.stop, self.report, self.told.append)

    def report(self, file: RemoteFile, there: int) -> None:
        self.reported.append((file.path, there))

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        assert f"/o/m/resolve/{COMMIT}/" in request.url.path
        body = self.sent[0]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.etag}"', "Content-Length": str(len(body))}
        if request.method == "HEAD":
            return httpx2.Response(200, headers=headers, request=request)
        if len(self.sent) > 1:
            self.sent.pop(0)
        return httpx2.Response(200, headers=headers, content=iter([body]), request=request)

    @property
    def fetched(self) -> int:
        return sum(request.method == "GET" for request in self.hub.requests)

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.told if isinstance(event, Warned)]


@pytest.fixture
def download(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Download(fake_hub, tmp_path)


def test_a_large_file_is_fetched_checked_and_kept_in_the_cache(download: Download) -> None:
    download.fetcher.fetch(LARGE)
    target = download.output / LARGE.path
    assert target.read_bytes() == BYTES
    assert download.cache.pointer(COMMIT, LARGE.path).resolve() == download.cache.blob(SHA256).resolve()
    [checked] = download.told
    assert isinstance(checked, Checked)
    assert (checked.path, checked.sha256) == (LARGE.path, SHA256)
    assert download.reported == [(LARGE.path, 0), (LARGE.path, len(BYTES))]
    assert not download.cache.incomplete(SHA256).exists()


def test_a_small_file_is_checked_by_gits_digest_and_hashed_later_by_the_store(download: Download) -> None:
    download.sent, download.etag = [TEXT], SMALL.git_sha1
    download.fetcher.fetch(SMALL)
    assert (download.output / SMALL.path).read_bytes() == TEXT
    assert download.told == []


def test_what_the_cache_has_is_checked_and_not_fetched(download: Download) -> None:
    download.fetcher.fetch(LARGE)
    again = Download(download.hub, download.output.parent)
    again.output = download.output.parent / "second"
    again.fetcher.fetch(LARGE)
    assert again.fetched == 1
    assert (again.output / LARGE.path).read_bytes() == BYTES
    assert again.reported == [(LARGE.path, len(BYTES))]


@pytest.mark.parametrize("left", [True, False])
def test_bytes_without_their_name_in_the_cache_are_used(download: Download, *, left: bool) -> None:
    blob = download.cache.blob(SHA256)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BYTES)
    journal = download.cache.incomplete(SHA256).with_suffix(".journal")
    if left:
        journal.write_text("left")
    download.fetcher.fetch(LARGE)
    assert download.fetched == 0
    assert not journal.exists()


def test_a_damaged_file_of_the_cache_is_set_aside_and_fetched_again(download: Download) -> None:
    download.fetcher.fetch(LARGE)
    wrong = b"x" + BYTES[1:]
    blob = download.cache.blob(SHA256)
    blob.unlink()
    blob.write_bytes(wrong)
    download.output = download.output.parent / "second"
    download.fetcher.fetch(LARGE)
    assert (download.output / LARGE.path).read_bytes() == BYTES
    assert download.cache.aside(LARGE.path).read_bytes() == wrong
    [warning] = download.warnings
    assert warning == (
        f"the cache's copy of {LARGE.path} is {hashlib.sha256(wrong).hexdigest()}, not sha256 {SHA256}; "
        f"set aside as {download.cache.aside(LARGE.path)}; fetching it again"
    )


def test_a_file_of_the_cache_with_another_size_is_told_by_its_size(download: Download) -> None:
    download.fetcher.fetch(LARGE)
    blob = download.cache.blob(SHA256)
    blob.unlink()
    blob.write_bytes(BYTES[:-1])
    download.output = download.output.parent / "second"
    download.fetcher.fetch(LARGE)
    assert f"is {len(BYTES) - 1} bytes instead of {len(BYTES)}, not sha256" in download.warnings[0]


def test_wrong_bytes_are_set_aside_and_fetched_once_more(download: Download) -> None:
    wrong = b"y" + BYTES[1:]
    download.sent = [wrong, BYTES]
    download.fetcher.fetch(LARGE)
    assert (download.output / LARGE.path).read_bytes() == BYTES
    assert download.cache.aside(LARGE.path).read_bytes() == wrong
    [warning] = download.warnings
    assert warning.startswith(f"{LARGE.path} is {hashlib.sha256(wrong).hexdigest()}, not sha256 {SHA256}; set aside")
    assert warning.endswith("; fetching it again")


@pytest.mark.parametrize(
    ("second", "words"), [(b"y" + BYTES[1:], "and the same bytes again"), (b"z" + BYTES[1:], "is ")]
)
def test_wrong_bytes_twice_are_an_error_with_both_digests(download: Download, second: bytes, words: str) -> None:
    download.sent = [b"y" + BYTES[1:], second]
    with pytest.raises(
        DownloadCorruptError, match=f"o/m@{COMMIT}: the received bytes are wrong, twice in a row"
    ) as raised:
        download.fetcher.fetch(LARGE)
    assert words in raised.value.message.splitlines()[-1]
    assert raised.value.hint.startswith("a proxy or a disk may be at fault")
    assert not (download.output / LARGE.path).exists()


def test_more_bytes_than_the_file_has_are_wrong(download: Download) -> None:
    download.sent = [BYTES + b"x", BYTES]
    download.fetcher.fetch(LARGE)
    assert f"is longer than {len(BYTES)} bytes" in download.warnings[0]


def test_a_file_that_the_hub_does_not_have_is_named(download: Download, fake_hub: FakeHub) -> None:
    fake_hub.answer = lambda request: httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound"}, request=request)
    with pytest.raises(HubNotFoundError, match=LARGE.path):
        download.fetcher.fetch(LARGE)


@pytest.mark.parametrize("etag", ["a/b", ".hidden"])
def test_a_name_of_the_hub_that_is_no_plain_name_is_not_used_for_a_file(download: Download, etag: str) -> None:
    download.etag = etag
    download.fetcher.fetch(LARGE)
    assert download.cache.blob(SHA256).is_file()


def test_a_thread_that_must_stop_fetches_nothing_more(download: Download) -> None:
    download.stop.set()
    with pytest.raises(StoppedError):
        download.fetcher.fetch(LARGE)
    assert not (download.output / LARGE.path).exists()


def test_the_list_of_files_is_kept_once_for_offline_use(download: Download) -> None:
    for name in ("one", "two", "one"):
        listing = download.cache.listing(name)
        download.fetcher.prepare(listing)
        assert read_listing(listing) == download.fetcher.snapshot
    assert (download.cache.folder / "refs" / f"orchestrator-{COMMIT[:12]}").read_text() == COMMIT
    kept = download.cache.listing("one")
    kept.write_text("kept")
    download.fetcher.prepare(kept)
    assert kept.read_text() == "kept"


def test_without_network_everything_must_be_there(download: Download) -> None:
    with pytest.raises(HubOfflineError, match=f"o/m@{COMMIT}: 2 of 2 files are not in") as raised:
        download.fetcher.require_all_cached(("*",))
    assert raised.value.hint == "run it once without --offline"
    for file, content in ((SMALL, TEXT), (LARGE, BYTES)):
        pointer = download.cache.pointer(COMMIT, file.path)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_bytes(content)
    download.fetcher.require_all_cached(("*",))


def test_where_links_are_impossible_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(BYTES)
    link_or_copy(source, tmp_path / "a" / "linked")
    assert (tmp_path / "a" / "linked").samefile(source)

    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", no_links)
    link_or_copy(source, tmp_path / "b" / "copied")
    assert (tmp_path / "b" / "copied").read_bytes() == BYTES
    assert not (tmp_path / "b" / "copied").samefile(source)
