"""The guard of the unit tests itself."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest


class Refusals(Protocol):
    """What these tests use of the guard."""

    refused: list[str]


def _connect_unix() -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect("/var/run/docker.sock")


def _connect() -> None:
    with socket.socket() as end:
        end.connect(("127.0.0.1", 9))


def _bind() -> None:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))


def _run() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def _spawn() -> None:
    os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})


def _read_home() -> None:
    (Path(pwd.getpwuid(os.getuid()).pw_dir) / ".netrc-of-nobody").read_text()


def _become() -> None:
    os.execv(sys.executable, [sys.executable, "-c", ""])  # noqa: S606 - it must not come so far


@pytest.mark.parametrize("reach", [_connect_unix, _connect, _bind, _run, os.fork, _spawn, _become, _read_home])
def test_a_unit_test_cannot_reach_the_world(reach: Callable[[], object], guard: Refusals) -> None:
    with pytest.raises(Exception, match="a unit test"):
        reach()
    assert len(guard.refused) == 1
    guard.refused.clear()  # this test was right to try


def test_the_home_folder_is_empty_and_ours() -> None:
    assert list(Path.home().iterdir()) == []


def test_no_setting_or_secret_of_this_shell_is_left() -> None:
    left = [name for name in os.environ if name.startswith(("HF_", "DOCKER_", "ORCHESTRATOR_")) or "TOKEN" in name]
    assert left == ["HF_HUB_OFFLINE"], "set by the guard: a plan asks no Hub"
