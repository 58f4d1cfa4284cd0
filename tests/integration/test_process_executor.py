"""A killed orchestrator leaves no process behind that could go on writing."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from orchestrator.executors.process import ProcessExecutor
from tests.support.bench import Bench, await_line, other_orchestrator, wait_for

WRITER = """
import os, time
name = "parent" if os.fork() else "child"
print("waiting")
while True:
    open(name, "a").write("x")
    time.sleep(0.02)
"""


def test_a_killed_orchestrator_leaves_no_writer(tmp_path: Path) -> None:
    bench = Bench(ProcessExecutor(), tmp_path)
    job = replace(bench.job(), argv=("python3", "-c", WRITER))
    files = [job.output / "parent", job.output / "child"]
    with other_orchestrator("process", job, tmp_path, os.environ) as process:
        await_line(process, "waiting")
        wait_for(lambda: all(file.exists() for file in files))
    time.sleep(0.3)
    sizes = [file.stat().st_size for file in files]
    time.sleep(0.3)
    assert [file.stat().st_size for file in files] == sizes
