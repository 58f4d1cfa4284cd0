"""Writes the script of a Slurm job, for Slurm and for people."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.catalog.cluster import Cluster, Slurm, SlurmPlacement
from orchestrator.executors.job import Job
from orchestrator.executors.job_folder import JobFolder
from orchestrator.executors.job_task import task_lines
from orchestrator.executors.process import OWN_CODE, argv_of, inherited_of, is_private
from orchestrator.executors.scheduler import Resources
from orchestrator.values import frozen

REQUEST = "job.sh"
"""The name of a script in its job's folder."""

OUTPUT = "slurm.txt"
"""The name of the file with the output of the script itself."""

_MIB = 1 << 20
_OF_THE_NODE = ("CUDA_VISIBLE_DEVICES", "TMPDIR")
"""Inherited variables that a node has its own values of."""


@frozen
class ScriptWriter:
    """Writes scripts for one site."""

    cluster: Cluster
    site: Slurm
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
        placement = self.site.placement(job.step)
        options = "".join(f"#SBATCH {line}\n" for line in _options(folder, name, placement, resources))
        task = task_lines(job, placement.minutes or resources.minutes, self.cluster, self.grace)
        command = " \\\n  ".join(map(shlex.join, ((sys.executable,), *task, ("--", *argv_of(job)))))
        by_hand = f"sbatch {shlex.quote(str(folder.path / REQUEST))}"
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


def _options(folder: JobFolder, name: str, placement: SlurmPlacement, resources: Resources) -> Iterator[str]:
    yield f"--job-name={name}"
    yield f"--chdir={_quoted(str(folder.path))}"
    yield f"--output={_quoted(str(folder.path / OUTPUT).replace('%', '%%'))}"
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


def submit_text(jobs: Sequence[Job]) -> str:
    """Return a script that submits the scripts of jobs by hand, in their order."""
    lines = [
        "#!/bin/bash",
        f"# Submits the steps of {jobs[0].recipe} in their order. Each waits for the success of the one before.",
        "# Slurm copies the variables of the shell into a job: only those named here go along.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
        "rm -f */ending  # of an earlier submission",
        'submit() { env -i HOME="$HOME" PATH="$PATH" ${SLURM_CONF:+SLURM_CONF="$SLURM_CONF"} \\',
        '  sbatch --parsable --no-requeue "$@" | cut -d";" -f1; }',
        "",
    ]
    for number, job in enumerate(jobs):
        after = '--dependency=afterok:"$job" --kill-on-invalid-dep=yes ' if number else ""
        lines += [f"job=$(submit {after}{job.step}/{REQUEST})", f'echo "{job.step}: job $job"']
    return "\n".join(lines) + "\n"
