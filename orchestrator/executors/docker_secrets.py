"""Keeps secrets in private files: never in an environment, an argument or a label.

`docker inspect` shows those, and Docker keeps them on its disk.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.executors.docker_arguments import SECRETS
from orchestrator.store import owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_FOLDER = "orchestrator-secrets-"
_NAME = re.compile(re.escape(_FOLDER) + r"(?P<owner>.+)-[a-z0-9_]{8}")


def write_secrets(secrets: Mapping[str, str]) -> dict[str, Path]:
    """Write each secret to its own file in a new private folder. Return the files by the secrets' names."""
    if not secrets:
        return {}
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{_spelled(owner.this_process())}-"))  # mode 0700
    files = {name: folder / name for name in secrets}
    for name, file in files.items():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(secrets[name])
    return files


def remove_secrets(files: Iterable[Path]) -> None:
    """Remove secret files and their folders. Other files stay."""
    for file in files:
        if file.parent.name.startswith(_FOLDER):
            file.unlink(missing_ok=True)
            if file.parent.is_dir() and not any(file.parent.iterdir()):
                file.parent.rmdir()


def sweep_secrets() -> None:
    """Remove the secrets of orchestrators that were killed.

    A container with a mounted file keeps it, because it sees the file, not its name.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        found = _NAME.fullmatch(folder.name)
        if found and _is_ours(folder) and not owner.is_running(_read(found["owner"])):
            shutil.rmtree(folder, ignore_errors=True)


def _spelled(name: str) -> str:
    return name.replace(":", ".")


def _read(spelled: str) -> str:
    return ":".join(spelled.rsplit(".", 2))


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return status.st_uid == os.getuid() and not folder.is_symlink()


def secrets_of(inspected: Mapping[str, Any]) -> list[Path]:
    """Find the secret files of a container, also of an ended orchestrator."""
    return [Path(mount["Source"]) for mount in inspected["Mounts"] if mount["Destination"].startswith(SECRETS + "/")]
