"""A download through everything that a network and a Hub can do to it, with the real client of the Hub."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path

import pytest

from orchestrator.hub.partial import CHUNK, journaled
from tests.support.downloads import Downloads
from tests.support.hub import COMMIT, Hub, serve

WEIGHTS = "model.safetensors"
CONTENT = random.Random(1).randbytes(3 * CHUNK + 12345)  # noqa: S311 - a test's dice
FILES = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', WEIGHTS: CONTENT}
SIZE = len(CONTENT)
TWO_CHUNKS = 2 * CHUNK
"""What a killed worker may have to fetch again."""


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    with serve(Hub(files=dict(FILES))) as hub:
        yield Downloads(hub, tmp_path)


def same(file: Path, content: bytes) -> bool:
    """Compare where a difference would not be printed, byte by byte."""
    return file.read_bytes() == content


def arrived(downloads: Downloads, name: str = WEIGHTS, content: bytes = CONTENT) -> bool:
    return same(downloads.out / name, content)


def incomplete(downloads: Downloads) -> list[Path]:
    return sorted((downloads.root / "hf").rglob("*.incomplete"))


def leftovers(downloads: Downloads) -> list[Path]:
    return [path for path in (downloads.root / "hf").rglob("blobs/*") if "orchestrator" in path.name]


@pytest.mark.parametrize("cuts", [[1], [65_536, 1, CHUNK], [CHUNK - 1, CHUNK, CHUNK + 1], [len(CONTENT) - 1]])
def test_a_connection_cut_at_any_byte_costs_no_byte_twice(downloads: Downloads, cuts: list[int]) -> None:
    downloads.hub.cut[WEIGHTS] = list(cuts)
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)
    assert downloads.hub.served[WEIGHTS] == SIZE
    assert leftovers(downloads) == []


def test_a_server_that_falls_silent_is_asked_again(downloads: Downloads) -> None:
    downloads.hub.stall[WEIGHTS] = 1
    assert downloads.run(HF_HUB_DOWNLOAD_TIMEOUT="1") == 0, downloads.log
    assert arrived(downloads)
    assert downloads.hub.served[WEIGHTS] == SIZE


def test_a_server_that_ignores_where_to_begin_loses_time_and_nothing_else(downloads: Downloads) -> None:
    downloads.hub.ignores_range = True
    downloads.hub.cut[WEIGHTS] = [CHUNK + 5, TWO_CHUNKS]
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)


def test_another_part_than_was_asked_for_is_not_believed(downloads: Downloads) -> None:
    downloads.hub.cut[WEIGHTS] = [CHUNK]
    downloads.hub.wrong_range[WEIGHTS] = 1
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)
    assert len(downloads.hub.ranges) == 4  # the configuration, and three times the weights


def test_a_server_that_sends_another_part_for_ever_is_given_up(downloads: Downloads) -> None:
    downloads.hub.cut[WEIGHTS] = [CHUNK]
    downloads.hub.wrong_range[WEIGHTS] = 99
    assert "and the Hub sent bytes" in downloads.fails("HUB_UNREACHABLE")


def test_more_bytes_than_the_file_has_are_corruption(downloads: Downloads) -> None:
    downloads.hub.long[WEIGHTS] = 1
    assert downloads.run() == 0
    downloads.hub.files["vocab.txt"] = CONTENT[::-1]
    downloads.hub.long["vocab.txt"] = 2
    assert "vocab.txt" in downloads.fails("DOWNLOAD_CORRUPT", revision="main")


def test_a_corrupt_byte_after_a_cut_is_noticed_and_the_file_fetched_once_more(downloads: Downloads) -> None:
    downloads.hub.cut[WEIGHTS] = [CHUNK + 1]
    downloads.hub.corrupt[WEIGHTS] = 1
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)
    assert f"{WEIGHTS} is " in downloads.warnings[0]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_passing_trouble_of_the_hub_passes(downloads: Downloads, status: int) -> None:
    downloads.hub.statuses[WEIGHTS] = [(status, {})]
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)


@pytest.mark.parametrize("header", ["seconds", "date", "ratelimit"])
def test_the_hub_is_asked_again_when_it_says_so_and_not_before(downloads: Downloads, header: str) -> None:
    headers = {
        "seconds": {"Retry_After": "2"},
        "date": {"Retry_After": formatdate(time.time() + 4, usegmt=True)},
        "ratelimit": {"ratelimit": '"resolvers";r=0;t=2'},
    }[header]
    downloads.hub.statuses[WEIGHTS] = [(429, headers)]
    started = time.monotonic()
    assert downloads.run() == 0, downloads.log
    assert time.monotonic() - started > 1.9


def test_a_hub_that_is_busy_is_asked_for_the_commit_again(downloads: Downloads) -> None:
    downloads.hub.busy = [(503, {}), (429, {"Retry_After": "2"})]
    started = time.monotonic()
    assert downloads.run(revision="main") == 0, downloads.log
    assert time.monotonic() - started > 2
    assert arrived(downloads)


def test_a_hub_that_stays_busy_or_for_long_is_given_up(downloads: Downloads) -> None:
    downloads.hub.busy = [(429, {"Retry_After": "3600"}), (503, {})]
    assert "HTTP 429" in downloads.fails("HUB_UNREACHABLE", revision="main")
    assert len(downloads.hub.busy) == 1, "not asked again"
    downloads.hub.busy = [(503, {})] * 5
    assert "HTTP 503" in downloads.fails("HUB_UNREACHABLE", revision="main")
    assert len(downloads.hub.busy) == 2


def test_a_journal_that_a_kill_left_beside_a_whole_file_is_swept(downloads: Downloads) -> None:
    assert downloads.run() == 0, downloads.log
    (pointer,) = (downloads.root / "hf" / "hub").rglob(f"snapshots/*/{WEIGHTS}")
    left = pointer.resolve().with_name(f"{pointer.resolve().name}.orchestrator.journal")
    left.write_text("0\n", encoding="ascii")
    pointer.unlink()
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)
    assert not left.exists()


def test_a_hub_that_lists_nothing_for_an_hour_is_given_up_with_its_word(downloads: Downloads) -> None:
    downloads.hub.busy = [(429, {"Retry_After": "3600"})]
    assert "it asks to wait 3600 seconds" in downloads.fails("HUB_UNREACHABLE")


def test_a_hub_that_is_busy_when_asked_about_a_file_is_asked_again(downloads: Downloads) -> None:
    downloads.hub.statuses[WEIGHTS] = [(503, {}), (503, {})]
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)


def test_a_hub_that_wants_to_be_left_alone_for_an_hour_is(downloads: Downloads) -> None:
    downloads.hub.statuses[WEIGHTS] = [(429, {"Retry_After": "3600"})]
    assert "3600 seconds" in downloads.fails("HUB_UNREACHABLE")


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (401, {}, "HUB_ACCESS"),
        (403, {"X_Error_Code": "GatedRepo"}, "HUB_ACCESS"),
        (404, {"X_Error_Code": "EntryNotFound"}, "HUB_NOT_FOUND"),
        (404, {"X_Error_Code": "RevisionNotFound"}, "HUB_NOT_FOUND"),
        (416, {}, "HUB_UNREACHABLE"),
    ],
)
def test_what_asking_again_does_not_mend_is_said_at_once(
    downloads: Downloads, status: int, headers: dict[str, str], code: str
) -> None:
    downloads.hub.statuses[WEIGHTS] = [(status, headers)] * 5
    downloads.fails(code)
    assert len(downloads.hub.statuses[WEIGHTS]) == 4


def test_a_branch_that_was_renamed_is_said_to_be_gone(downloads: Downloads) -> None:
    downloads.hub.branches = {"trunk": COMMIT}
    assert "no revision main" in downloads.fails("HUB_NOT_FOUND", revision="main")
    assert downloads.run(revision="trunk") == 0


def test_killed_at_random_moments_it_goes_on_from_its_journal(downloads: Downloads) -> None:
    seed = int(os.environ.get("ORCHESTRATOR_SEED", "0")) or random.randrange(1 << 32)  # noqa: S311 - a test's dice
    print(f"ORCHESTRATOR_SEED={seed}")  # noqa: T201 - shown where the test fails
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    contents = {
        f"model-{n:05d}-of-00003.safetensors": dice.randbytes(5 * CHUNK + dice.randrange(CHUNK)) for n in (1, 2, 3)
    }
    downloads.hub.files = {"config.json": FILES["config.json"], **contents}
    downloads.hub.rate = 24e6
    kills = 0
    while kills < 6:
        process = downloads.start()
        try:
            process.communicate(timeout=0.8 + dice.random())
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        for file in incomplete(downloads):
            known = max(journaled(file, len(content)) for content in contents.values())
            assert file.stat().st_size - known <= TWO_CHUNKS
    downloads.hub.rate = 0.0
    assert downloads.run() == 0, downloads.log
    assert all(arrived(downloads, name, content) for name, content in contents.items())
    total = sum(map(len, contents.values()))
    on_the_way = 8 << 20  # of each connection, in the buffers of the system
    assert sum(downloads.hub.served.values()) <= total + kills * 3 * (TWO_CHUNKS + on_the_way)
    assert leftovers(downloads) == []


def test_a_killed_download_asks_for_what_is_missing_and_not_for_more(downloads: Downloads) -> None:
    downloads.hub.cut[WEIGHTS] = [CHUNK + 7]
    downloads.hub.stall[WEIGHTS] = 1
    process = downloads.start(HF_HUB_DOWNLOAD_TIMEOUT="60")
    deadline = time.monotonic() + 20
    while len(downloads.hub.ranges) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    [file] = incomplete(downloads)
    known = journaled(file, len(CONTENT))
    assert known >= CHUNK
    downloads.hub.ranges.clear()
    assert downloads.run() == 0, downloads.log
    assert downloads.hub.ranges == [(WEIGHTS, known)]
    assert arrived(downloads)


@pytest.mark.parametrize("harm", ["bytes", "longer", "shorter", "journal", "no journal", "torn journal", "size"])
def test_nothing_that_a_crash_left_is_believed_unseen(downloads: Downloads, harm: str) -> None:
    downloads.hub.cut[WEIGHTS] = [TWO_CHUNKS + 99]
    downloads.hub.statuses[WEIGHTS] = []
    downloads.hub.stall[WEIGHTS] = 1
    process = downloads.start(HF_HUB_DOWNLOAD_TIMEOUT="60")
    while len(downloads.hub.ranges) < 3:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    [file] = incomplete(downloads)
    journal = file.with_suffix(".journal")
    match harm:
        case "bytes":
            with file.open("r+b") as stream:
                stream.write(b"?")
        case "longer":
            with file.open("ab") as stream:
                stream.write(b"x" * 99)
        case "shorter":
            os.truncate(file, 1000)
        case "journal":
            journal.write_bytes(b"\xff\x00 nonsense")
        case "no journal":
            journal.unlink()
        case "torn journal":
            journal.write_text(journal.read_text() + str(len(CONTENT))[:-1])
        case "size":
            journal.write_text(journal.read_text().replace(str(len(CONTENT)), "17"))
        case _:
            pytest.fail(f"no such harm: {harm}")
    assert downloads.run() == 0, downloads.log
    assert arrived(downloads)
    assert leftovers(downloads) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_it_before_the_download_times_out_and_keeps_what_arrived(
    downloads: Downloads, number: signal.Signals, status: int
) -> None:
    downloads.hub.cut[WEIGHTS] = [CHUNK + 7]
    downloads.hub.stall[WEIGHTS] = 1
    process = downloads.start(HF_HUB_DOWNLOAD_TIMEOUT="60")
    while len(downloads.hub.ranges) < 3:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == status, stdout + stderr
    assert "Traceback" not in stderr
    served = downloads.hub.served[WEIGHTS]
    assert downloads.run() == 0, downloads.log
    assert downloads.hub.served[WEIGHTS] - served <= SIZE - CHUNK


def test_two_at_once_fetch_each_file_once(downloads: Downloads) -> None:
    downloads.hub.rate = 20e6
    first, second = downloads.start(), downloads.start()
    for process in (first, second):
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stdout + stderr
    assert downloads.hub.served[WEIGHTS] == SIZE
    for number in (1, 2):
        assert same(downloads.root / f"out-{number}" / WEIGHTS, CONTENT)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_the_hubs_own_client_and_we_never_fetch_a_file_twice(downloads: Downloads, first: str) -> None:
    def theirs() -> None:
        call = f"snapshot_download('owner/model', revision='{COMMIT}')"
        code = f"from huggingface_hub import snapshot_download; print({call})"
        found = subprocess.run(
            (sys.executable, "-c", code), env=downloads.environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert same(Path(found) / WEIGHTS, CONTENT)

    if first == "theirs":
        theirs()
    assert downloads.run() == 0, downloads.log
    if first == "ours":
        theirs()
    assert downloads.hub.served[WEIGHTS] == SIZE
    assert arrived(downloads)


def test_our_client_and_theirs_at_the_same_time_fetch_a_file_once(downloads: Downloads) -> None:
    downloads.hub.rate = 20e6
    code = f"from huggingface_hub import snapshot_download; snapshot_download('owner/model', revision='{COMMIT}')"
    theirs = subprocess.Popen((sys.executable, "-c", code), env=downloads.environment, stderr=subprocess.DEVNULL)
    while not downloads.hub.served[WEIGHTS]:
        time.sleep(0.02)
    assert downloads.run() == 0, downloads.log
    assert theirs.wait(30) == 0
    assert downloads.hub.served[WEIGHTS] == SIZE


def test_a_commit_that_no_branch_names_is_not_taken_for_leftovers(downloads: Downloads) -> None:
    assert downloads.run() == 0
    code = (
        "from huggingface_hub import scan_cache_dir; "
        "print([len(r.refs) for repo in scan_cache_dir().repos for r in repo.revisions])"
    )
    found = subprocess.run(
        (sys.executable, "-c", code), env=downloads.environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[1]"


def test_memory_does_not_grow_with_the_file(downloads: Downloads) -> None:
    downloads.hub.files["big.safetensors"] = bytes(200 << 20)
    downloads.hub.rate = 200e6
    peak = 0
    with downloads.start() as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(0.01)
    assert process.returncode == 0
    assert 1 << 20 < peak < 150 << 20


def test_offline_what_is_in_the_cache_needs_no_network(downloads: Downloads) -> None:
    assert downloads.run(revision="main") == 0
    downloads.hub.status = 500
    downloads.hub.requests.clear()
    assert downloads.run(HF_HUB_OFFLINE="1") == 0, downloads.log
    assert arrived(downloads)
    assert downloads.hub.requests == []


def test_offline_what_is_missing_is_named(downloads: Downloads) -> None:
    assert downloads.run() == 0
    downloads.hub.status = 500
    for link in (downloads.root / "hf").rglob(WEIGHTS):
        link.resolve().unlink()
    assert f"1 of 2 files are not in {downloads.root}" in downloads.fails("OFFLINE_MISSING", HF_HUB_OFFLINE="1")
    assert WEIGHTS in downloads.log


def test_too_little_room_is_said_with_numbers_before_the_first_byte(downloads: Downloads) -> None:
    small = downloads.root / "small"
    small.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(
            ("mount", "-t", "tmpfs", "-o", "size=20m", "none", small), check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("only root can mount a small file system")
    try:
        message = downloads.fails("DISK_FULL", HF_HOME=str(small))
        assert "are free:" in message
        assert "are free" in message
        assert downloads.hub.served[WEIGHTS] == 0
    finally:
        subprocess.run(("umount", small), check=True)


def test_a_disk_that_others_fill_meanwhile_keeps_what_arrived(downloads: Downloads) -> None:
    small = downloads.root / "small"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=40m", "none", small)
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        downloads.hub.rate = 10e6
        process = downloads.start(HF_HOME=str(small))
        while not any(journaled(file, SIZE) for file in small.rglob("*.incomplete")):
            time.sleep(0.02)
        with (small / "ballast").open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 6, stdout + stderr
        assert '"code": "DISK_FULL"' in stdout
        assert "Traceback" not in stderr
        (small / "ballast").unlink()
        downloads.hub.rate = 0.0
        served = downloads.hub.served[WEIGHTS]
        assert downloads.run(HF_HOME=str(small)) == 0, downloads.log
        assert downloads.hub.served[WEIGHTS] - served <= SIZE - CHUNK
        assert arrived(downloads)
    finally:
        subprocess.run(("umount", "--lazy", small), check=True)


def test_the_token_is_in_no_byte_that_a_download_leaves(downloads: Downloads) -> None:
    secret = "hf_canary_9876543210"
    downloads.hub.token = secret
    downloads.hub.rate = 30e6
    for how in ("killed", "refused", "done"):
        process = downloads.start(HF_TOKEN=secret if how != "refused" else secret + "x", HF_DEBUG="1")
        if how == "killed":
            time.sleep(1.5)
            assert secret.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.kill()
        stdout, stderr = process.communicate(timeout=60)
        assert secret not in stdout + stderr
        if how == "done":
            assert process.returncode == 0
    everything = [path for path in downloads.root.rglob("*") if path.is_file()]
    assert any(path.name == WEIGHTS for path in everything)
    assert [path for path in everything if secret.encode() in path.read_bytes()] == []


def trusting(commit: str = COMMIT) -> tuple[str, ...]:
    return ("--trust-commit", commit, "--trust-files", "*.bin", "--trust-remote-code")


def test_code_is_fetched_from_the_commit_that_the_recipe_trusts(downloads: Downloads) -> None:
    downloads.hub.files |= {"modeling.py": b"import os", "pytorch_model.bin": b"a pickle"}
    assert downloads.run(*trusting()) == 0, downloads.log
    assert {"modeling.py", "pytorch_model.bin"} < set(downloads.arrived())


def test_trust_in_another_commit_is_none(downloads: Downloads) -> None:
    assert downloads.run(*trusting("f" * 40)) == 4
    assert downloads.failure is not None
    assert downloads.failure.code == "UNTRUSTED_CODE"
    assert downloads.hub.fetched == []


def test_a_configuration_that_loads_code_is_refused_before_the_weights_are_fetched(downloads: Downloads) -> None:
    downloads.hub.files["config.json"] = json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}).encode()
    assert downloads.run() == 4
    assert downloads.failure is not None
    assert downloads.failure.code == "UNTRUSTED_CODE"
    assert f"commit: {COMMIT}, remote_code: true" in downloads.failure.hint
    assert WEIGHTS not in downloads.hub.fetched
    assert downloads.run(*trusting()) == 0


def listing(downloads: Downloads, **changes: str) -> str:
    assert downloads.run() == 0
    fields = json.loads(downloads.arrived()["download.json"]) | {"kind": "model"} | changes
    file = downloads.root / "files.json"
    file.write_text(json.dumps(fields))
    return str(file)


def test_a_locked_list_is_used_instead_of_the_hubs(downloads: Downloads) -> None:
    file = listing(downloads)
    downloads.hub.files["more.json"] = b"{}"
    downloads.hub.requests.clear()
    assert downloads.run("--files", file) == 0, downloads.log
    assert downloads.hub.requests == []
    assert "more.json" not in downloads.arrived()


def test_bytes_that_the_lock_does_not_know_are_refused_even_if_the_hub_vouches_for_them(downloads: Downloads) -> None:
    file = listing(downloads)
    for path in (downloads.root / "hf").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.unlink()
    downloads.hub.files[WEIGHTS] = CONTENT[::-1]
    assert downloads.run("--files", file) == 6
    assert downloads.failure is not None
    assert downloads.failure.code == "DOWNLOAD_CORRUPT"


def test_no_core_is_left_where_the_token_is_in_memory(downloads: Downloads) -> None:
    downloads.hub.rate = 5e6
    process = downloads.start()
    while not downloads.hub.ranges:  # it downloads, so it has begun
        time.sleep(0.02)
    limit = resource.prlimit(process.pid, resource.RLIMIT_CORE)
    process.kill()
    process.communicate()
    assert limit == (0, 0)
