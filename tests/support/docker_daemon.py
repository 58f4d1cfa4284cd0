"""Docker for tests: the running one, else a daemon of our own that leaves nothing behind.

`pytest_plugins = ("tests.support.docker_daemon",)` in a test module brings the fixtures `daemon`, `own_daemon`
and `registry`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from docker.errors import DockerException, ImageNotFound

from orchestrator.errors import MachineError
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.docker_client import connect
from tests.support.base_image import APPLETS, PACKAGES, write_root

if TYPE_CHECKING:
    from docker import DockerClient

BASE_IMAGE = "orchestrator-test-base:1"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin"
_WAIT = 30.0
"""Seconds for a daemon or registry to start or stop."""


@dataclass(frozen=True)
class Daemon:
    """A Docker daemon with a base image that has Python, NumPy, ml_dtypes and a shell."""

    host: str
    """What DOCKER_HOST must be to reach it; empty: the default."""
    base_image: str = BASE_IMAGE

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a program that uses this daemon."""
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}

    def connect(self) -> DockerClient:
        return connect(self.environment)

    def executor(self, patience: float = 20.0, grace: int = 3) -> DockerExecutor:
        return DockerExecutor(self.connect, patience=patience, grace=grace)

    @property
    def architecture(self) -> str:
        with closing(self.connect()) as client:
            return str(client.version()["Arch"])


class NoDaemonError(Exception):
    """No daemon can be started here; the message gives the reason."""


class OwnDaemon:
    """A `dockerd` with its own socket, data folder and containerd, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.daemon = Daemon(f"unix://{folder}/d.sock")

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NoEngineError: It does not come up.
        """
        program = shutil.which("dockerd", path=_PATH)
        if program is None:
            reason = "Docker does not answer, and dockerd is not installed (apt-get install docker.io)"
            raise NoDaemonError(reason)
        if os.getuid() != 0:
            reason = "Docker does not answer, and only root can start one"
            raise NoDaemonError(reason)
        log = self._folder / "log.txt"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                (
                    program,
                    *("-H", self.daemon.host),
                    *("--data-root", self._folder / "data"),
                    *("--exec-root", self._folder / "exec"),
                    *("--pidfile", self._folder / "d.pid"),
                    *("--bridge=none", "--iptables=false"),  # no rights to the network are needed, nothing is changed
                    "--live-restore",
                ),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, "PATH": _PATH},
                start_new_session=True,
            )
        deadline = time.monotonic() + _WAIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(MachineError), closing(self.daemon.connect()):
                return
            time.sleep(0.1)
        self.end()
        reason = "dockerd does not start here: " + log.read_text(errors="replace")[-500:]
        raise NoDaemonError(reason)

    def kill(self) -> None:
        """End the daemon as a crash would; containers continue.

        Its containerd ends with it, but may stay as a zombie. Without its pid file
        the next start does not assume that it runs.
        """
        self._end(signal.SIGKILL)
        _wait_for(lambda: not any(b"containerd.toml" in arguments for _, arguments in _processes_of(self._folder)))
        (self._folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def end(self) -> None:
        """End the daemon as a restart of its service would; containers continue."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_WAIT)
            self._process = None

    def close(self) -> None:
        """End everything that belongs to the daemon: containers, helpers, mounts."""
        with suppress(MachineError, NoDaemonError, DockerException):
            if self._process is None:
                self.start()
            with closing(self.daemon.connect()) as client:
                for container in client.containers.list(all=True, ignore_removed=True):
                    container.remove(force=True)
        self.end()
        _wait_for(lambda: not list(_processes_of(self._folder)))
        for pid, _ in _processes_of(self._folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in sorted(_mounts_below(self._folder), reverse=True):
            subprocess.run(("umount", "--lazy", mount), check=False, capture_output=True)


def _wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _processes_of(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Find the helpers of a daemon by its folder in their arguments."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes()
                if f"{folder}/".encode() in arguments:
                    yield int(entry.name), arguments


def _mounts_below(folder: Path) -> list[str]:
    places = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [place for place in places if place.startswith(f"{folder}/")]


def _import_base(daemon: Daemon, folder: Path) -> None:
    """Import the base image, unless the daemon has the one of this Python and these packages."""
    label = f"{sys.version} {sys.executable} {' '.join(PACKAGES + APPLETS)}".replace("\n", " ")
    with closing(daemon.connect()) as client:
        with suppress(ImageNotFound):
            if client.images.get(BASE_IMAGE).labels.get("python") == label:
                return
        root = folder / "root.tar"
        write_root(root)
        repository, _, tag = BASE_IMAGE.partition(":")
        client.api.import_image_from_file(
            str(root),
            repository=repository,
            tag=tag,
            changes=["ENV PATH=/usr/local/bin:/usr/bin:/bin", f'LABEL python="{label}"'],
        )
        root.unlink()


@contextmanager
def own_daemon_in(parent: Path | None = None) -> Iterator[OwnDaemon]:
    """Run a daemon of our own, with the base image, until the block ends.

    Raises:
        NoEngineError: None can be started.
    """
    # Not pytest's folder: the path of a socket may have 107 bytes, and data must not lie in a repository
    folder = Path(tempfile.mkdtemp(prefix="orch-docker-", dir=parent))
    own = OwnDaemon(folder)
    try:
        own.start()
        _import_base(own.daemon, folder)
        yield own
    finally:
        own.close()
        shutil.rmtree(folder, ignore_errors=True)


def do_without(reason: str) -> NoReturn:
    """Skip a test for something that is not here; where everything is required, fail it."""
    if os.environ.get("ORCHESTRATOR_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """The running Docker, else a daemon of our own."""
    with ExitStack() as stack:
        found = Daemon("")
        try:
            found.connect().close()
        except MachineError:
            try:
                found = stack.enter_context(own_daemon_in()).daemon
            except NoDaemonError as error:
                do_without(str(error))
        else:
            with tempfile.TemporaryDirectory() as folder:
                _import_base(found, Path(folder))
        yield found


@pytest.fixture
def own_daemon() -> Iterator[OwnDaemon]:
    """A daemon that a test may kill."""
    try:
        with own_daemon_in() as own:
            yield own
    except NoDaemonError as error:
        do_without(str(error))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on loopback; yields the prefix of its images' names, `127.0.0.1:PORT`."""
    program = shutil.which("docker-registry", path=_PATH)
    if program is None:
        do_without("docker-registry is not installed (apt-get install docker-registry)")
    folder = tmp_path_factory.mktemp("registry")
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    settings = folder / "config.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen((program, "serve", settings), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for(partial(_answers, port), _WAIT)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_WAIT)


def _answers(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
        return True
    return False
