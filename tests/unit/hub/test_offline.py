"""What the Hub's cache has and lacks without a network, and what a download will still write."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from orchestrator.errors import HubOfflineError
from orchestrator.hub.cache import RepoCache, set_aside
from orchestrator.hub.listing import RemoteFile, Snapshot, listing_text
from orchestrator.hub.offline import listing_file, missing_files
from orchestrator.hub.outstanding import expected_needs, known_snapshot, needs
from orchestrator.hub.snapshot import resolve_commit

COMMIT = "c" * 40
SMALL = RemoteFile("config.json", 10, None, "1" * 40)
LARGE = RemoteFile("model.safetensors", 100, "2" * 64, "3" * 40)
SNAPSHOT = Snapshot("o/m", "model", COMMIT, (SMALL, LARGE))
PATTERNS = ("*.json", "*.safetensors")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RepoCache:
    """An empty cache of the Hub, in the same file system as everything else."""
    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    return RepoCache(root, "o/m", "model")


def put(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)


def remember(snapshot: Snapshot = SNAPSHOT, patterns: tuple[str, ...] = PATTERNS) -> None:
    file = listing_file("o/m", COMMIT, "model", patterns)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(listing_text(snapshot))


def missing(known: Snapshot | None = None) -> str:
    return missing_files("o/m", COMMIT, "model", PATTERNS, known)


def test_the_cache_has_the_layout_of_the_hubs_client(cache: RepoCache) -> None:
    assert cache.folder.name == "models--o--m"
    assert cache.blob("e").relative_to(cache.folder) == Path("blobs/e")
    assert cache.pointer(COMMIT, "a/b").relative_to(cache.folder) == Path(f"snapshots/{COMMIT}/a/b")
    assert RepoCache.of(SNAPSHOT) == cache


def test_without_a_list_the_files_of_a_commit_are_unknown(cache: RepoCache) -> None:
    assert missing() == "the list of its files is not known"
    assert known_snapshot("o/m", COMMIT, "model", PATTERNS, None) is None
    assert not cache.folder.exists()


@pytest.mark.usefixtures("cache")
def test_a_list_is_remembered_for_its_patterns() -> None:
    remember()
    assert known_snapshot("o/m", COMMIT, "model", PATTERNS, None) == SNAPSHOT
    assert known_snapshot("o/m", COMMIT, "model", ("*.json",), None) is None
    assert known_snapshot("o/m", "d" * 40, "model", PATTERNS, None) is None


@pytest.mark.usefixtures("cache")
def test_the_list_of_a_lock_comes_first() -> None:
    remember()
    locked = Snapshot("o/m", "model", COMMIT, (SMALL,))
    assert known_snapshot("o/m", COMMIT, "model", PATTERNS, listing_text(locked)) == locked


def test_files_that_are_missing_are_counted_and_named(cache: RepoCache) -> None:
    remember()
    assert missing() == f"2 of 2 files are not in {cache.folder}: config.json, model.safetensors"
    put(cache.pointer(COMMIT, SMALL.path), SMALL.size)
    assert missing() == f"1 of 2 files are not in {cache.folder}: model.safetensors"
    put(cache.blob(str(LARGE.sha256)), LARGE.size)  # bytes without a name count, too
    assert missing() == ""


def test_a_file_of_another_size_is_missing(cache: RepoCache) -> None:
    put(cache.pointer(COMMIT, SMALL.path), SMALL.size - 1)
    put(cache.blob(SMALL.git_sha1), SMALL.size + 1)
    assert missing(Snapshot("o/m", "model", COMMIT, (SMALL,))).startswith("1 of 1 files")
    put(cache.blob(SMALL.git_sha1), SMALL.size)
    assert missing(Snapshot("o/m", "model", COMMIT, (SMALL,))) == ""


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("number", "end"), [(5, "f4"), (6, "f4 …"), (7, "f4 …")])
def test_of_many_missing_files_five_are_named(number: int, end: str) -> None:
    files = tuple(RemoteFile(f"f{place}", 1, None, f"{place}" * 40) for place in range(number))
    found = missing(Snapshot("o/m", "model", COMMIT, files))
    assert found.startswith(f"{number} of {number} files")
    assert found.endswith(f"f0, f1, f2, f3, {end}")


def test_a_branch_is_the_commit_that_the_cache_has_for_it(cache: RepoCache) -> None:
    put(cache.folder / "refs" / "main", 0)
    with pytest.raises(HubOfflineError, match="its commit is not known without network"):
        resolve_commit("o/m", "main", offline=True)
    (cache.folder / "refs" / "main").write_text(f"{COMMIT}\n")
    assert resolve_commit("o/m", "main", offline=True) == COMMIT
    with pytest.raises(HubOfflineError, match="o/m@other"):
        resolve_commit("o/m", "other", offline=True)
    assert resolve_commit("o/m", "e" * 40, offline=True) == "e" * 40


@pytest.mark.parametrize("revision", ["c" * 39, "c" * 41, "C" * 40, "g" * 40])
@pytest.mark.usefixtures("cache")
def test_what_only_looks_like_a_commit_is_a_branch(revision: str) -> None:
    with pytest.raises(HubOfflineError):
        resolve_commit("o/m", revision, offline=True)


def test_a_download_needs_what_neither_the_cache_nor_a_partial_file_has(cache: RepoCache, tmp_path: Path) -> None:
    [everything] = needs(SNAPSHOT, tmp_path / "out", "download")
    assert (everything.folder, everything.size) == (cache.folder, 110)
    assert everything.what == "download: 2 of 2 files to fetch"
    put(cache.blob(SMALL.git_sha1), SMALL.size)
    partial = cache.incomplete(str(LARGE.sha256))
    put(partial, 60)
    partial.with_suffix(".journal").write_text("orchestrator 1 100\n40\n")
    [rest] = needs(SNAPSHOT, tmp_path / "out", "download")
    assert (rest.size, rest.what) == (60, "download: 1 of 2 files to fetch")


def test_unknown_files_need_what_is_expected_less_what_is_there(cache: RepoCache, tmp_path: Path) -> None:
    [whole] = expected_needs("o/m", "model", 1000, tmp_path / "out", "download")
    assert (whole.folder, whole.size, whole.what) == (cache.folder, 1000, "download: to fetch, as predicted")
    put(cache.blob("a"), 300)
    [rest] = expected_needs("o/m", "model", 1000, tmp_path / "out", "download")
    [none] = expected_needs("o/m", "model", 200, tmp_path / "out", "download")
    assert (rest.size, none.size) == (700, 0)


def test_where_files_cannot_be_linked_a_copy_needs_its_bytes_too(
    cache: RepoCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.hub.outstanding.device_of", lambda folder: 1 if Path(folder).is_relative_to(cache.root) else 2
    )
    coming, copy = needs(SNAPSHOT, tmp_path / "out", "download")
    assert (coming.size, copy.size, copy.folder) == (110, 110, tmp_path / "out")
    assert copy.what == "download: a copy out of the Hub's cache"
    assert [need.size for need in expected_needs("o/m", "model", 500, tmp_path / "out", "download")] == [500, 500]


def test_a_file_gets_its_name_as_a_link_and_may_get_it_again(cache: RepoCache) -> None:
    put(cache.blob("a"), 3)
    pointer = cache.pointer(COMMIT, "sub/file")
    for _ in range(2):
        assert cache.point(COMMIT, "sub/file", cache.blob("a")) == pointer
        assert pointer.is_symlink()
        assert pointer.resolve() == cache.blob("a").resolve()
    assert [each.name for each in pointer.parent.iterdir()] == ["file"]


def test_a_commit_is_kept_by_a_reference_that_names_it(cache: RepoCache) -> None:
    for _ in range(2):
        cache.keep(COMMIT)
        assert (cache.folder / "refs" / f"orchestrator-{COMMIT[:12]}").read_text() == COMMIT


def test_wrong_bytes_are_listed_for_every_repository(cache: RepoCache) -> None:
    other = RepoCache(cache.root, "a/b", "dataset")
    put(cache.aside("sub/file"), 1)
    put(other.aside("file"), 1)
    assert list(set_aside(cache.root)) == [other.aside("file"), cache.aside("sub/file")]
