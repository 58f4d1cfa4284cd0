"""How much disk space must be free before the first byte is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import DiskFullError
from orchestrator.store import space
from orchestrator.store.space import Need, device_of, existing, require_space

MB, GB = 10**6, 10**9
MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (100 * MB, 110 * MB),  # a tenth stays free
        (640 * MIB, 704 * MIB),
        (640 * MIB + 10, 704 * MIB + 10),  # and no more than 64 MiB
        (100 * GB, 100 * GB + 64 * MIB),
        (9, 9),
        (1, 1),
    ],
)
def test_a_tenth_and_at_most_64_mib_stay_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, wanted: int
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _: wanted)
    require_space([Need(tmp_path, size, "download")], "x")
    monkeypatch.setattr(space, "free_bytes", lambda _: wanted - 1)
    with pytest.raises(DiskFullError):
        require_space([Need(tmp_path, size, "download")], "x")


@pytest.mark.parametrize(
    ("size", "spelled"),
    [(50 * MB, "50.0 MB"), (10**8 - 1, "100.0 MB"), (10**9, "1.0 GB"), (2_345 * MB, "2.3 GB")],
)
def test_small_sizes_are_in_megabytes_and_others_in_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, spelled: str
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _: 0)
    with pytest.raises(DiskFullError) as caught:
        require_space([Need(tmp_path, size, "download")], "use --store")
    assert caught.value.message.splitlines()[1] == f"  download  {spelled:>9}"


def test_each_disk_is_looked_at_for_its_own_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.setattr(space, "device_of", lambda folder: folder.name)
    monkeypatch.setattr(space, "free_bytes", lambda place: {one: 20 * MB, two: 200 * MB}[place])
    require_space([Need(one, 10 * MB, "a"), Need(two, 100 * MB, "b")], "x")
    with pytest.raises(DiskFullError, match=str(one)):
        require_space([Need(one, 100 * MB, "a"), Need(two, 100 * MB, "b")], "x")


def test_needs_on_one_disk_are_added_up_and_the_first_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.setattr(space, "free_bytes", lambda _: 150 * MB)
    require_space([Need(one, 100 * MB, "a")], "x")
    with pytest.raises(DiskFullError) as caught:
        require_space([Need(one, 100 * MB, "a"), Need(two, 100 * MB, "longer")], "x")
    head, *rows = caught.value.message.splitlines()
    assert head == f"{one}: the files still to be written need 220.0 MB, and 150.0 MB are free:"
    assert rows == ["  a        100.0 MB", "  longer   100.0 MB"]
    assert caught.value.hint == "free 70.0 MB or more, or x"


def test_a_folder_that_will_be_created_is_on_the_disk_of_its_nearest_parent(tmp_path: Path) -> None:
    later = tmp_path / "not" / "yet"
    assert existing(later) == tmp_path
    assert existing(tmp_path) == tmp_path
    assert device_of(later) == tmp_path.stat().st_dev


def test_free_bytes_are_those_of_an_ordinary_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs_result((4096, 512, 100, 30, 20, 9, 9, 9, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    assert space.free_bytes(tmp_path) == 20 * 512
