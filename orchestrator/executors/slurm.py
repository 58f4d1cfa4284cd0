"""Places jobs by Slurm."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path

from orchestrator.catalog.cluster import Cluster, Slurm
from orchestrator.executors.cluster import GRACE
from orchestrator.executors.job import Job
from orchestrator.executors.job_folder import JobFolder
from orchestrator.executors.scheduler import GivesUp, JobState, Resources, never
from orchestrator.executors.slurm_client import SlurmClient
from orchestrator.executors.slurm_script import OUTPUT, REQUEST, ScriptWriter, private_values, submit_text
from orchestrator.values import frozen

_BRIEF = 5.0
"""Seconds to wait for an answer about a job that has ended, or whose state is only shown."""
_DEPENDENCY = "Dependency"
_LAUNCH_FAILED = "launch_failed_requeued_held"
_TAIL = 12
"""Lines of the output of a failed script in its error."""


@frozen
class SlurmScheduler:
    """One Slurm with a site's settings. It fulfils `Scheduler`.

    Args:
        cluster: The settings of every scheduler.
        site: Slurm's settings.
        resources: Returns what a job requests.
        environment: The source of the few inherited variables.
        grace: Seconds between asking a command to stop and killing it.
        seconds: Seconds to wait for one answer. Slurm's commands retry for about half a minute.
    """

    cluster: Cluster
    site: Slurm
    resources: Callable[[Job], Resources]
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    grace: float = GRACE
    seconds: float = 60.0

    name = "slurm"
    title = "Slurm"
    chains = True
    request_name = REQUEST

    @property
    def _client(self) -> SlurmClient:
        return SlurmClient(self.environment, self.seconds)

    def brief(self) -> SlurmScheduler:
        """Return the same with little patience."""
        return replace(self, seconds=_BRIEF)

    def check(self) -> None:
        """Check that the controller answers."""
        self._client.check()

    def command_line(self, request: Path) -> tuple[str, ...]:
        """Return the command that submits a script."""
        return ("sbatch", "--parsable", "--no-requeue", str(request))

    def request(self, job: Job, name: str) -> str:
        """Write the script of a job."""
        writer = ScriptWriter(self.cluster, self.site, self.environment, self.grace)
        return writer.write(job, name, self.resources(job))

    def by_hand(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Return the script that submits the scripts of jobs in their order."""
        return {"submit.sh": submit_text(jobs)}

    def private_values(self, job: Job) -> Mapping[str, str]:
        """Return the variables that no script may show."""
        return private_values(job, self.environment)

    def submit(self, request: Path, after: str | None = None) -> str:
        """Submit a script."""
        return self._client.submit(request, after)

    def state(self, number: str, name: str, gives_up: GivesUp = never) -> JobState | None:
        """Return a job's state."""
        return self._client.state(number, name, gives_up)

    def find(self, *names: str) -> Mapping[str, str]:
        """Return the user's jobs of these names that wait or run."""
        return self._client.find(*names)

    def ask_to_stop(self, number: str, _name: str) -> None:
        """Send SIGTERM to the script of a running job."""
        self._client.ask_to_stop(number)

    def cancel(self, number: str, _name: str, *, now: bool = False) -> None:
        """Remove a job from the queue."""
        self._client.cancel(number, now=now)

    def unblock(self, number: str, state: JobState, ended: str | None) -> None:
        """Let a job start that Slurm holds: it may not know that another one ended, or a launch has failed."""
        if state.reason == _DEPENDENCY and ended:
            self._client.drop_dependency(number)
            self._client.cancel(ended)
        elif state.reason == _LAUNCH_FAILED:
            self._client.release(number)

    def start_without(self, number: str) -> None:
        """Let a waiting job start without the end of another one."""
        self._client.drop_dependency(number)

    def output_of(self, _number: str, _name: str, folder: JobFolder) -> str:
        """Return the last lines of what a script printed itself."""
        try:
            text = (folder.path / OUTPUT).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_TAIL:])
