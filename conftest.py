"""What holds for every kind of test."""

import signal

import pytest

pytest_plugins = ("tests.support.engine",)


def pytest_sessionstart(session: pytest.Session) -> None:  # noqa: ARG001 - pytest's signature
    """Let Ctrl-C reach what tests start, also where the tests themselves were started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
