"""Kills parts of a Slurm and builds on it, at random: `python -m tests.chaos.slurm --faults 200 --seed 7`."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.store import remove_tree
from tests.chaos.cluster import ClusterChaos, Fault, run
from tests.chaos.harness import ViolationError
from tests.support.slurm import NODES, Slurm, cluster_text, slurm_in


@dataclass(kw_only=True)
class SlurmChaos(ClusterChaos):
    """On a Slurm of two nodes."""

    slurm: Slurm

    executor = "slurm"

    @property
    def kinds(self) -> Mapping[str, Fault]:
        return {
            "slurmctld": self.kill_controller,
            "slurmd": self.kill_node,
            "job": self.kill_job,
            "orchestrator": self.kill_build,
        }

    @property
    def variables(self) -> Mapping[str, str]:
        return {"SLURM_CONF": self.slurm.environment["SLURM_CONF"]}

    def settings(self) -> str:
        return cluster_text(settle_seconds=0.5, minutes=5)

    def queue(self) -> list[str]:
        return self.slurm.queue()

    def begin_round(self) -> None:
        self.slurm.save_state()  # a controller that is killed must not bring back jobs of an earlier round

    def wait_until_it_answers(self) -> None:
        self.slurm.wait_for_controller()

    def kill_controller(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        self.slurm.kill_controller()
        time.sleep(self._random.uniform(0, 1.5))
        self.slurm.start_controller()

    def kill_node(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        node = self._random.choice(NODES)
        self.slurm.kill_node(node)
        time.sleep(self._random.uniform(0, 1.5))
        self.slurm.start_node(node)


def main() -> int:
    """Run until there were so many faults; exit status 1 at the first violation, whose files are kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.slurm", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how often to kill something")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what to repeat")
    asked = parser.parse_args()
    sys.stdout.write(f"chaos: seed {asked.seed}\n")
    folder = Path(tempfile.mkdtemp(prefix="orch-chaos-"))
    with slurm_in() as slurm:
        try:
            run(SlurmChaos(folder, asked.seed, slurm=slurm), asked.faults)
        except ViolationError as error:
            sys.stdout.write(f"VIOLATION: {error}\n")
            return 1
    remove_tree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
