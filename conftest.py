"""What holds for every kind of test."""

import signal

import pytest

pytest_plugins = ("tests.support.engine",)


def pytest_sessionstart(session: pytest.Session) -> None:  # noqa: ARG001 - pytest's signature
    """Let signals reach what tests start, also where the tests were started in the background or by nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
