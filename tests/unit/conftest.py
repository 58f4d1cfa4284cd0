"""A guard around every unit test: no process, no socket, no home folder, none of this shell's settings or secrets.

What a test may not do raises where it is tried, and fails the test at its end even where somebody swallowed that.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub.constants  # noqa: F401 - reads HF_HUB_OFFLINE once, and the tests of hub/ have their own Hub
import pytest

_EVENTS = {
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "os.exec": "becomes another program",
    "os.posix_spawn": "starts a process",
    "pty.spawn": "starts a process",
    "socket.connect": "connects a socket",
    "socket.bind": "binds a socket",
    "socket.sendto": "sends to a socket",
    "socket.getaddrinfo": "asks for an address",
    "socket.gethostbyname": "asks for an address",
}
_SETTINGS = re.compile("^(HF|HUGGING|ORCHESTRATOR|_ORCHESTRATOR|DOCKER|COMPOSE|NGC|XDG)_|TOKEN|SECRET|PASSWORD|_KEY$")
_HOME = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111 - text, as the audit hook gets it
_ROOT = Path(__file__).resolve().parents[2]
_ALLOWED = tuple(
    os.path.realpath(place) + os.sep
    for place in (_ROOT, _ROOT.parent / "shared", sys.prefix, sys.base_prefix, sys.exec_prefix, tempfile.gettempdir())
)


class ForbiddenError(Exception):
    """A unit test reached for the world outside."""


@dataclass
class Guard:
    """Refuses while a unit test runs, and remembers what it refused."""

    active: bool = False
    refused: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.active:
            return
        if event in _EVENTS:
            self._refuse(
                f"a unit test {_EVENTS[event]}: {arguments!r}; such a test belongs in contract/ or integration/"
            )
        if event == "open" and _is_at_home(arguments[0]):
            self._refuse(f"a unit test opens {arguments[0]!r} in the home folder; use tmp_path")

    def _refuse(self, reason: str) -> None:
        self.refused.append(reason)
        raise ForbiddenError(reason)


def _is_at_home(path: object) -> bool:
    if not isinstance(path, str | bytes):
        return False
    text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would open nothing, but costs more per file
    return text.startswith(_HOME + os.sep) and not text.startswith(_ALLOWED)


_GUARD = Guard()
sys.addaudithook(_GUARD)  # for good: Python has no way to remove one; asleep outside of unit tests


@pytest.fixture(autouse=True)
def guard(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """Cut a unit test off from everything but its own folder."""
    for name in [name for name in os.environ if _SETTINGS.search(name)]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    _GUARD.refused.clear()
    _GUARD.active = True
    try:
        yield _GUARD
    finally:
        _GUARD.active = False
    if _GUARD.refused:
        pytest.fail("\n".join(_GUARD.refused))
