"""Two hosts on one machine: network namespaces joined by a cable, a real sshd, and stand-ins for what is NVIDIA's.

Each host sees its own network, its own /opt and /run, and programs of its own before all others: `docker`, which runs
a container's command as a process of that host, with the environment that compose.yaml gives it; `mpirun`, which starts
one rank on each host of its list, over ssh where it is another one; `trtllm-llmapi-launch` and `nvidia-smi`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.docker_daemon import do_without
from tests.support.two_folders import write_bundle

_PROGRAMS = Path(__file__).resolve().parent / "host_programs"
LINK = "enp1s0f1np1"
_ANY_HOST = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
ADDRESSES = {"head": "192.168.177.11", "worker": "192.168.177.12"}

_ENTER = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/opt
mount --rbind /opt /run/opt
mount -t tmpfs tmpfs /opt
find /run/opt -mindepth 1 -maxdepth 1 ! -name nim -exec ln -s -t /opt {} +  # Python may be installed there
mkdir -p /opt/nim/etc /opt/nim/two-sparks /opt/nim/.cache
ln -s "$BUNDLE/gateway" "$BUNDLE/start_server.sh" "$BUNDLE/model" /opt/nim/
ln -s "$BUNDLE"/*.json "$BUNDLE"/*.yaml /opt/nim/etc/
ln -s "$BUNDLE"/two-sparks/*.sh /opt/nim/two-sparks/
ln -s "$BUNDLE/two-sparks/keys" /run/keys
mount --bind "$HOST/meminfo" /proc/meminfo
[ ! -f ~root/.bashrc ] || mount --bind /dev/null ~root/.bashrc  # bash reads it for ssh
mkdir /run/net
mount --rbind /sys/class/net /run/net
mount -t tmpfs tmpfs /sys/class
mkdir -p /sys/class/net /sys/class/infiniband/rocep1s0f1/ports/1 "/sys/class/infiniband/rocep1s0f1/device/net/$LINK"
mount --rbind /run/net /sys/class/net
echo "4: ACTIVE" >/sys/class/infiniband/rocep1s0f1/ports/1/state
exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """One of the two."""

    role: str
    folder: Path
    namespace: str

    @property
    def bundle(self) -> Path:
        """Its copy of the bundle."""
        return self.folder / "bundle"

    @property
    def address(self) -> str:
        """On the link."""
        return ADDRESSES[self.role]

    def give(self, program: str, text: str) -> None:
        """Put another program in the place of one that it has, which may be a link to where all tests find it."""
        place = self.folder / "bin" / program
        place.unlink()
        place.write_text(text)
        place.chmod(0o755)

    def command(self, *words: str) -> tuple[str, ...]:
        """Enter the host, then run something."""
        return ("ip", "netns", "exec", self.namespace, "bash", "-c", _ENTER, "bash", *words)

    @property
    def environment(self) -> dict[str, str]:
        """What its shells have."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {
            "PATH": f"{self.folder}/bin:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            "HOST": str(self.folder),
            "BUNDLE": str(self.bundle),
            "TMPDIR": str(self.folder / "tmp"),
            "LINK": LINK,
            "STANDIN_SECONDS": "0.5",
        }


class Sparks:
    """The two of them, with a cable between."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        mark = f"spark{os.getpid()}"
        self.head, self.worker = (Host(role, folder / role, f"{mark}-{role}") for role in ADDRESSES)
        self.ranks = folder / "ranks"
        self._sshd: subprocess.Popen[bytes] | None = None
        for host in (self.head, self.worker):
            shutil.copytree(bundle, host.bundle)
            self._give_programs(host)
            (host.folder / "image").write_text("the layers of an image")
            (host.folder / "driver").write_text("580.95.05")
            (host.folder / "meminfo").write_text("MemFree: 118000000 kB\nMemAvailable: 120000000 kB\n")

    def _give_programs(self, host: Host) -> None:
        programs = host.folder / "bin"
        shutil.copytree(_PROGRAMS, programs)
        (programs / "trtllm-serve").symlink_to(_PROGRAMS.parent / "standins" / "trtllm-serve")

    def begin(self) -> None:
        """Lay the cable and start the second one's sshd."""
        for host in (self.head, self.worker):
            _run("ip", "netns", "add", host.namespace)
            _run("ip", "-n", host.namespace, "link", "set", "lo", "up")
        ends = [("name", LINK, "netns", host.namespace) for host in (self.head, self.worker)]
        _run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in (self.head, self.worker):
            _run("ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", LINK)
            _run("ip", "-n", host.namespace, "link", "set", LINK, "up")
        self._let_in()

    def _let_in(self) -> None:
        keys = self.head.folder / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys))
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.worker.folder / "host_key"))
        variables = " ".join(f"{name}={value}" for name, value in self.worker.environment.items())
        config = self.worker.folder / "sshd_config"
        config.write_text(
            f"Port 22\nListenAddress {self.worker.address}\nHostKey {self.worker.folder}/host_key\n"
            f"AuthorizedKeysFile {keys}.pub\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            f"SetEnv {variables}\n"
        )
        self._start_sshd()

    def _start_sshd(self) -> None:
        config = self.worker.folder / "sshd_config"
        with (self.worker.folder / "sshd.log").open("wb") as log:
            self._sshd = subprocess.Popen(
                self.worker.command("/usr/sbin/sshd", "-D", "-e", "-f", str(config)),
                env=self.worker.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for_sshd()

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + 60
        while self.on_head("bash", "-c", f"</dev/tcp/{self.worker.address}/22").returncode != 0:
            ended = self._sshd is None or self._sshd.poll() is not None
            assert not ended, (self.worker.folder / "sshd.log").read_text()
            assert time.monotonic() < deadline, (self.worker.folder / "sshd.log").read_text()
            time.sleep(0.1)

    @property
    def settings(self) -> dict[str, str]:
        """The first one's .env."""
        return {
            "PEER_ADDRESS": self.worker.address,
            "PEER_BUNDLE": str(self.worker.bundle),
            "SSH_OPTIONS": f"'-i {self.head.folder}/key {_ANY_HOST}'",
            "LINK_SPEED": "10000",
            "POLL_SECONDS": "0.3",
        }

    def start(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run start.sh on the first one."""
        known = {**self.settings, **settings}
        script = self.head.bundle / "two-sparks" / "start.sh"
        (script.parent / ".env").write_text("".join(f"{name}={value}\n" for name, value in known.items()))
        return subprocess.run(
            self.head.command(str(script), *arguments),
            env=self.head.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start_on_worker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run start.sh on the second one."""
        command = self.worker.command(str(self.worker.bundle / "two-sparks" / "start.sh"), *arguments)
        return subprocess.run(
            command, env=self.worker.environment, capture_output=True, text=True, check=False, timeout=60
        )

    def cut_the_cable(self) -> None:
        """Take the link down at one end, which takes it down at both."""
        _run("ip", "-n", self.head.namespace, "link", "set", LINK, "down")

    def reboot(self, host: Host) -> None:
        """End everything that runs on a host at once, as a loss of power does, and start what starts by itself."""
        kill_all(host)
        if host is self.worker and self._sshd is not None:
            self._sshd.wait(10)
            self._start_sshd()

    def on_head(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run something in the first one's network."""
        command = ("ip", "netns", "exec", self.head.namespace, *words)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def end(self) -> None:
        """Take everything away again."""
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait(10)
        for host in (self.head, self.worker):
            kill_all(host)
            subprocess.run(("ip", "netns", "delete", host.namespace), check=False, capture_output=True)


@contextmanager
def two_sparks(folder: Path) -> Iterator[Sparks]:
    """Give two hosts that both have a bundle for two; skip the test, or fail it, where they cannot be made."""
    if reason := why_not():
        do_without(reason)
    made = Sparks(folder / "hosts", write_bundle(folder / "bundle", folder / "artifacts"))
    try:
        made.begin()
        yield made
    finally:
        made.end()


def kill_all(host: Host) -> None:
    """Kill what runs on a host, as the death of its container does, and what was started while the first of it died."""
    looks = 2  # a program that `ip netns exec` is starting is not there yet
    while looks:
        pids = _pids(host)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            looks -= 1
            time.sleep(0.1)


def _pids(host: Host) -> list[int]:
    command = ("ip", "netns", "pids", host.namespace)
    return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def why_not() -> str | None:
    """Say what hinders two hosts on this machine."""
    if os.getuid() != 0:
        return "only root may make network namespaces"
    wanted: Mapping[str, str] = {"ip": "iproute2", "/usr/sbin/sshd": "openssh-server", "ping": "iputils-ping"}
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    return f"not installed: apt-get install {' '.join(missing)}" if missing else None


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
