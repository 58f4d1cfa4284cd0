"""Talks to Slurm through its own commands: sbatch, squeue, scontrol and scancel."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import JobRefusedError, SlurmUnavailableError
from orchestrator.executors.scheduler import Cause, GivesUp, JobState, never
from orchestrator.values import frozen

_FIELD = re.compile(r"(?:^|\s)(\w[\w/:]*)=(.*?)(?=\s\w[\w/:]*=|\s*$)")
"""A field of `scontrol -o`. Its value may have spaces."""
_NO_SUCH_JOB = "Invalid job id"
_UNAVAILABLE = ("Unable to contact", "Connection refused", "Could not establish", "timed out")
_SLICE = 0.5
"""Seconds to wait for an answer before other checks."""
_KEPT = ("HOME", "LANG", "LOGNAME", "PATH", "USER")
"""Variables of the caller that Slurm's commands get, besides SLURM_CONF. Slurm copies all others into the job."""

_CAUSES: Mapping[str, Cause] = {
    **dict.fromkeys(("COMPLETED", "FAILED"), "ended"),
    **dict.fromkeys(("CANCELLED", "PREEMPTED", "REVOKED"), "cancelled"),
    **dict.fromkeys(("TIMEOUT", "DEADLINE"), "time_limit"),
    **dict.fromkeys(("NODE_FAIL", "BOOT_FAIL"), "node_lost"),
    "OUT_OF_MEMORY": "out_of_memory",
}
"""Why a job is over, by its state."""


@frozen
class SlurmClient:
    """Runs Slurm's commands.

    Args:
        environment: The source of the few variables that they get.
        seconds: Seconds to wait for one answer. Slurm's commands retry for about half a minute.
    """

    environment: Mapping[str, str]
    seconds: float = 60.0

    def check(self) -> None:
        """Check that the controller answers.

        Raises:
            SlurmUnavailableError: It does not, or Slurm's commands are missing.
        """
        self._say("scontrol", "show", "config")

    def submit(self, script: Path, after: str | None = None) -> str:
        """Submit a script. Return the number of its job.

        Args:
            script: The script, with its options.
            after: The job that must succeed before this one starts. If it fails, Slurm removes this one.

        Raises:
            JobRefusedError: Slurm does not accept it.
        """
        chained = dependency_options(after) if after else ()
        done = self._run("sbatch", "--parsable", "--no-requeue", *chained, str(script))
        if done.returncode:
            reason = done.stderr.strip().replace("sbatch: error: ", "")
            if _is_unavailable(done.stderr):
                raise _unavailable(done.stderr)
            message = f"Slurm refuses the job of {script}: {reason}"
            raise JobRefusedError(message, hint="compare cluster.yaml with: sinfo, sacctmgr show associations")
        return done.stdout.strip().partition(";")[0]  # behind it is the name of the cluster

    def state(self, job: str, name: str, gives_up: GivesUp = never) -> JobState | None:
        """Return a job's state; None if the controller has no job of that number and name.

        The controller forgets ended jobs after minutes, and gives numbers twice if it lost its newest records.

        Args:
            job: The job's number.
            name: Its name.
            gives_up: Called while the controller does not answer. If it returns true, waiting ends.

        Raises:
            SlurmUnavailableError: The controller does not answer.
        """
        done = self._run("scontrol", "--oneliner", "show", "job", job, gives_up=gives_up)
        if done.returncode:
            if _NO_SUCH_JOB in done.stderr:
                return None
            raise _unavailable(done.stderr)
        fields = dict(_FIELD.findall(done.stdout))
        if fields.get("JobName") != name:
            return None
        _, _, number = fields.get("ExitCode", "0:0").partition(":")
        return _state(fields["JobState"], fields.get("Reason", ""), int(number or 0))

    def find(self, *names: str) -> dict[str, str]:
        """Return the user's jobs of these names that wait or run: the name by the number."""
        chosen = ("--name", ",".join(names))
        said = self._say("squeue", "--me", "--noheader", *chosen, "--format", "%i %j")
        return dict(line.split(maxsplit=1) for line in said.splitlines())

    def ask_to_stop(self, job: str) -> None:
        """Send SIGTERM to the script of a running job."""
        self._run("scancel", "--signal=TERM", "--batch", job)

    def cancel(self, job: str, *, now: bool = False) -> None:
        """Remove a job from the queue. With `now`, its processes are killed first."""
        if now:
            self._run("scancel", "--signal=KILL", "--full", job)
        self._run("scancel", job)

    def release(self, job: str) -> None:
        """Let Slurm start a job again that it holds because its launch failed."""
        self._run("scontrol", "release", job)

    def drop_dependency(self, job: str) -> None:
        """Let a waiting job start without the end of another one."""
        self._run("scontrol", "update", f"JobId={job}", "Dependency=")

    def _say(self, *command: str) -> str:
        done = self._run(*command)
        if done.returncode:
            raise _unavailable(done.stderr)
        return done.stdout

    def _run(self, *command: str, gives_up: GivesUp = never) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in self.environment.items() if name in _KEPT or name == "SLURM_CONF"}
        try:
            process = subprocess.Popen(
                command,
                env={"PATH": os.defpath, **kept},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C reaches only us
            )
        except FileNotFoundError as error:
            message = f"{command[0]} is not on this machine"
            hint = "run it on a login node of the cluster, or add Slurm's commands to PATH"
            raise SlurmUnavailableError(message, hint=hint) from error
        try:
            output, errors = _answer(process, gives_up, self.seconds)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _state(name: str, reason: str, signal: int) -> JobState:
    """Return a state of Slurm's, such as `PENDING` with the reason `Resources`."""
    if name in _CAUSES:
        return JobState("over", name, _CAUSES[name], signal)
    return JobState("waiting", reason) if name == "PENDING" else JobState("running")


def _answer(process: subprocess.Popen[str], gives_up: GivesUp, seconds: float) -> tuple[str, str]:
    """Wait for the output of a command."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return process.communicate(timeout=_SLICE)
        except subprocess.TimeoutExpired as error:
            if gives_up() or time.monotonic() > deadline:
                message = "Slurm does not answer"
                raise SlurmUnavailableError(message, hint="look at the controller: scontrol ping") from error


def dependency_options(after: str) -> tuple[str, ...]:
    """Return the options of sbatch for a job that starts only after the success of another."""
    return (f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes")


def _is_unavailable(words: str) -> bool:
    return any(
        part in words for part in ("Unable to contact", "Connection refused", "Could not establish", "timed out")
    )


def _unavailable(words: str) -> SlurmUnavailableError:
    message = f"Slurm does not answer: {words.strip()}"
    return SlurmUnavailableError(message, hint="look at the controller: scontrol ping")
