"""The store: what is published stays, whatever changed is noticed, and half-done work is never taken for done."""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ArtifactCorruptError, LocksMissingError, OutputMissingError
from orchestrator.events import Checked
from orchestrator.store import owner
from orchestrator.store.artifact import Artifact, hash_files
from orchestrator.store.fingerprint import fingerprint_of
from orchestrator.store.store import Attempt, Store, remove_tree

KEY, OTHER = "a" * 64, "ab" * 32
WEIGHTS = b"weights of a model" * 100
GONE = f"{owner.this_process().split(':')[0]}:{2**22 + 1}:1"
"""No process has this number: the largest one is 2**22."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def begin(store: Store, key: str = KEY) -> Attempt:
    attempt = store.attempt(key)
    (attempt.out / "deep").mkdir()
    (attempt.out / "deep" / "weights.bin").write_bytes(WEIGHTS)
    (attempt.out / "config.json").write_text("{}")
    (attempt.folder / "log.txt").write_text("a line\n")
    return attempt


def publish(store: Store, key: str = KEY) -> Artifact:
    return store.publish(begin(store, key), key, "quantize")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def writable(path: Path) -> Path:
    path.parent.chmod(0o755)
    path.chmod(0o644)
    return path


def test_nothing_is_found_before_it_is_published(store: Store) -> None:
    assert store.find(KEY) is None
    begin(store)
    assert store.find(KEY) is None


def test_what_was_published_is_found_again(store: Store) -> None:
    published = publish(store)
    found = store.find(KEY)
    assert found == published
    assert [(file.path, file.size) for file in published.files] == [("config.json", 2), ("deep/weights.bin", 1800)]
    assert published.size == 1802
    assert published.log.read_text() == "a line\n"
    assert (published.folder / "deep" / "weights.bin").read_bytes() == WEIGHTS


def test_publishing_leaves_no_attempt_behind(store: Store) -> None:
    publish(store)
    assert store.attempts() == ()


def test_the_digest_is_that_of_the_bytes_and_their_names(store: Store) -> None:
    first, second = publish(store, KEY), publish(store, OTHER)
    assert first.digest == second.digest
    attempt = begin(store, "c" * 64)
    (attempt.out / "config.json").rename(attempt.out / "other.json")
    assert store.publish(attempt, "c" * 64, "quantize").digest != first.digest


def test_what_is_published_is_read_only(store: Store) -> None:
    folder = publish(store).folder
    for path in (folder, *folder.rglob("*")):
        assert not path.stat().st_mode & 0o222, path


def test_a_file_that_others_share_keeps_its_mode(store: Store, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_text("x")
    shared.chmod(0o644)
    attempt = begin(store)
    os.link(shared, attempt.out / "shared")
    store.publish(attempt, KEY, "download")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o644


def add_link(out: Path) -> None:
    (out / "link").symlink_to("config.json")


def add_way_out(out: Path) -> None:
    (out / "deep" / "link").symlink_to("/etc/passwd")


def add_linked_folder(out: Path) -> None:
    (out / "folder").symlink_to("deep", target_is_directory=True)


def add_pipe(out: Path) -> None:
    os.mkfifo(out / "pipe")


@pytest.mark.parametrize("spoil", [add_link, add_way_out, add_linked_folder, add_pipe])
def test_a_link_or_special_file_is_never_published(store: Store, spoil: Callable[[Path], None]) -> None:
    attempt = begin(store)
    spoil(attempt.out)
    with pytest.raises(OutputMissingError, match="link or special file"):
        store.publish(attempt, KEY, "quantize")
    assert store.find(KEY) is None


def test_a_second_result_of_a_key_replaces_the_first(store: Store) -> None:
    publish(store)
    attempt = begin(store)
    (attempt.out / "config.json").write_text('{"second": true}')
    published = store.publish(attempt, KEY, "quantize")
    assert store.find(KEY) == published
    assert (published.folder / "config.json").read_text() == '{"second": true}'
    assert names(store.root / "aside") == []


def change_a_byte(artifact: Artifact) -> None:
    file = writable(artifact.folder / "deep" / "weights.bin")
    times = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"W")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def truncate(artifact: Artifact) -> None:
    os.truncate(writable(artifact.folder / "deep" / "weights.bin"), 10)


def delete(artifact: Artifact) -> None:
    writable(artifact.folder / "config.json").unlink()


def delete_all(artifact: Artifact) -> None:
    remove_tree(artifact.folder)


def add(artifact: Artifact) -> None:
    artifact.folder.chmod(0o755)
    (artifact.folder / "extra").write_text("x")


def link_away(artifact: Artifact) -> None:
    file = writable(artifact.folder / "config.json")
    file.unlink()
    file.symlink_to("/etc/hostname")


def spoil_manifest(artifact: Artifact) -> None:
    (artifact.folder.parent / "manifest.json").write_text("{")


def empty_manifest(artifact: Artifact) -> None:
    (artifact.folder.parent / "manifest.json").write_bytes(b"")


def delete_manifest(artifact: Artifact) -> None:
    (artifact.folder.parent / "manifest.json").unlink()


def list_manifest(artifact: Artifact) -> None:
    (artifact.folder.parent / "manifest.json").write_text("[]")


def change_manifest(artifact: Artifact) -> None:
    """Change one digit of a digest, as a bad disk may: it still parses."""
    file = artifact.folder.parent / "manifest.json"
    fields = json.loads(file.read_text())
    digest = fields["files"][0]["sha256"]
    fields["files"][0]["sha256"] = ("0" if digest[0] != "0" else "1") + digest[1:]
    file.write_text(json.dumps(fields))


DAMAGES = [
    change_a_byte,
    truncate,
    delete,
    delete_all,
    add,
    link_away,
    spoil_manifest,
    empty_manifest,
    delete_manifest,
    list_manifest,
    change_manifest,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_changed_on_disk_is_noticed(store: Store, damage: Callable[[Artifact], None]) -> None:
    damage(publish(store))
    with pytest.raises(ArtifactCorruptError) as caught:
        store.find(KEY)
    assert caught.value.code == "ARTIFACT_CORRUPT"
    with pytest.raises(ArtifactCorruptError):  # and it stays noticed
        store.find(KEY)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_set_aside_and_makes_room(store: Store, damage: Callable[[Artifact], None]) -> None:
    damage(publish(store))
    place = store.set_aside(KEY)
    assert place.is_dir()
    assert store.find(KEY) is None
    assert publish(store) == store.find(KEY)


def test_a_file_that_was_only_touched_is_hashed_again_and_fine(store: Store) -> None:
    published = publish(store)
    os.utime(published.folder / "config.json")
    assert store.find(KEY) == published


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", "12"])
def test_without_its_note_of_the_files_times_a_result_is_hashed_again(store: Store, text: str | None) -> None:
    published = publish(store)
    note = store.root / "stats" / f"{KEY}.json"
    if text is None:
        note.unlink()
    else:
        note.write_text(text)
    assert store.find(KEY) == published
    change_a_byte(published)
    with pytest.raises(ArtifactCorruptError):
        store.find(KEY)


def test_a_link_made_of_a_published_file_is_no_change(store: Store, tmp_path: Path) -> None:
    published = publish(store)
    os.link(published.folder / "config.json", tmp_path / "linked.json")
    assert store.find(KEY) == published


def test_a_store_that_was_moved_is_still_good(store: Store, tmp_path: Path) -> None:
    publish(store)
    shutil.copytree(store.root, tmp_path / "copy")
    assert Store(tmp_path / "copy").find(KEY) is not None


def test_only_readable_results_are_listed(store: Store) -> None:
    spoil_manifest(publish(store, KEY))
    good = publish(store, OTHER)
    assert list(store.artifacts()) == [good]


def test_a_forgotten_result_is_gone(store: Store) -> None:
    publish(store)
    store.remove(KEY)
    assert store.find(KEY) is None
    assert names(store.root / "stats") == []
    store.remove(KEY)


def test_sweeping_takes_only_the_tries_at_its_own_key(store: Store) -> None:
    begin(store, KEY)
    begin(store, KEY)
    kept = begin(store, OTHER)
    store.sweep(KEY)
    assert store.attempts() == (kept.folder,)


def test_sweeping_takes_read_only_tries_too(store: Store) -> None:
    attempt = begin(store)
    (attempt.out / "deep").chmod(0o555)
    store.sweep(KEY)
    assert store.attempts() == ()


def test_removing_a_tree_never_follows_a_link_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside, target_is_directory=True)
    remove_tree(inside)
    assert not inside.exists()
    assert (outside / "file").read_text() == "x"
    remove_tree(tmp_path / "was never there")


def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record what is flushed to disk, in order."""
    paths: list[Path] = []

    def record(descriptor: int) -> None:
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", record)
    return paths


def test_a_result_is_on_disk_before_its_attempt_is_marked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = begin(store)
    everything = {path.resolve() for path in attempt.folder.rglob("*")}
    paths = flushed(monkeypatch)
    attempt.seal()
    mark = next(place for place, path in enumerate(paths) if path.name.startswith(".ended"))
    assert everything <= set(paths[:mark])
    assert paths[mark + 1 :] == [attempt.folder.resolve()]  # the name of the mark, too


def test_a_result_is_on_disk_before_it_is_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = begin(store)
    everything = {path.resolve() for path in attempt.out.rglob("*")}
    paths = flushed(monkeypatch)
    store.publish(attempt, KEY, "quantize")
    manifest = next(place for place, path in enumerate(paths) if path.name.startswith(".manifest.json"))
    assert everything <= set(paths[:manifest])
    final = (store.root / "artifacts").resolve()
    assert paths[manifest + 1 : -1] == [attempt.out.resolve(), attempt.folder.resolve(), final]


def test_a_held_key_keeps_others_waiting_and_says_so(store: Store) -> None:
    waiting = threading.Event()
    entered: list[str] = []

    def other() -> None:
        with store.lock(KEY, waiting.set):
            entered.append("other")

    with store.lock(KEY, lambda: None):
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(10)
        entered.append("first")
    thread.join(10)
    assert entered == ["first", "other"]


def test_different_keys_do_not_wait_for_each_other(store: Store) -> None:
    with store.lock(KEY, pytest.fail), store.lock(OTHER, lambda: pytest.fail("it waited")):
        pass


def test_a_lock_is_let_go_whatever_happens(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt) as kept, store.lock(KEY, lambda: None):
        raise KeyboardInterrupt
    with store.lock(KEY, lambda: pytest.fail("it is still held")):
        pass
    assert kept.tb is not None  # the lock was not released only because nothing refers to it any more


def test_a_lock_that_was_only_tried_is_let_go_whatever_happens(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt) as kept, store.try_lock(KEY):
        raise KeyboardInterrupt
    with store.try_lock(KEY) as again:
        assert again
    assert kept.tb is not None


def half_written(store: Store) -> None:
    """Killed while the step wrote."""
    begin(store)


def manifest_half_written(store: Store) -> None:
    """Killed while the manifest was written beside its place."""
    (begin(store).folder / ".manifest.json.01234567").write_text('{"format": 1, "ke')


def manifest_written(store: Store) -> None:
    """Killed before the rename: everything is there, but in the attempt."""
    published = publish(store)
    published.folder.parent.rename(store.root / "attempts" / f"{KEY}-01234567")
    (store.root / "stats" / f"{KEY}.json").unlink()


def older_one_moved(store: Store) -> None:
    """Killed while a newer result took the place of an older one."""
    publish(store)
    store.set_aside(KEY)
    begin(store)


@pytest.mark.parametrize("crash", [half_written, manifest_half_written, manifest_written, older_one_moved])
def test_what_a_killed_build_left_half_done_is_never_taken_for_done(
    store: Store, crash: Callable[[Store], None]
) -> None:
    crash(store)
    assert store.find(KEY) is None
    published = publish(store)
    store.sweep(KEY)
    assert store.find(KEY) == published
    assert store.attempts() == ()


def test_a_result_that_was_renamed_but_not_noted_is_found(store: Store) -> None:
    published = publish(store)
    (store.root / "stats" / f"{KEY}.json").unlink()  # killed between the rename and the note
    assert store.find(KEY) == published


def test_a_half_removed_result_is_noticed_and_made_again(store: Store) -> None:
    published = publish(store)
    published.folder.chmod(0o755)
    (published.folder / "config.json").unlink()  # killed while it was removed
    with pytest.raises(ArtifactCorruptError):
        store.find(KEY)


RENAMES: list[tuple[str, str]] = []
RECORDING = [False]


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if RECORDING[0] and event == "os.rename":
        RENAMES.append((str(arguments[0]), str(arguments[1])))


def test_a_result_appears_by_one_rename_after_its_manifest(store: Store) -> None:
    sys.addaudithook(_record)
    attempt = begin(store)
    RENAMES.clear()
    RECORDING[0] = True
    try:
        store.publish(attempt, KEY, "quantize")
    finally:
        RECORDING[0] = False
    targets = [Path(target).relative_to(store.root).parts for _, target in RENAMES]
    assert [parts[0] for parts in targets] == ["attempts", "artifacts", "stats"]
    assert targets[0][-1] == "manifest.json"
    assert targets[1] == ("artifacts", KEY)


def test_a_sealed_attempt_is_found_until_it_is_published(store: Store) -> None:
    attempt = begin(store)
    assert store.sealed(KEY) is None
    attempt.seal()
    assert store.sealed(KEY) == attempt
    assert store.sealed(OTHER) is None
    published = store.publish(attempt, KEY, "quantize")
    assert store.sealed(KEY) is None
    assert store.find(KEY) == published
    assert names(published.folder.parent) == ["log.txt", "manifest.json", "out"]


def test_publishing_goes_on_where_it_was_interrupted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = begin(store)
    attempt.seal()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.publish(attempt, KEY, "quantize")
    assert store.find(KEY) is None
    assert store.sealed(KEY) == attempt
    assert store.publish(attempt, KEY, "quantize") == store.find(KEY)


def test_what_is_owed_is_known_until_it_is_swept(store: Store) -> None:
    assert not store.has_leftovers(KEY)
    store.mark_leftovers(KEY)
    assert store.has_leftovers(KEY)
    store.sweep(KEY)
    assert not store.has_leftovers(KEY)


def test_a_lock_that_somebody_holds_is_not_waited_for(store: Store) -> None:
    with store.try_lock(KEY) as first, store.try_lock(OTHER) as other:
        assert first
        assert other
        with store.try_lock(KEY) as second:
            assert not second
    with store.try_lock(KEY) as again:
        assert again


def test_the_keys_that_a_running_build_reads_are_in_use(store: Store) -> None:
    with store.use() as note:
        note(KEY)
        note(OTHER)
        assert store.used() == {KEY, OTHER}
    assert store.used() == frozenset()
    assert names(store.root / "uses") == []


def test_the_keys_of_a_killed_build_are_named_once_more(store: Store) -> None:
    with store.use() as note:
        note(OTHER)
        (store.root / "uses" / "killed").write_text(f"{GONE}\n{KEY}\n")
        assert store.used() == {KEY, OTHER}
        assert "killed" not in names(store.root / "uses")
        assert store.used() == {OTHER}


def test_a_build_that_has_just_begun_to_record_its_keys_is_left_alone(store: Store) -> None:
    (store.root / "uses").mkdir(parents=True)
    (store.root / "uses" / "begun").touch()
    (store.root / "uses" / "ended meanwhile").symlink_to("nowhere")
    assert store.used() == frozenset()
    assert "begun" in names(store.root / "uses")


def test_making_the_store_forgets_the_keys_of_killed_builds(store: Store) -> None:
    (store.root / "uses").mkdir(parents=True)
    (store.root / "uses" / "killed").write_text(f"{GONE}\n{KEY}\n")
    store.make()
    assert names(store.root / "uses") == []
    assert (store.root / "artifacts").is_dir()


def test_a_result_is_read_without_a_check_of_its_files(store: Store) -> None:
    assert store.look(KEY) is None
    published = publish(store)
    change_a_byte(published)
    assert store.look(KEY) == published
    spoil_manifest(published)
    assert store.look(KEY) is None


def test_a_manifest_lists_the_files_in_the_order_of_their_names(store: Store) -> None:
    attempt = store.attempt(KEY)
    for name in ("a/b", "a-b", "a"):  # folders sort after what continues their name with a smaller character
        file = attempt.out / name if name != "a" else attempt.out / "a" / "a"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(name.encode())
    fields = json.loads(store.publish(attempt, KEY, "quantize").manifest.read_text())
    assert (fields["format"], fields["key"], fields["step"]) == (1, KEY, "quantize")
    assert [file["path"] for file in fields["files"]] == ["a-b", "a/a", "a/b"]


def test_a_file_that_vanishes_while_it_is_hashed_is_a_change(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(store)

    def vanished(path: Path, *_: object) -> str:
        raise FileNotFoundError(2, "No such file", str(path))

    monkeypatch.setattr("orchestrator.store.artifact.sha256_of", vanished)
    with pytest.raises(ArtifactCorruptError, match="was changed"):
        store.check(published)


def test_an_interrupt_ends_the_hashing_of_large_files(store: Store) -> None:
    attempt = store.attempt(KEY)
    for number in range(8):
        with (attempt.out / f"shard-{number}").open("wb") as file:
            file.truncate(1 << 40)  # hashing it to its end takes longer than a test may
    started = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    started.start()
    with pytest.raises(KeyboardInterrupt):
        hash_files(attempt.out)


def test_what_killed_writers_left_is_removed_by_the_next_build(store: Store) -> None:
    store.remember(publish(store))
    left = store.root / "stats" / f".{KEY}.json.{GONE}-0123abcd"
    left.touch()
    store.make()
    assert not left.exists()


def test_what_a_killed_publisher_left_in_a_try_is_not_published(store: Store) -> None:
    attempt = begin(store)
    attempt.seal()
    left = f".manifest.json.{GONE}-0123abcd"
    (attempt.folder / left).write_text("half of a mani", encoding="utf-8")
    sealed = store.sealed(KEY)
    assert sealed is not None
    artifact = store.publish(sealed, KEY, "step")
    assert left not in names(artifact.manifest.parent)


def test_a_file_that_was_hashed_when_it_arrived_is_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = store.attempt(KEY)
    (attempt.out / "weights").write_bytes(b"weights")
    checked = Checked("weights", hashlib.sha256(b"weights").hexdigest(), fingerprint_of(attempt.out / "weights"))
    monkeypatch.setattr("orchestrator.store.artifact.sha256_of", pytest.fail)
    artifact = store.publish(attempt, KEY, "download", {"weights": checked})
    monkeypatch.undo()
    assert artifact.files[0].sha256 == checked.sha256
    store.check(artifact)


@pytest.mark.parametrize("harm", ["bytes", "bytes and time", "another file"])
def test_a_file_that_something_happened_to_since_is(store: Store, harm: str) -> None:
    attempt = store.attempt(KEY)
    file = attempt.out / "weights"
    file.write_bytes(b"weights")
    before = file.stat()
    checked = Checked("weights", hashlib.sha256(b"weights").hexdigest(), fingerprint_of(file))
    if harm == "another file":
        file.unlink()
    file.write_bytes(b"WEIGHTS")
    if harm == "bytes and time":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    artifact = store.publish(attempt, KEY, "download", {"weights": checked})
    assert artifact.files[0].sha256 == hashlib.sha256(b"WEIGHTS").hexdigest()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LocksMissingError, match=f"has no locks: {os.strerror(number)}"):
        store.make()


def test_attempts_are_found_by_key_and_executor_without_a_pattern_for_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, translate = "a" * 64, fnmatch.translate
    patterns: list[str] = []
    mine, docker, _ = store.attempt(key, "process"), store.attempt(key, "docker"), store.attempt("b" * 64, "process")

    def counted(pattern: str) -> str:
        patterns.append(pattern)
        return translate(pattern)

    monkeypatch.setattr(fnmatch, "translate", counted)
    assert store.attempts(key) == tuple(sorted((mine.folder, docker.folder)))
    assert store.attempts(key, "docker") == (docker.folder,)
    assert len(store.attempts()) == 3
    assert not any(store.has_leftovers(f"{number:064}") for number in range(9))
    assert len(patterns) <= 1, "each takes a millisecond to compile"
