"""Which mounts have locks of one machine alone, and which may say that a name is missing which is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store.mounts import local_locks, may_remember_names

_LINE = "36 35 0:32 / {point} rw,relatime shared:1 - {kind} server:/export {options}\n"
_ROOT = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        ("nfs4", "rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1", ""),
        ("nfs", "rw,vers=3,nolock,local_lock=all", "nfs nolock local_lock=all"),
        ("nfs4", "rw,vers=4.1,local_lock=flock", "nfs4 local_lock=flock"),
        ("lustre", "rw,flock,lazystatfs", ""),
        ("lustre", "rw,localflock", "lustre localflock"),
        ("fuse.sshfs", "rw,user_id=0", "fuse.sshfs rw"),
        ("ext4", "rw,nolock", ""),
    ],
)
def test_a_mount_whose_locks_stay_on_this_machine_is_told(tmp_path: Path, kind: str, options: str, found: str) -> None:
    (tmp_path / "a b" / "store").mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    point = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(_ROOT + _LINE.format(point=point, kind=kind, options=options))
    assert local_locks(tmp_path / "a b" / "store", mounts) == found
    assert local_locks(tmp_path, mounts) == ""


def test_a_mount_below_another_decides(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    mounts = tmp_path / "mountinfo"
    lines = [(tmp_path, "nfs4", "rw,local_lock=all"), (tmp_path / "scratch", "xfs", "rw")]
    mounts.write_text(_ROOT + "".join(_LINE.format(point=point, kind=kind, options=o) for point, kind, o in lines))
    assert local_locks(tmp_path / "scratch", mounts) == ""
    assert local_locks(tmp_path, tmp_path / "missing") == ""


@pytest.mark.parametrize(
    ("kind", "may"), [("nfs4", True), ("fuse.share", True), ("lustre", True), ("ext4", False), ("overlay", False)]
)
def test_only_file_systems_of_one_machine_know_each_name_at_once(tmp_path: Path, kind: str, may: bool) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(_ROOT + _LINE.format(point=tmp_path, kind=kind, options="rw"))
    assert may_remember_names(tmp_path, mounts) is may
    assert may_remember_names(tmp_path / "a folder that is made later", mounts) is may
    assert may_remember_names(tmp_path, tmp_path / "missing")
