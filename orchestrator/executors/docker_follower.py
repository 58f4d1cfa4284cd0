"""Follows a container to its end by its log, and outlives a restart of Docker."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from docker.errors import NotFound

from orchestrator.errors import DockerUnavailableError, MachineError
from orchestrator.events import Warned
from orchestrator.executors.docker_client import DOCKER_ERRORS, explained
from orchestrator.executors.docker_container import ENDED, REMOVED, get, remove
from orchestrator.executors.docker_logs import LogPosition, LogStream
from orchestrator.executors.job import never_abort

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker.models.containers import Container

    from docker import DockerClient
    from orchestrator.events import Observer
    from orchestrator.executors.channel import Channel
    from orchestrator.executors.docker_client import Connect
    from orchestrator.executors.job import AbortCheck

_SLICE = 0.5
"""Seconds to wait for a log line before other checks."""

_SILENCE = 10.0
"""Seconds without a log line after which Docker is asked whether the container still runs."""

_SETTLE = 2
"""Seconds to wait for the container's end after that of its log."""

_CATCH_UP = 5.0
"""Seconds to spend on the log of an ended container, which may be very long."""

_NEWEST = 10_000
"""Messages at the end of a log that are always read, because the cause of a failure is among the last ones."""

_Answer = TypeVar("_Answer")


@dataclass
class Follower:
    """Reads a running container's log to the container's end, and reconnects to Docker."""

    connect: Connect
    container: Container
    channel: Channel
    """Takes the log."""
    observer: Observer
    """Gets warnings."""
    patience: float
    """Seconds to wait for a Docker that does not answer."""
    abort_check: AbortCheck
    position: LogPosition = field(default_factory=LogPosition)
    """The position in the log."""

    @property
    def _id(self) -> str:
        return self.container.id or ""

    def to_the_end(self) -> Mapping[str, Any]:
        """Follow the log until the container has ended; returns its state.

        Raises:
            DockerUnavailableError: Docker does not answer for longer than we wait.
        """
        while True:
            self._follow()
            state = self._state(settle=_SETTLE)
            if state["Status"] in ENDED:
                self._follow(newest=_NEWEST)  # lines from the time without Docker
                return state

    def stop(self, grace: int) -> None:
        """Ask the container to stop and remove it. After another interrupt, kill it."""
        try:
            with closing(self.connect()) as client:
                container = get(client, self._id)
                if container is not None:
                    self._stop(container, grace)
        except MachineError as error:
            self.observer(Warned(f"container {self.container.name} was not stopped and may continue: {error}"))

    def _stop(self, container: Container, grace: int) -> None:
        try:
            self.abort_check = never_abort  # the command is already being stopped
            with explained(f"stopping container {self.container.name}"):
                container.stop(timeout=grace)
            self._follow()
        finally:
            remove(container)

    def _follow(self, newest: int | None = None) -> None:
        """Forward the log until it ends, or until the container has ended and nothing or too much comes."""
        with LogStream(self.connect, self._id, self.position, newest) as stream:
            checked = time.monotonic()
            ended = False
            while (piece := stream.take(_SLICE)) is not None:
                self.abort_check()
                if piece:
                    self.channel.take(piece)
                if time.monotonic() - checked < (_CATCH_UP if ended else _SILENCE):
                    continue
                if ended:
                    return
                ended = self._state(settle=0)["Status"] in ENDED
                checked = time.monotonic()
                if ended and not piece:
                    return

    def _state(self, settle: int) -> Mapping[str, Any]:
        """Ask for the container's state, and retry until Docker answers.

        Args:
            settle: Seconds to wait for the container's end before it counts as running.
        """

        def request(client: DockerClient) -> Mapping[str, Any]:
            if settle:
                with suppress(requests.RequestException):  # a timeout, under several names (docker-py issue 1966)
                    client.api.wait(self._id, timeout=settle)
            state: Mapping[str, Any] = client.api.inspect_container(self._id)["State"]
            return state

        try:
            return self._patiently(request)
        except NotFound:
            return {"Status": REMOVED, "ExitCode": 137}  # docker rm -f

    def _patiently(self, request: Callable[[DockerClient], _Answer]) -> _Answer:
        deadline = time.monotonic() + self.patience
        warned = False
        while True:
            try:
                with closing(self.connect()) as client:
                    return request(client)
            except NotFound:
                raise
            except (DockerUnavailableError, *DOCKER_ERRORS) as error:
                if time.monotonic() > deadline:
                    message = f"Docker has not answered for {self.patience:.0f} s while {self.container.name} ran"
                    hint = "start it and build again: the running container is adopted"
                    raise DockerUnavailableError(message, hint=hint) from error
            self.abort_check()
            if not warned:
                self.observer(Warned(f"Docker does not answer; waiting up to {self.patience:.0f} s for it"))
                warned = True
            time.sleep(1)
