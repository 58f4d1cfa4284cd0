"""The guide to Slurm is true: its commands run, in their order, on a real Slurm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.bench import wait_for
from tests.support.guides import ROOT, blocks, codes, program_in
from tests.support.slurm import Slurm

_TIME = 120


def test_the_commands_of_the_guide_work_in_their_order(slurm: Slurm, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "recipes").mkdir(parents=True)
    (settings,) = blocks("slurm", "yaml")
    (project / "cluster.yaml").write_text(settings)
    environment = {
        "PATH": f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "SLURM_CONF": slurm.environment["SLURM_CONF"],
        "ORCHESTRATOR_STORE": str(tmp_path / "store"),
    }
    ended = []
    for block in blocks("slurm", "sh"):
        done = subprocess.run(
            ("bash", "-euo", "pipefail", "-c", block),
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIME,
        )
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        wait_for(lambda: not slurm.queue(), _TIME)  # submit.sh returns before the jobs end
        ended.append(done)
    built, followed, _, rendered, again = ended
    assert "✓ verify: " in built.stderr
    assert "quantize" in followed.stdout
    assert "#SBATCH --no-requeue" in rendered.stdout
    assert "verify: job" in rendered.stdout
    assert again.stderr.count("reused") == 3, "the jobs of submit.sh left the results"
    assert (project / "dist" / "tiny-llama-w4a16-nvfp4" / "compose.yaml").is_file()


def test_the_codes_of_the_guide_are_those_of_the_program() -> None:
    found = codes("slurm")
    assert len(found) == 7
    assert all(said == is_so for said, is_so in found.values()), found
