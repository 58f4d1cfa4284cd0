"""Runs a job on this machine's Python, without a container, for steps with our own code."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import MachineError
from orchestrator.executors import launcher
from orchestrator.executors.channel import Channel
from orchestrator.executors.forked import Forked, can_fork, is_fork
from orchestrator.executors.job import OUTPUT, AbortCheck, Job, Outcome, never_abort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.events import Observer
    from orchestrator.executors.job import Argument
    from orchestrator.store.space import Need

_SLICE = 0.2
"""Seconds between two checks for the command's end."""

_CHUNK = 256 * 1024

_PLACES = frozenset({"HOME", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR"})
_PLACES_WITH_NETWORK = frozenset(
    {
        *("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_XET_CACHE", "HUGGINGFACE_HUB_CACHE", "REQUESTS_CA_BUNDLE"),
        "XDG_CACHE_HOME",
    }
)
"""The Hub's client finds its login and its cache by these variables, so the command gets them."""
_INHERITED = _PLACES | {"CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH"}
_INHERITED_WITH_NETWORK = _PLACES_WITH_NETWORK | {
    *(name for both in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (both, both.lower())),
    *("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_OFFLINE"),
}

Running = subprocess.Popen[bytes] | Forked

OWN_CODE = Path(__file__).resolve().parents[2]
"""The folder that holds the package `orchestrator`."""


class ProcessExecutor:
    """Runs jobs as processes of this machine.

    Jobs are not isolated from the network or from files, because only our own code runs here.

    Args:
        environment: The source of the few inherited variables.
        grace: Seconds between asking an interrupted command to end and killing it.
        forks: Run modules of ours in a fork of this process if it has one thread. None: if it is a fork itself.
    """

    name = "process"

    def __init__(
        self, environment: Mapping[str, str] = os.environ, grace: float = 1.0, *, forks: bool | None = None
    ) -> None:
        self._environment = environment
        self._grace = grace
        self._forks = is_fork() if forks is None else forks

    def check(self, job: Job) -> None:
        """Check whether the job's program exists.

        Raises:
            MachineError: It is not.
        """
        program = argv_of(job)[0]
        if shutil.which(program, path=self._environment.get("PATH")) is None:
            message = f"step {job.step}: the program {program} is not on this machine"
            raise MachineError(message, hint="run the step in its container: --executor docker")

    def needs(self, _job: Job) -> tuple[Need, ...]:
        """Need no space besides that of the output, because this machine's Python exists."""
        return ()

    def run(self, job: Job, observer: Observer, abort_check: AbortCheck = never_abort) -> Outcome:
        """Run a job to its end. Its lines go to the observer and to `log.txt` beside the output folder.

        KeyboardInterrupt asks the command to end and is raised again when it has ended. A second one kills it at once.
        An error from `abort_check` works like the first one.
        """
        job.output.mkdir(parents=True, exist_ok=True)
        channel = Channel(job.output, observer, job.secrets.values())
        try:
            with self._start(job, variables_of(job, self._environment)) as process:
                try:
                    _follow(process, channel, abort_check)
                except BaseException:
                    _stop(process, channel, self._grace)
                    raise
        finally:
            channel.close()
        return _outcome(process.wait(), job.output)

    def _start(self, job: Job, variables: Mapping[str, str]) -> Running:
        command = argv_of(job)
        if self._forks and can_fork(command) and "PYTHONPATH" not in job.environment:
            return Forked(command, job.output, variables)
        return _start(job, variables)

    def forget(self, job: Job) -> None:
        """Do nothing: an ended process leaves nothing behind."""

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Return a command line: the job's own variables, then its command. Secrets come from the user's shell."""
        variables = [f"{name}={text_of(job, value)}" for name, value in sorted(job.environment.items())]
        return ("env", "-C", str(job.output), f"PYTHONPATH={OWN_CODE}", *variables, *argv_of(job))


def _outcome(code: int, output: Path) -> Outcome:
    """Read how a command ended. After a signal, the status is that of a shell or container."""
    killed = code in (
        -signal.SIGKILL,
        -signal.SIGTERM,
    )  # others are the command's own fault, such as an invalid memory access
    return Outcome(exit_status=code if code >= 0 else 128 - code, output=output, killed=killed)


def text_of(job: Job, argument: Argument) -> str:
    """Write an argument with the paths of this machine."""
    if isinstance(argument, str):
        return argument
    places = {mount.target: mount.source for mount in job.mounts} | {OUTPUT: job.output}
    return str(places[argument.target] / argument.path)


def argv_of(job: Job) -> tuple[str, ...]:
    """Return a job's command with the paths of this machine. `python3` is this Python."""
    program, *rest = (text_of(job, argument) for argument in job.argv)
    return (sys.executable if program in ("python", "python3") else program, *rest)


def inherited_of(job: Job, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that a job's command gets as well."""
    inherited = _INHERITED | _INHERITED_WITH_NETWORK if job.network else _INHERITED
    return {name: _from_here(name, value) for name, value in environment.items() if name in inherited}


def is_private(value: str) -> bool:
    """Tell whether an inherited variable is an address with a user's name or password."""
    return "://" in value and "@" in value


def variables_of(job: Job, environment: Mapping[str, str]) -> dict[str, str]:
    """Return all variables of a job's command."""
    return {
        **inherited_of(job, environment),
        "PYTHONUNBUFFERED": "1",  # unbuffered, so that events arrive when they are written
        **{name: text_of(job, value) for name, value in job.environment.items()},
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(OWN_CODE), text_of(job, job.environment.get("PYTHONPATH", ""))))
        ),
        **job.secrets,
    }


def _from_here(name: str, value: str) -> str:
    """Make a path absolute, because the command runs in another folder."""
    if value and name in _PLACES | _PLACES_WITH_NETWORK:
        return os.path.abspath(os.path.expandvars(Path(value).expanduser()))  # noqa: PTH100 - links are not resolved
    return value


def _start(job: Job, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *argv_of(job)),
        bufsize=0,
        cwd=job.output,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C on the terminal reaches only us; we decide what it means
    )


def _follow(
    process: Running,
    channel: Channel,
    abort_check: AbortCheck = never_abort,
    until: float = float("inf"),
) -> None:
    """Forward the process's output until it has ended, or until a moment of the monotonic clock."""
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    while time.monotonic() < until:
        abort_check()
        ended = process.poll() is not None  # checked before the pipe, so that the last lines are read
        if not select.select((process.stdout,), (), (), 0 if ended else _SLICE)[0]:
            if ended:
                return
            continue
        chunk = os.read(process.stdout.fileno(), _CHUNK)
        if not chunk:
            process.wait()
            return
        channel.take(chunk)


def _stop(process: Running, channel: Channel, grace: float) -> None:
    """Ask the command to end, then kill it. Its output is still read, so that it cannot block."""
    try:
        process.send_signal(signal.SIGTERM)
        _follow(process, channel, until=time.monotonic() + grace)
    finally:
        process.send_signal(signal.SIGQUIT)  # the launcher kills the whole group; nothing if it has ended
        process.wait()
