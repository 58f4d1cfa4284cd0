"""A real Slurm for tests: one controller and two nodes on this machine, which leaves nothing behind.

The fixtures are `slurm`, which tests share, and `own_slurm`, which a test may kill.
The daemons run in the foreground, listen on loopback only and keep all files in one folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.catalog.cluster import Cluster
from orchestrator.executors.cluster import ClusterExecutor
from orchestrator.executors.scheduler import Resources
from orchestrator.executors.slurm import SlurmScheduler
from tests.support.bench import wait_for
from tests.support.docker_daemon import do_without
from tests.support.ports import free_port

NODES = ("spark1", "spark2")
MEMORY = 4000
"""MiB of each node."""
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
_WAIT = 30.0
_SMALL = Resources(minutes=30, memory=200 << 20)

_SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PriorityType=priority/basic
ReturnToService=2
MpiDefault=none
GresTypes=gpu
KillWait=2
SlurmdTimeout=6
{nodes}
PartitionName=build Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=5 State=UP
"""
_LIMITS = {
    "ProctrackType=proctrack/linuxproc": "ProctrackType=proctrack/cgroup",
    "TaskPlugin=task/none": "TaskPlugin=task/cgroup",
    "JobAcctGatherType=jobacct_gather/none": "JobAcctGatherType=jobacct_gather/cgroup",
}
"""Settings with which the kernel holds a job to its memory."""
_CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainRAMSpace=yes\nAllowedRAMSpace=100\n"
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Sockets=1 CoresPerSocket=2 "
    f"ThreadsPerCore=1 RealMemory={MEMORY} Gres=gpu:1 State=UNKNOWN"
)


class NoSlurmError(Exception):
    """No Slurm can be started here; the message gives the reason."""


def cluster_text(**settings: object) -> str:
    """Write a cluster.yaml for small jobs, with more settings."""
    everywhere = {name: settings.pop(name) for name in ("margins", "jobs_of_a_step") if name in settings}
    settle = settings.pop("settle_seconds", 1.0)
    slurm = {"containers": "none", "memory_gb": 0.5, **settings}
    return json.dumps({"schema_version": 1, "settle_seconds": settle, **everywhere, "slurm": slurm}, indent=1)


@dataclass
class Slurm:
    """A controller and two nodes."""

    folder: Path
    limits_memory: bool = False
    """The kernel kills jobs that use more memory than they requested (cgroup v1)."""
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a program that uses this Slurm."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Write the settings, start every daemon and wait until both nodes are idle.

        Raises:
            NoSlurmError: A program is missing or does not start.
        """
        missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
        if missing:
            reason = f"{missing[0]} is not installed (apt-get install slurm-wlm munge)"
            raise NoSlurmError(reason)
        if os.getuid() != 0:
            reason = "only root can start the daemons of a Slurm with two nodes on one machine"
            raise NoSlurmError(reason)
        self._write_settings()
        self._start("munged", "--foreground", "--force", *self._munge())
        wait_for((self.folder / "munge.socket").exists)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def _write_settings(self) -> None:
        host = socket.gethostname()
        nodes = "\n".join(_NODE.format(name=name, host=host, port=free_port()) for name in NODES)
        settings = _SETTINGS.format(host=host, folder=self.folder, port=free_port(), nodes=nodes)
        gpus = "".join(f"NodeName={name} Name=gpu File=/dev/zero\n" for name in NODES)
        for before, after in _LIMITS.items() if self.limits_memory else ():
            settings = settings.replace(before, after)
        for name, text in {
            "slurm.conf": settings,
            "gres.conf": gpus,
            "cgroup.conf": _CGROUPS if self.limits_memory else "CgroupPlugin=cgroup/v1\n",
            "plugstack.conf": "",
        }.items():
            (self.folder / name).write_text(text)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)

    def _munge(self) -> Iterator[str]:
        for option, name in {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}.items():
            yield f"--{option}={self.folder}/munge.{name}"
        yield f"--log-file={self.folder}/munge.log"

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=_PATH)
        assert program
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[" ".join((name, *arguments))] = subprocess.Popen(
                (program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "PATH": _PATH},
                start_new_session=True,
            )

    def start_controller(self) -> None:
        self._start("slurmctld", "-D")

    def kill_controller(self) -> None:
        self._kill("slurmctld -D")

    def save_state(self) -> None:
        """Restart the controller as its service would: it saves all that it knows."""
        process = self._daemons.pop("slurmctld -D")
        process.terminate()
        process.wait(_WAIT)
        self.start_controller()
        self.wait_for_nodes()

    def start_node(self, name: str) -> None:
        self._start("slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """End the daemon of a node as a crash would; its jobs continue."""
        self._kill(f"slurmd -D -N {name}")

    def _kill(self, name: str) -> None:
        process = self._daemons.pop(name)
        process.kill()
        process.wait(_WAIT)

    def wait_for_controller(self) -> None:
        """Wait until the controller answers."""
        wait_for(lambda: "UP" in self.say("scontrol", "ping"), _WAIT)

    def wait_for_nodes(self) -> None:
        """Wait until the controller answers and each node can take a job."""
        idle = [f"{name} idle" for name in NODES]
        wait_for(lambda: self.say("sinfo", "-h", "-N", "-p", "build", "-o", "%N %T").splitlines() == idle, _WAIT)

    def executor(
        self,
        grace: float = 3.0,
        patience: float = 20.0,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> ClusterExecutor:
        """Make an executor for small jobs, with settings of the site."""
        cluster = Cluster.model_validate_json(cluster_text(**settings))
        assert cluster.slurm
        scheduler = SlurmScheduler(
            cluster, cluster.slurm, lambda _job: _SMALL, environment or self.environment, grace=grace
        )
        return ClusterExecutor(scheduler, settle=cluster.settle_seconds, grace=grace, patience=patience)

    def say(self, *command: str) -> str:
        """Give the output of one of Slurm's commands."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        ).stdout

    def queue(self) -> list[str]:
        """List the jobs that wait or run, not those whose script has ended: number, name, state."""
        jobs = self.say("squeue", "-h", "-o", "%i %j %T").splitlines()
        return [job for job in jobs if not job.endswith("COMPLETING")]

    def empty(self) -> None:
        """Remove every job and wait until the nodes are idle."""
        for job in self.queue():
            self.say("scancel", job.split()[0])
        wait_for(lambda: not self.say("squeue", "-h"))

    def close(self) -> None:
        """End all daemons and what they left."""
        if any(name.startswith("slurmctld") for name in self._daemons):
            with suppress(subprocess.TimeoutExpired):
                self.say("scancel", "--user=root", "--signal=KILL", "--full")
        for process in reversed(self._daemons.values()):
            process.terminate()
        for process in self._daemons.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_WAIT)
        for pid in _stepds_of(self.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _stepds_of(folder: Path) -> Iterator[int]:
    """Find the supervisors of jobs by the settings in their environment."""
    word = f"SLURM_CONF={folder}/slurm.conf".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "comm").read_text().startswith("slurmstepd") and word in (entry / "environ").read_bytes():
                yield int(entry.name)


@contextmanager
def slurm_in(parent: Path | None = None, *, limits_memory: bool = False) -> Iterator[Slurm]:
    """Run a Slurm until the block ends.

    Args:
        parent: The parent of its folder.
        limits_memory: See `Slurm`.

    Raises:
        NoSlurmError: None can be started.
    """
    folder = Path(tempfile.mkdtemp(prefix="orch-slurm-", dir=parent))  # a short path: a socket's may have 107 bytes
    found = Slurm(folder, limits_memory)
    try:
        found.start()
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_slurm() -> Iterator[Slurm]:
    """One Slurm for all tests of a process."""
    try:
        with slurm_in() as found:
            yield found
    except NoSlurmError as error:
        do_without(str(error))


@pytest.fixture
def slurm(shared_slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The shared Slurm, without jobs of other tests, as this process's own."""
    monkeypatch.setenv("SLURM_CONF", shared_slurm.environment["SLURM_CONF"])
    yield shared_slurm
    shared_slurm.empty()


@pytest.fixture
def own_slurm() -> Iterator[Slurm]:
    """A Slurm that a test may kill."""
    try:
        with slurm_in() as found:
            yield found
    except NoSlurmError as error:
        do_without(str(error))
