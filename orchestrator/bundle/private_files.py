"""Decides which files of a bundle may leave its machine. Copies, archives and images all use this one list."""

from __future__ import annotations

from pathlib import Path

from orchestrator.bundle.files import read_sums

EDITED = "edited"
"""The folder of files that the user had changed before another build overwrote them."""
PRIVATE = (".env", "secrets", "two-sparks/.env", "two-sparks/keys", EDITED)
"""The user's own files and folders in a bundle: settings, API keys, TLS keys. Another build keeps them. Nothing copies,
archives or embeds them."""
_OURS = frozenset({"secrets/README"})
"""Rendered files in a private folder."""


def is_private(name: str) -> bool:
    """Tell whether a file of a bundle must stay on its machine.

    Args:
        name: Its path in the bundle.
    """
    return name not in _OURS and any(name == one or name.startswith(f"{one}/") for one in PRIVATE)


def shareable(folder: Path) -> tuple[str, ...]:
    """Return the files that may leave the machine: those that the build lists, except private ones.

    A file that the build did not write may be a secret, whatever its name is.
    """
    return tuple(name for name in sorted(read_sums(folder)) if not is_private(name) and (folder / name).is_file())
