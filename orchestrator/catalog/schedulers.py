"""Names the schedulers of clusters and the programs that run containers. It loads no model of a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Containers = Literal["none", "docker", "apptainer", "pyxis"]
"""The program that runs the containers of steps; `none`: steps of our own code run on this machine's Python."""

SchedulerName = Literal["slurm", "kubernetes"]
SCHEDULERS: Mapping[str, SchedulerName] = {"slurm": "slurm", "kubernetes": "kubernetes"}
"""The schedulers by their names on the command line and in `cluster.yaml`."""
