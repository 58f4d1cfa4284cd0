"""Secrets as files that only their user can read: never in an environment, an argument or a label.

Whatever stands in those is shown by `docker inspect` and kept on the engine's disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.executors.docker_arguments import SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_FOLDER = "orchestrator-secrets-"


def write_secrets(secrets: Mapping[str, str]) -> dict[str, Path]:
    """Write each secret into a file of its own in a new private folder; returns the files by the secrets' names."""
    if not secrets:
        return {}
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))  # mode 0700
    files = {name: folder / name for name in secrets}
    for name, file in files.items():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(secrets[name])
    return files


def remove_secrets(files: Iterable[Path]) -> None:
    """Remove secret files and their folders; whatever is not ours stays."""
    for file in files:
        if file.parent.name.startswith(_FOLDER):
            file.unlink(missing_ok=True)
            if file.parent.is_dir() and not any(file.parent.iterdir()):
                file.parent.rmdir()


def secrets_of(inspected: Mapping[str, Any]) -> list[Path]:
    """Find the secret files that a container was given, also by an orchestrator that is gone."""
    return [Path(mount["Source"]) for mount in inspected["Mounts"] if mount["Destination"].startswith(SECRETS + "/")]
