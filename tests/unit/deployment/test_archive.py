"""An archive for a machine without a network: what is in it, and what is refused before it is written."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from orchestrator.bundle.files import sums_text
from orchestrator.deployment.observer import Done, Phase
from orchestrator.errors import DiskFullError, FileNameError, FileSystemError
from orchestrator.events import Event
from tests.support.air_gap import MONITOR, NAME, SECRET, SERVER, WritingDocker, write_bundle


def contents(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {entry.name.removeprefix(f"{NAME}/"): read(archive, entry) for entry in archive}


def read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(entry)
    assert stream is not None
    return stream.read()


def test_an_archive_has_the_bundle_and_its_images_and_lists_every_file(tmp_path: Path) -> None:
    archived = WritingDocker().archive(write_bundle(tmp_path), tmp_path / "small.tar", "monitoring")
    found = contents(archived.file)
    listed = dict(line.split("  ")[::-1] for line in found.pop("SHA256SUMS").decode().splitlines())
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    assert {"install.sh", "secrets/README", "model/config.json", "images/0/00000.part", "images/1/00000.part"} <= set(
        found
    )
    assert found["images/1/00000.part"].startswith(f"{MONITOR} sha256:2\n".encode())
    assert archived.images == (SERVER, MONITOR)
    assert archived.file.stat().st_size == archived.size
    assert SECRET.encode() not in archived.file.read_bytes()


def test_the_digest_of_the_list_comes_with_the_archive_to_be_carried_apart(tmp_path: Path) -> None:
    archived = WritingDocker().archive(write_bundle(tmp_path), tmp_path / "small.tar")
    assert archived.sums_digest == hashlib.sha256(contents(archived.file)["SHA256SUMS"]).hexdigest()


def test_space_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    bundle, file = write_bundle(tmp_path), tmp_path / "disk" / "small.tar"
    with pytest.raises(DiskFullError) as error:
        WritingDocker(claimed=10**18).archive(bundle, file)
    assert "the archive small.tar" in error.value.message
    assert "--air-gap" in error.value.hint
    assert list(file.parent.iterdir()) == []


def test_a_pipe_or_a_folder_is_not_replaced_by_an_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileSystemError, match="no file that could be replaced"):
            WritingDocker().archive(write_bundle(tmp_path), tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert not list(tmp_path.glob(".*"))


def test_the_space_that_the_other_machine_needs_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    def observer(event: Event | Phase | Done) -> None:
        if isinstance(event, Done):
            told.append(event.text)

    WritingDocker(size=2_000_000).archive(write_bundle(tmp_path), tmp_path / "small.tar", observer=observer)
    assert "4.0 MB on Docker's disk" in told[-1]


@pytest.mark.parametrize("name", ["model/a\nb", "model/a\x1b[2J", "model/\udcff"])
def test_a_file_name_that_would_break_a_list_of_digests_is_refused(name: str) -> None:
    with pytest.raises(FileNameError) as error:
        sums_text({name: "0" * 64})
    assert error.value.message.isprintable()
