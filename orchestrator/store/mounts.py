"""Tells from a mount's options whether its locks reach other machines."""

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
_MOUNTS = Path("/proc/self/mountinfo")


def local_locks(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type and option because of which a folder's locks exclude only processes of this machine; or nothing.

    Args:
        folder: An existing folder.
        mounts: The kernel's list, as in proc_pid_mountinfo(5).
    """
    found, longest = "", -1
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        place, _, behind = line.partition(" - ")
        point = Path(place.split()[4].encode().decode("unicode_escape"))  # a space is \040
        kind, _, options = (*behind.split(), "", "")[:3]
        if folder.resolve().is_relative_to(point) and len(point.parts) >= longest:
            longest = len(point.parts)
            local = [option for option in options.split(",") if option in _LOCAL.get(kind, ())]
            found = " ".join((kind, *local)) if local else ""
    return found
