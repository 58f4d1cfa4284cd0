"""What holds for every kind of test."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ("tests.support.docker_daemon", "tests.support.kubernetes", "tests.support.slurm")

# How long an example takes says how busy the machine is, nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_sessionstart(session: pytest.Session) -> None:  # noqa: ARG001 - pytest's signature
    """Let signals reach what tests start, also in the background or by nohup; let output be as wide as it is."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ.pop("COLUMNS", None)  # xdist sets it for its workers
