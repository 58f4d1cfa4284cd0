"""Two machines on a shared file system that caches names and attributes for seconds, and whose clock is ahead.

Each machine has a mount of its own over one folder. FUSE serves them, because no NFS server starts here.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.events import silence
from orchestrator.executors.job import never_abort
from orchestrator.executors.job_folder import Ending, JobFolder
from orchestrator.executors.job_follower import Follower, SubmittedJob
from orchestrator.executors.scheduler import JobState
from orchestrator.store.store import Store
from tests.contract.test_shared_store import RECIPE, start_on
from tests.contract.test_shared_store import folder as folder  # noqa: PLC0414 - a fixture
from tests.support.slow_share import two_mounts

CACHED = 2.0
"""Seconds."""
AHEAD = 600
"""Seconds between the clocks of the server and of the machines."""
TIMES = 15
KEY = "c0ffee" * 10 + "beef"
BUILD = ("build", RECIPE, "--json", "--until", "generate", "--set", "model.generate.num_hidden_layers=1")


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    (tmp_path / "store").mkdir(exist_ok=True)
    with two_mounts(tmp_path, CACHED, AHEAD) as both:
        yield both


def build_on_both(folder: Path, mounts: tuple[Path, Path]) -> list[list[dict[str, Any]]]:
    machines = [start_on(f"node{mount.name[-1]}", folder, *BUILD, store=mount) for mount in mounts]
    said = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert Store(folder / "store").attempts() == ()
    return [json.loads(output)["steps"] for output, _ in said]


def test_a_step_is_made_once_though_a_machine_remembers_that_it_was_missing(
    folder: Path, mounts: tuple[Path, Path]
) -> None:
    for one, other in zip(*build_on_both(folder, mounts), strict=True):
        assert one["digest"] == other["digest"]
        assert sorted((one["reused"], other["reused"])) == [False, True], one["name"]


def test_a_result_is_found_and_replaced_where_it_was_missing_before(mounts: tuple[Path, Path]) -> None:
    stores = tuple(map(Store, mounts))
    for store in stores:
        store.make()
        assert store.find(KEY) is None
    for store, other in (stores, stores[::-1]):
        attempt = store.attempt(KEY)
        (attempt.out / "from").write_text(store.root.name)
        made = store.publish(attempt, KEY, "quantize")
        found = other.find(KEY)
        assert found
        assert found.digest == made.digest


def test_without_shared_locks_a_build_may_fail_and_no_result_is_torn(folder: Path) -> None:
    store = Store(folder / "store")
    with two_mounts(folder, CACHED, AHEAD, locks="local") as mounts:
        machines = [start_on(f"node{mount.name[-1]}", folder, *BUILD, store=mount) for mount in mounts]
        for machine in machines:
            machine.communicate(timeout=120)
        for artifact in store.artifacts():
            store.check(artifact)
        again = start_on("node1", folder, *BUILD, store=mounts[0])
        _, said = again.communicate(timeout=120)
        assert again.returncode == 0, said
    artifacts = tuple(store.artifacts())
    assert len(artifacts) == 1
    for artifact in artifacts:
        store.check(artifact)


@pytest.mark.parametrize(
    "lock_of", [lambda mount: Store(mount).lock("key", lambda: None), lambda mount: JobFolder(mount).alone()]
)
def test_the_locks_of_the_store_and_of_a_job_exclude_the_other_machine(
    mounts: tuple[Path, Path], lock_of: Callable[[Path], AbstractContextManager[None]]
) -> None:
    (mounts[0] / "count").write_text("0")

    def count(mount: Path) -> None:
        for _ in range(TIMES):
            with lock_of(mount):
                number = int((mount / "count").read_text())
                time.sleep(0.002)
                (mount / "count").write_text(str(number + 1))

    threads = [threading.Thread(target=count, args=(mount,)) for mount in mounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (mounts[1] / "count").read_text() == str(2 * TIMES)


class Over:
    """A scheduler that says at once that a job is over."""

    title = "Slurm"

    def state(self, *_: object) -> JobState:
        return JobState("over", "COMPLETED", "ended")


def test_the_record_of_a_job_is_waited_for_while_the_login_node_remembers_that_there_was_none(
    mounts: tuple[Path, Path],
) -> None:
    node, login = (JobFolder(mount / "job") for mount in mounts)
    node.path.mkdir()
    began = time.monotonic()
    assert login.ending() is None
    node.reserve_ending()
    node.write_ending(Ending(7))
    assert login.ending() is None or time.monotonic() - began > CACHED, "it was written, and is not seen"
    job = SubmittedJob("7", "tiny-quantize", login, adopted=False)
    followed = Follower(cast("Any", Over()), job, "quantize", silence, 300, CACHED + 8, never_abort)
    assert followed.to_the_end() == Ending(7)
