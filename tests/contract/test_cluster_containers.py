"""Containers on a cluster's node, with a stand-in for Apptainer: which command runs, with which variables."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from orchestrator.executors.cluster_containers import RUNTIMES, ClusterContainerExecutor
from orchestrator.executors.job import ContainerImage
from tests.support.bench import Bench

STAND_IN = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
Path("seen.json").write_text(json.dumps([sys.argv[1:], sorted(os.environ)]))
sys.exit(7)
"""


def test_a_container_is_a_process_in_the_output_folder(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "HF_TOKEN": "hf_canary_0123456789",
    }
    bench = Bench(ClusterContainerExecutor(RUNTIMES["apptainer"], environment), tmp_path)
    job = replace(bench.job("count", "1"), image=ContainerImage("ubuntu:24.04", "amd64"))
    bench.executor.check(job)
    outcome = bench.run(job)
    assert outcome.exit_status == 7
    arguments, variables = json.loads((outcome.output / "seen.json").read_text())
    assert arguments[-4:] == ["python3", "/support/command.py", "count", "1"]
    assert "SLURM_JOB_ID" in variables, "srun finds the job by it"
    assert "HF_TOKEN" not in variables
