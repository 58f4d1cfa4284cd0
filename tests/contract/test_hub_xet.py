"""Files in Xet storage, with hf_xet's own client, from a storage on this machine that can fail."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.hub.partial import CHUNK, journaled
from tests.support.downloads import Downloads
from tests.support.hub import COMMIT, Hub, serve
from tests.support.xet import TOKEN, XetStorage, serve_xet

WEIGHTS = "model.safetensors"
CONTENT = random.Random(2).randbytes(5 * CHUNK + 12345)  # noqa: S311 - a test's dice
CONFIG = b'{"architectures": ["LlamaForCausalLM"]}'
SIZE = len(CONTENT)


@pytest.fixture
def storage() -> Iterator[XetStorage]:
    with serve_xet(XetStorage()) as started:
        yield started


@pytest.fixture
def downloads(storage: XetStorage, tmp_path: Path) -> Iterator[Downloads]:
    with serve(Hub(files={"config.json": CONFIG, WEIGHTS: CONTENT}, xet=storage)) as hub:
        yield Downloads(hub, tmp_path)


def is_right(downloads: Downloads) -> bool:
    return (downloads.out / WEIGHTS).read_bytes() == CONTENT


def archives_sent(storage: XetStorage) -> int:
    return sum(size for name, size in storage.served.items() if name)


def test_a_large_file_comes_from_the_storage_and_is_checked(downloads: Downloads, storage: XetStorage) -> None:
    assert downloads.run() == 0, downloads.log
    assert is_right(downloads)
    assert downloads.hub.served[WEIGHTS] == 0, "it came from the storage"
    assert SIZE <= archives_sent(storage) < SIZE * 1.01
    assert storage.tokens == {f"Bearer {TOKEN}"}
    assert downloads.warnings == []


def test_the_hubs_own_client_finds_what_came_from_the_storage(downloads: Downloads, storage: XetStorage) -> None:
    assert downloads.run() == 0, downloads.log
    sent = archives_sent(storage)
    call = f"snapshot_download('owner/model', revision='{COMMIT}')"
    code = f"from huggingface_hub import snapshot_download; print({call})"
    found = subprocess.run(
        (sys.executable, "-c", code), env=downloads.environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert (Path(found) / WEIGHTS).read_bytes() == CONTENT
    assert archives_sent(storage) == sent
    assert downloads.hub.served[WEIGHTS] == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_in_the_middle_it_goes_on_from_its_journal(
    downloads: Downloads, storage: XetStorage, how: signal.Signals
) -> None:
    storage.rate = 6e6
    process = downloads.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        journaled(file, SIZE) >= CHUNK for file in (downloads.root / "hf").rglob("*.incomplete")
    ):
        time.sleep(0.02)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how), stderr
    assert "Traceback" not in stderr
    [file] = (downloads.root / "hf").rglob("*.incomplete")
    known = journaled(file, SIZE)
    assert known >= CHUNK
    storage.rate = 0.0
    storage.starts.clear()
    assert downloads.run() == 0, downloads.log
    assert [start for _, start in storage.starts][:1] == [known]
    assert is_right(downloads)
    assert downloads.hub.served[WEIGHTS] == 0


@pytest.mark.parametrize("moment", ["at once", "in the middle"])
def test_what_the_storage_does_not_give_comes_over_plain_http(
    downloads: Downloads, storage: XetStorage, moment: str
) -> None:
    if moment == "at once":
        storage.status = 404
    else:
        storage.breaks_after = 3 * CHUNK
    assert downloads.run() == 0, downloads.log
    assert is_right(downloads)
    assert "Xet storage" in downloads.warnings[0]
    assert "plain HTTP" in downloads.warnings[0]
    if moment == "in the middle":
        assert downloads.hub.served[WEIGHTS] < SIZE, "what had come from the storage is kept"


def test_a_wrong_byte_of_the_storage_is_noticed_and_the_file_fetched_over_plain_http(
    downloads: Downloads, storage: XetStorage
) -> None:
    storage.corrupt[storage.add(CONTENT)] = 99
    assert downloads.run() == 0, downloads.log
    assert is_right(downloads)
    assert downloads.hub.served[WEIGHTS] == SIZE
    assert f", not sha256 {hashlib.sha256(CONTENT).hexdigest()}; set aside as " in downloads.warnings[0]


def test_hf_xet_can_be_switched_off(downloads: Downloads, storage: XetStorage) -> None:
    assert downloads.run(HF_HUB_DISABLE_XET="1") == 0, downloads.log
    assert is_right(downloads)
    assert archives_sent(storage) == 0


def test_memory_does_not_grow_with_the_file(downloads: Downloads) -> None:
    downloads.hub.files[WEIGHTS] = os.urandom(100 << 20) * 3
    peak = 0
    with downloads.start() as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(0.01)
    assert process.returncode == 0
    assert 1 << 20 < peak < 250 << 20


def test_no_token_is_in_any_byte_that_a_download_leaves(downloads: Downloads, storage: XetStorage) -> None:
    with downloads.start(HF_DEBUG="1") as process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert storage.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in stdout + stderr
    everything = [path for path in downloads.root.rglob("*") if path.is_file()]
    assert [path for path in everything if TOKEN.encode() in path.read_bytes()] == []
