"""The operating system's refusals in our words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orchestrator.errors import DiskFullError, FileSystemError, NoPermissionError, from_os_error


@pytest.mark.parametrize("name", ["store", "dist/one", "recipes/mine.yaml"])
def test_a_read_only_file_system_is_called_read_only(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    found = from_os_error(OSError(errno.EROFS, "Read-only file system", str(place)), "writing it")
    assert isinstance(found, NoPermissionError)
    assert found.message == f"{place} is on a read-only file system; found while writing it"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_folder_that_may_only_be_read_is_called_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.R_OK)  # whoever runs this may be allowed everything
    found = from_os_error(
        OSError(number, "Permission denied", str(tmp_path / "store" / "artifacts")), "making the store"
    )
    assert isinstance(found, NoPermissionError)
    assert found.message == f"{tmp_path} is read-only for you; found while making the store"
    assert found.hint.endswith(f"ls -ld {tmp_path}")


def test_a_place_that_may_not_even_be_read_is_not_called_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, __: False)
    found = from_os_error(OSError(errno.EACCES, "Permission denied", str(tmp_path / "x")), "writing it")
    assert isinstance(found, NoPermissionError)
    assert found.message == f"no permission for {tmp_path / 'x'} while writing it"


def test_other_refusals_keep_their_meaning(tmp_path: Path) -> None:
    assert isinstance(from_os_error(OSError(errno.ENOSPC, "full", str(tmp_path)), "writing it"), DiskFullError)
    assert from_os_error(OSError(errno.ENOENT, "none", str(tmp_path)), "writing it") is None


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EIO, "dmesg"),
        (errno.ENOTDIR, "a file is where"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_what_the_system_cannot_do_is_no_defect(number: int, hint: str) -> None:
    found = from_os_error(OSError(number, os.strerror(number), "a/" * 3000), "reading it")
    assert isinstance(found, FileSystemError)
    assert os.strerror(number) in found.message
    assert len(found.message) < 300
    assert hint in found.hint
