"""Writes the script of a Slurm job, for Slurm and for people."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.catalog.cluster import Cluster, Placement
from orchestrator.executors.job import Job
from orchestrator.executors.process import OWN_CODE, argv_of, inherited_of, text_of
from orchestrator.executors.slurm_folder import JobFolder

_MIB = 1 << 20
_OF_THE_NODE = ("CUDA_VISIBLE_DEVICES", "TMPDIR")
"""Inherited variables that a node has its own values of."""


@dataclass(frozen=True)
class Resources:
    """What a job requests of its cluster."""

    minutes: int
    memory: int
    """Bytes."""
    gpus: int = 0


@dataclass(frozen=True)
class ScriptWriter:
    """Writes scripts for one site."""

    cluster: Cluster
    environment: Mapping[str, str]
    """The source of the few inherited variables."""
    grace: float
    """Seconds between asking a command to stop and killing it."""

    def write(self, job: Job, name: str, resources: Resources) -> str:
        """Return the script of a job. It holds no secret.

        Args:
            job: The job, with its folder.
            name: The job's name in the queue.
            resources: What the job requests.
        """
        folder = JobFolder(job.output.parent)
        placement = self.cluster.placement(job.step)
        minutes = placement.minutes or resources.minutes
        options = "".join(f"#SBATCH {line}\n" for line in _options(folder, name, placement, resources))
        stop_after = max(1, 60 * minutes - self.cluster.margins.stop_seconds)
        task = _task(job, folder, (self.grace, beat_of(self.cluster), stop_after))
        command = " \\\n  ".join(map(shlex.join, task))
        by_hand = f"sbatch {shlex.quote(str(folder.script))}"
        return (
            f"#!/bin/bash\n# {job.recipe}: the step {job.step}. Without the orchestrator: {by_hand}\n"
            f"{options}\n{self._exports(job)}\nexec {command}\n"
        )

    def _exports(self, job: Job) -> str:
        variables = {**inherited_of(job, self.environment), "PYTHONPATH": str(OWN_CODE)}
        lines = (
            f"export {name}={shlex.quote(value)}\n"
            for name, value in variables.items()
            if name not in _OF_THE_NODE and not is_private(value)
        )
        return "".join(sorted(lines))


def private_values(job: Job, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that no script may show: secrets, and addresses with a password."""
    addresses = {name: value for name, value in inherited_of(job, environment).items() if is_private(value)}
    return {**addresses, **job.secrets}


def is_private(value: str) -> bool:
    """Tell whether an inherited variable is an address with a user's name or password."""
    return "://" in value and "@" in value


def _options(folder: JobFolder, name: str, placement: Placement, resources: Resources) -> Iterator[str]:
    yield f"--job-name={name}"
    yield f"--chdir={_quoted(str(folder.path))}"
    yield f"--output={_quoted(str(folder.script_log).replace('%', '%%'))}"
    yield "--open-mode=append"
    yield "--no-requeue"
    yield "--nodes=1 --ntasks=1"
    yield f"--time={_in_time(placement.minutes or resources.minutes)}"
    memory = placement.memory_gb * 1e9 if placement.memory_gb else resources.memory
    yield f"--mem={math.ceil(memory / _MIB)}M"
    if resources.gpus:
        yield f"--gres={placement.gpu}:{resources.gpus}"
    if placement.cpus:
        yield f"--cpus-per-task={placement.cpus}"
    for option in ("partition", "account", "qos", "constraint"):
        if value := getattr(placement, option):
            yield f"--{option}={_quoted(value)}"
    yield from placement.options


def _in_time(minutes: int) -> str:
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:00"


def _quoted(value: str) -> str:
    """Quote a value as sbatch reads it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def beat_of(cluster: Cluster) -> float:
    """Return the seconds between two signs of life of a job."""
    return max(0.5, cluster.settle_seconds / 2)


def _task(job: Job, folder: JobFolder, seconds: tuple[float, float, float]) -> Iterator[tuple[str, ...]]:
    """Yield the words of the command, one line of the script at a time."""
    grace, beat, stop_after = seconds
    yield (sys.executable, "-m", "orchestrator.executors.slurm_task")
    yield ("--folder", str(folder.path), "--step", job.step, *(("--network",) if job.network else ()))
    yield ("--grace", f"{grace:g}", "--beat", f"{beat:g}", "--stop-after", f"{stop_after:g}")
    for name, value in sorted(job.environment.items()):
        yield ("--variable", f"{name}={text_of(job, value)}")
    yield ("--", *argv_of(job))
