"""Says which tests may run beside each other with `--numprocesses auto --dist loadgroup`.

Two Docker daemons on one machine disturb each other, so that all tests with a daemon run in one process, one after
the other. Other tests are shared out by file, because a file's tests share what its fixtures made.
"""

from __future__ import annotations

import pytest

_DAEMONS = {"daemon", "own_daemon"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        needs_docker = item.get_closest_marker("docker") or _DAEMONS & set(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("docker" if needs_docker else item.path.name))
