"""Tells from the mount of a folder what other machines see of it, and when."""

from __future__ import annotations

from pathlib import Path

_LOCAL = {
    "nfs": ("nolock", "local_lock=flock", "local_lock=all"),
    "nfs4": ("local_lock=flock", "local_lock=all"),
    "lustre": ("localflock",),
    "fuse.sshfs": ("rw", "ro"),
}
"""Options by the type of a file system with which `flock` works within one machine: nfs(5), mount.lustre(8).

sshfs has no locks of its server at all."""
_OF_ONE_MACHINE = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "squashfs", "tmpfs", "xfs", "zfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")


def local_locks(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type and option because of which a folder's locks exclude only processes of this machine; or nothing.

    Args:
        folder: An existing folder.
        mounts: The kernel's list, as in proc_pid_mountinfo(5).
    """
    kind, options = _mount(folder, mounts)
    local = [option for option in options if option in _LOCAL.get(kind, ())]
    return " ".join((kind, *local)) if local else ""


def may_remember_names(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Tell whether a folder's file system may say for a while that a name is missing which another machine has made.

    File systems of one machine do not; any other may.

    Args:
        folder: An existing folder.
        mounts: As above.
    """
    return _mount(folder, mounts)[0] not in _OF_ONE_MACHINE


def _mount(folder: Path, mounts: Path) -> tuple[str, list[str]]:
    """Return the type of a folder's file system and its options; nothing if the kernel does not say."""
    found, longest = ("", list[str]()), -1
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return found
    whole = folder.resolve()
    for line in lines:
        place, _, behind = line.partition(" - ")
        point = Path(place.split()[4].encode().decode("unicode_escape"))  # a space is \040
        if whole.is_relative_to(point) and len(point.parts) >= longest:
            longest = len(point.parts)
            kind, _, options = (*behind.split(), "", "")[:3]
            found = kind, options.split(",")
    return found
