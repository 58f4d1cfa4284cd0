"""The store on real file systems: in which order bytes reach the disk, a full disk, a read-only one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.store.store import Store, remove_tree
from tests.support import command_line

KEY = "a" * 64
ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
RECIPE = "tiny-llama-w4a16-nvfp4"
PUBLISH = """\
import sys
from pathlib import Path
from orchestrator.store.store import Store
store = Store(Path(sys.argv[1]))
attempt = store.attempt("a" * 64)
(attempt.out / "weights").write_bytes(b"weights")
store.publish(attempt, "a" * 64, "quantize")
"""


def orchestrator(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = ["--project", str(ROOT), "--store", str(store), "--dist", str(store / "dist")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(store.parent)}
    return command_line.orchestrator(*places, *arguments, environment=environment, folder=ROOT)


def whole_calls(trace: str) -> Iterator[str]:
    """Give the calls in the order in which they end; strace writes one in two lines if another thread comes between."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        else:
            resumed = re.match(r"<\.\.\. \w+ resumed>", call)
            yield begun.pop(thread, "") + call[resumed.end() :] if resumed else call


def test_a_call_in_two_lines_of_a_trace_counts_when_it_ends() -> None:
    trace = """\
11 fsync(3</s/a> <unfinished ...>
12 rename("/s/b", "/s/c") = 0
11 <... fsync resumed>)              = 0
"""
    assert list(whole_calls(trace)) == ['rename("/s/b", "/s/c") = 0', "fsync(3</s/a> )              = 0"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_bytes_are_on_disk_before_the_name_that_promises_them(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    watched = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(trace)]
    done = subprocess.run(
        [*watched, sys.executable, "-c", PUBLISH, str(tmp_path / "store")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if not trace.is_file() or "PTRACE" in done.stderr:
        pytest.skip(f"strace may not watch here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    calls = []
    for line in whole_calls(trace.read_text()):
        call = re.search(r"(fsync|rename)\w*\((.*)\)\s+= 0", line)
        if call:
            paths = re.findall(rf'["<]{re.escape(str(tmp_path))}/store/([^">]*)[">]', call[2])
            if paths:  # Python itself renames what it compiled
                calls.append(
                    (call[1], re.sub(r"\.[^./]*:\d+:\d*-[0-9a-f]{8}$|-process-[0-9a-f]{8}(?=/|$)", "", paths[-1]))
                )
    key = "a" * 64
    wanted = [
        ("fsync", f"attempts/{key}/out/weights"),
        ("fsync", f"attempts/{key}/.manifest.json"),
        ("rename", f"attempts/{key}/manifest.json"),
        ("fsync", f"attempts/{key}/out"),
        ("fsync", f"attempts/{key}"),
        ("rename", f"artifacts/{key}"),
        ("fsync", "artifacts"),
    ]
    assert [call for call in calls if not call[1].startswith("stats/")] == wanted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_disk_without_space_for_the_plan_is_refused_with_the_numbers_before_anything_runs(small_disk: Path) -> None:
    full = orchestrator(small_disk / "store", "build", RECIPE, "--json")
    assert full.returncode == 6, full.stderr
    error = json.loads(full.stderr.splitlines()[-1])["error"]
    assert error["code"] == "DISK_FULL"
    head, *rows = error["message"].splitlines()
    assert re.search(r"need [\d.]+ MB, and [\d.]+ MB are free:$", head)
    assert [row.split(":")[0].strip() for row in rows] == ["generate", "quantize"]
    assert list((small_disk / "store" / "artifacts").glob("*")) == []
    assert list((small_disk / "store").glob("attempts/*")) == []
    remount(small_disk, "size=64m")
    assert orchestrator(small_disk / "store", "build", RECIPE).returncode == 0


def test_what_is_built_already_needs_no_room(small_disk: Path) -> None:
    remount(small_disk, "size=10m")
    assert orchestrator(small_disk / "store", "build", RECIPE).returncode == 0
    again = orchestrator(small_disk / "store", "build", RECIPE)
    assert again.returncode == 0, again.stderr
    more = orchestrator(small_disk / "store", "build", RECIPE, "--set", "model.generate.seed=1")
    assert more.returncode == 6
    assert "are free:" in more.stderr


def fill_when(there: Path, disk: Path) -> threading.Thread:
    """Take all room of a disk as soon as something matches `there/*`."""

    def fill() -> None:
        while not any(there.glob("*")):
            time.sleep(0.002)
        with (disk / "ballast").open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("moment", ["attempts", "artifacts"])
def test_a_disk_that_others_fill_meanwhile_ends_with_its_code_and_loses_nothing(small_disk: Path, moment: str) -> None:
    remount(small_disk, "size=16m")
    store = small_disk / "store"
    filled = fill_when(store / moment, small_disk)
    full = orchestrator(store, "build", RECIPE, "--json")
    filled.join(10)
    assert full.returncode == 6, full.stderr
    assert json.loads(full.stderr.splitlines()[-1])["error"]["code"] == "DISK_FULL"
    assert "Traceback" not in full.stderr
    finished = len(list((store / "artifacts").glob("*")))
    assert finished == (0 if moment == "attempts" else 1)
    (small_disk / "ballast").unlink()
    done = orchestrator(store, "build", RECIPE, "--json")
    assert [step["reused"] for step in json.loads(done.stdout)["steps"]] == [n < finished for n in range(3)]
    assert list(store.glob("attempts/*")) == []


def test_a_disk_that_cannot_be_written_is_no_permission(small_disk: Path) -> None:
    remount(small_disk, "ro")
    done = orchestrator(small_disk / "store", "build", RECIPE)
    assert done.returncode == 6, done.stderr
    assert "error[NO_PERMISSION]" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_was_built_can_be_used_on_another_file_system(small_disk: Path, tmp_path: Path) -> None:
    remount(small_disk, "size=64m")
    places = ["--dist", str(tmp_path / "dist")]
    first = orchestrator(small_disk / "store", *places, "build", RECIPE)
    assert first.returncode == 0
    assert f"{RECIPE} is on another file system than the store" in first.stderr, "no silent copy"
    again = orchestrator(small_disk / "store", *places, "build", RECIPE)
    assert "another file system" not in again.stderr
    assert re.search(r"\nbundle +reused", again.stdout)
    sums = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "dist" / RECIPE, check=False, timeout=60
    )
    assert sums.returncode == 0


def test_a_copy_that_does_not_fit_is_refused_with_the_numbers(small_disk: Path, tmp_path: Path) -> None:
    places = ["--dist", str(small_disk / "dist")]
    remount(small_disk, "size=1m")
    full = orchestrator(tmp_path / "store", *places, "build", RECIPE)
    assert full.returncode == 6, full.stderr
    assert "error[DISK_FULL]" in full.stderr
    assert "quantize: a copy for the deployment" in full.stderr
    assert list((tmp_path / "store").glob("artifacts/*")) == [], "it is said before the first step"
    assert orchestrator(tmp_path / "store", *places, "build", RECIPE, "--until", "verify").returncode == 0
    late = orchestrator(tmp_path / "store", *places, "bundle", RECIPE)
    assert late.returncode == 6, late.stderr
    assert "GB are free for a copy" in late.stderr
    assert list((small_disk / "dist").iterdir()) == []


def test_a_store_and_a_deployment_that_were_moved_to_another_disk_are_used(small_disk: Path, tmp_path: Path) -> None:
    remount(small_disk, "size=64m")
    here, there = tmp_path / "here", small_disk / "there"
    assert orchestrator(here / "store", "--dist", str(here / "dist"), "build", RECIPE).returncode == 0
    shutil.move(here, there)
    again = orchestrator(there / "store", "--dist", str(there / "dist"), "build", RECIPE, "--json")
    assert again.returncode == 0, again.stderr
    assert all(step["reused"] for step in json.loads(again.stdout)["steps"])
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=there / "dist" / RECIPE, check=False, timeout=60).returncode == 0


def test_paths_with_spaces_and_letters_of_any_kind_work(tmp_path: Path) -> None:
    odd = tmp_path / "größe 模型 'a\"b" / "e\u0301 é"
    built = orchestrator(odd / "store", "build", RECIPE)
    assert built.returncode == 0, built.stderr


def test_ten_thousand_files_are_published_and_found_without_hashing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path("/dev/shm")
    store = Store((memory if os.access(memory, os.W_OK) else tmp_path) / f"orchestrator-test-{os.getpid()}")
    try:
        attempt = store.attempt(KEY)
        for number in range(10_000):
            (attempt.out / f"shard-{number:05}").write_bytes(b"%d" % number)
        assert len(store.publish(attempt, KEY, "download").files) == 10_000
        monkeypatch.setattr("orchestrator.store.store.hash_files", pytest.fail)
        assert store.find(KEY) is not None
    finally:
        remove_tree(store.root)


def as_ordinary_user(action: Callable[[], None]) -> None:
    """Run an action in a process that may not do what root may."""
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setuid(NOBODY)
            action()
        except BaseException:  # noqa: BLE001 - this process ends here, whatever the action does
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_folders_that_nobody_may_change_are_removed() -> None:
    with tempfile.TemporaryDirectory() as place:
        if os.getuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        folder = Path(place) / "attempt"

        def make_and_remove() -> None:
            (folder / "out" / "deep").mkdir(parents=True)
            (folder / "out" / "deep" / "file").write_text("x")
            for part in (folder / "out" / "deep", folder / "out", folder):
                part.chmod(0o555)
            remove_tree(folder)

        as_ordinary_user(make_and_remove)
        assert not folder.exists()
