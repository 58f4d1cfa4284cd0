"""A bundle's files: linked from the store where the file system allows, and put in place at once."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

from orchestrator.store.artifact import Artifact
from orchestrator.store.store import remove_tree

_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})


def link_files(artifact: Artifact, folder: Path) -> None:
    """Make an artifact's files appear in a folder; copied where the file system has no hard links."""
    for file in artifact.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = artifact.folder / file.path
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            shutil.copyfile(source, target)


def swap_in(fresh: Path, place: Path) -> None:
    """Put a folder where another one may be; the old one goes once the new one is there."""
    old = place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}"
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    if old.exists():
        remove_tree(old)
