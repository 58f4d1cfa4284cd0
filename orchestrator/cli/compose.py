"""Docker Compose on a bundle."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from orchestrator.cli.settings import Settings
from orchestrator.errors import BundleIncompleteError, DockerUnavailableError, StepFailedError


def compose(settings: Settings, recipe: str, *arguments: str) -> Path:
    """Run Compose on a recipe's bundle; it speaks for itself on the terminal.

    Returns:
        The bundle's folder.

    Raises:
        BundleIncompleteError: Where there is no bundle.
        DockerUnavailableError: Where Compose is not installed.
        StepFailedError: Where it ends with another status than 0.
    """
    settings.book.load(recipe)  # a name that is no recipe never becomes a path
    folder = settings.dist / recipe
    file = folder / "compose.yaml"
    if not file.is_file():
        message = f"there is no {file}"
        raise BundleIncompleteError(message, hint=f"orchestrator build {recipe}")
    _insist_on_compose()
    status = subprocess.run(["docker", "compose", "--file", str(file), *arguments], check=False).returncode
    if status:
        message = f"docker compose {' '.join(arguments)} ended with exit status {status}"
        raise StepFailedError(message, hint="its own words above say why; `orchestrator doctor` looks at this machine")
    return folder


def _insist_on_compose() -> None:
    if shutil.which("docker") is None:
        message = "the command `docker` is not installed"
        raise DockerUnavailableError(message, hint="install Docker Engine with its Compose plugin, then try again")
    if subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode:
        message = "Docker has no Compose plugin here"
        raise DockerUnavailableError(message, hint="sudo apt-get install -y docker-compose-plugin")
