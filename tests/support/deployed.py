"""A recipe built with stand-ins, and its server brought up and taken down as a user would, with real Docker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from orchestrator.deployment.compose_file import SERVER, read
from orchestrator.deployment.images import ensure
from orchestrator.events import silence
from tests.support.command_line import COMMAND, orchestrator
from tests.support.docker_daemon import Daemon, do_without
from tests.support.ports import free_port
from tests.support.rehearsal import ONEPASS, Rehearsal

RECIPE = ONEPASS
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bundle:
    """A bundle in a folder of its own, which a test may change, and the command line that deploys it."""

    dist: Path
    rehearsal: Rehearsal
    daemon: Daemon
    port: int

    @classmethod
    def keep_image(cls, rehearsal: Rehearsal, daemon: Daemon) -> None:
        """Build the bundle's image once under a name of its own: later builds find every layer there."""
        folder = rehearsal.folder / "dist" / RECIPE
        with closing(daemon.connect()) as client:
            ensure(client, read(folder, {}).services[SERVER], folder, silence)
            client.images.get(read(folder, {}).services[SERVER].image).tag("orchestrator-test-kept", "1")

    @classmethod
    def copy(cls, rehearsal: Rehearsal, daemon: Daemon, dist: Path) -> Bundle:
        """Copy what was built; the port is another one than every other test's."""
        shutil.copytree(rehearsal.folder / "dist" / RECIPE, dist / RECIPE)
        made = cls(dist, rehearsal, daemon, free_port())
        made.set()
        return made

    @property
    def folder(self) -> Path:
        """The bundle itself."""
        return self.dist / RECIPE

    @property
    def url(self) -> str:
        """Where its gateway is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def container(self) -> str:
        """The name of the server's container."""
        return f"{RECIPE}-server-1"

    def set(self, **variables: str) -> None:
        """Write `.env`."""
        lines = {"PORT": str(self.port), "SHM_SIZE": "64m", **variables}
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    def run(
        self, *arguments: str, status: int = 0, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the orchestrator's."""
        environment = {**self._environment, **(variables or {})}
        ended = orchestrator(*self._places, *arguments, environment=environment, folder=_ROOT)
        assert ended.returncode == status, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr
        return ended

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that will be interrupted."""
        return subprocess.Popen(
            self._command(*arguments), env=self._environment, cwd=_ROOT, stderr=subprocess.PIPE, text=True
        )

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, *COMMAND, *self._places, *arguments]

    @property
    def _places(self) -> tuple[str, ...]:
        return (*self.rehearsal.places, "--dist", str(self.dist), "--store", str(self.dist / "store"))

    @property
    def _environment(self) -> dict[str, str]:
        return {**self.rehearsal.environment, **self.daemon.environment}

    def deploy(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """Bring it up; returns what the command says of it."""
        answer: dict[str, Any] = json.loads(
            self.run("deploy", RECIPE, "--json", *arguments, variables=variables).stdout
        )
        return answer

    def fails(self, status: int, **variables: str) -> dict[str, str]:
        """Try to bring it up; returns the error."""
        said = self.run("deploy", RECIPE, "--json", status=status, variables=variables).stderr
        error: dict[str, str] = json.loads(said.splitlines()[-1])["error"]
        return error

    def status(self) -> dict[str, Any]:
        """Tell how the server is."""
        (document,) = json.loads(self.run("status", "--json").stdout)
        (server,) = document["deployed"]
        return dict(server)

    def inspect(self, container: str = "") -> dict[str, Any]:
        """Tell everything that Docker knows of a container: the server's, if none is named."""
        with closing(self.daemon.connect()) as client:
            found: dict[str, Any] = client.api.inspect_container(container or self.container)
            return found

    def ask(self, path: str) -> int:
        """Give the status of an answer."""
        return httpx2.get(self.url + path, timeout=10, trust_env=False).status_code

    @contextmanager
    def taken_down(self) -> Iterator[None]:
        """Take everything down at the end, volumes too."""
        try:
            yield
        finally:
            self.run("undeploy", RECIPE, "--volumes")


def things(daemon: Daemon) -> dict[str, set[str]]:
    """Name everything that Docker has."""
    with closing(daemon.connect()) as client:
        return {
            "containers": {container.id or "" for container in client.containers.list(all=True)},
            "images": {tag for image in client.images.list() for tag in image.tags},
            "networks": {network.id or "" for network in client.networks.list()},
            "volumes": {volume.id or "" for volume in client.volumes.list()},
        }


def require(program: str, package: str) -> None:
    """Skip a test without a program; where everything is required, fail it."""
    if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        do_without(f"{program} is not installed (apt-get install {package})")
