"""Builds on a Slurm that limits memory, that has a deadline, and whose clocks are not those of the login nodes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.app.record import Record
from orchestrator.errors import JobNotStartedError
from orchestrator.store.store import Store
from tests.support.bench import Bench
from tests.support.docker_daemon import do_without
from tests.support.site import RECIPE, Site
from tests.support.slurm import NODES, NoSlurmError, Slurm, cluster_text, slurm_in

MEMORY_CGROUP = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
FIVE_MINUTES = 300
_TRIES = 8
"""Slurm 22.05 misses one in four of the kernel's messages about memory, and then says only that the job failed."""


def site_of(slurm: Slurm, folder: Path, **settings: object) -> Site:
    (folder / "cluster.yaml").write_text(cluster_text(minutes=10, **settings))
    return Site("slurm", {"SLURM_CONF": slurm.environment["SLURM_CONF"]}, folder)


def test_a_step_that_the_kernel_kills_for_memory_says_so_and_what_to_change(tmp_path: Path) -> None:
    """The kernel kills the command of the step; the build in the job, which started it, ends by itself."""
    if not MEMORY_CGROUP.exists():
        pytest.skip("this Slurm limits memory through cgroup v1 only")
    said: list[str] = []
    try:
        with slurm_in(limits_memory=True) as slurm:
            site = site_of(slurm, tmp_path, steps={"quantize": {"memory_gb": 0.08}})
            while not said or ("STEP_KILLED" in said[-1] and len(said) < _TRIES):
                ended = site.run(*site.build)
                assert slurm.queue() == []
                assert ended.returncode == 5, ended.stderr
                assert "raise `memory_gb`" in ended.stderr
                said.append(ended.stderr)
    except NoSlurmError as error:
        do_without(str(error))
    assert "✓ generate" in said[0], "it had half a gigabyte"
    assert "error[STEP_OUT_OF_MEMORY]: quantize used more memory than its job had" in said[-1]


def test_login_nodes_whose_clocks_are_ten_minutes_apart_share_each_result(slurm: Slurm, tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        do_without("libfaketime is not installed (apt-get install libfaketime)")
    site, store = site_of(slurm, tmp_path), Store(tmp_path / "store")
    starts, reused = [], []
    for offset in (FIVE_MINUTES, -FIVE_MINUTES):
        clock = {"LD_PRELOAD": str(library), "FAKETIME": f"{offset:+}"}
        login = replace(site, variables={**site.variables, **clock})
        with login.start(*site.build, "--until", "quantize", "--json") as built:  # the library is loaded at the start
            told, said = built.communicate(timeout=120)
        assert built.returncode == 0, said
        assert "created again" not in said
        reused.append([step["reused"] for step in json.loads(told)["steps"]])
        record = Record.read(store.root, RECIPE)
        assert record is not None
        assert record.finished
        starts.append(record.started)
    assert reused == [[False] * 2, [True] * 2]
    assert sorted(artifact.step for artifact in store.artifacts()) == ["generate", "quantize"]
    assert store.attempts() == ()
    (cost,) = (store.cost(artifact.key) for artifact in store.artifacts() if artifact.step == "quantize")
    assert cost is not None
    ended = datetime.fromisoformat(cost.finished).timestamp()
    assert starts[1] < ended < starts[0], "the clocks of the login nodes were wrong, that of the node was right"


def test_a_job_that_cannot_end_before_its_deadline_is_no_step_that_took_too_long(slurm: Slurm, tmp_path: Path) -> None:
    """Slurm removes it while it waits; the next job would wait in vain as well."""
    bench = Bench(slurm.executor(minutes=1, options=["--deadline=now+63seconds"]), tmp_path)
    slurm.say("scontrol", "update", f"nodename={','.join(NODES)}", "state=drain", "reason=test")
    try:
        with pytest.raises(JobNotStartedError, match=r"was removed before its command started \(DEADLINE\)"):
            bench.run(bench.job("end_with", "0"))
    finally:
        slurm.say("scontrol", "update", f"nodename={','.join(NODES)}", "state=resume")
        slurm.wait_for_nodes()
    assert slurm.queue() == []
