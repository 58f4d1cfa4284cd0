"""A gateway deployment in a container as strict as a platform may make it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from docker.errors import APIError

from tests.support.gateway import Deployment
from tests.support.ports import free_port
from tests.support.rehearsal import IMAGES

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

_IMAGE = tuple(IMAGES)[-1]
_NOBODY_KNOWN = "4711:0"
"""An arbitrary user in group 0, as OpenShift gives one."""


@dataclass
class _Running:
    """A container, with what `Deployment` asks of a process."""

    container: Container

    def poll(self) -> int | None:
        self.container.reload()
        return self.container.attrs["State"]["ExitCode"] if self.container.status == "exited" else None

    def wait(self, seconds: float) -> int:
        return int(self.container.wait(timeout=seconds)["StatusCode"])

    def terminate(self) -> None:
        with suppress(APIError):
            self.container.kill("SIGTERM")

    def kill(self) -> None:
        with suppress(APIError):
            self.container.kill()


@dataclass
class ContainedDeployment(Deployment):
    """A bundle's server in a real container: no capability, a root that cannot be written, a user without a name."""

    client: DockerClient | None = None
    status: int | None = None
    """With which it ended."""

    def start(self) -> None:
        """Start the container; the server is not ready yet."""
        assert self.client is not None
        self.port = free_port()
        self.folder.chmod(0o777)  # the container's user writes the stand-in's log there
        self.process = cast("Any", _Running(self.client.containers.run(
            _IMAGE,
            entrypoint=[str(self.folder / "start_server.sh")],
            command=[],
            detach=True,
            init=True,
            user=_NOBODY_KNOWN,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},
            network_mode="host",
            volumes={str(self.folder): {"bind": str(self.folder), "mode": "rw"}},
            environment=self._variables(),
        )))  # fmt: skip

    def _variables(self) -> dict[str, str]:
        ports = {"NIM_SERVER_PORT": str(self.port), "NIM_GATEWAY_RUNTIME_PORT": str(free_port())}
        of_the_image = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": "python3", "TMPDIR": "/tmp"}
        return {**self.environment, **ports, **of_the_image}

    def stop(self) -> int:
        """Ask it to end, remove the container, and give the exit status."""
        if self.status is None:
            self.status = super().stop()
            (self.folder / "log").write_bytes(self._running.logs())
            self._running.remove(force=True)
        return self.status

    @property
    def log(self) -> str:
        """What it wrote."""
        file = self.folder / "log"
        return file.read_text(encoding="utf-8") if file.exists() else self._running.logs().decode()

    @property
    def _running(self) -> Container:
        return cast("_Running", self.process).container
