"""Two Sparks that are folders: real scripts and files, and stand-ins for ssh, docker, ip, ping, ss, df and nvidia-smi.

What the kernel says of a machine (/sys, /proc/meminfo) lies in its folder too: the copy of facts.sh names it there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.files import SUMS, sums_text
from orchestrator.bundle.targets import render_files
from tests.support.bundles import contents_of

RECIPE = "qwen3-235b-a22b-nvfp4-published"
PRIMARY, TWIN = "enp1s0f1np1", "enP2p1s0f1np1"
ROCE = {PRIMARY: "rocep1s0f1", TWIN: "roceP2p1s0f1"}
_PROGRAMS = Path(__file__).resolve().parent / "folder_programs"
_SMI = """\
==============NVSMI LOG==============

Driver Version                            : 580.95.05
CUDA Version                              : 13.0

Attached GPUs                             : 1
    Product Name                          : NVIDIA GB10
"""


def write_bundle(folder: Path, artifacts: Path) -> Path:
    """Write a bundle for two, with a model of a few bytes."""
    return write_files(folder, contents_of(RECIPE, artifacts))


def write_files(folder: Path, contents: BundleContents) -> Path:
    """Write the files of a bundle, with those of its results and the list of all."""
    files = {name: text.encode() for name, text in render_files(contents).items()}
    for part in contents.parts:
        files |= {f"{part.name}/{file.path}": (part.artifact.folder / file.path).read_bytes() for file in part.files}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if content.startswith(b"#!") else 0o644)
    write_sums(folder, files)
    return folder


def write_sums(folder: Path, files: dict[str, bytes]) -> None:
    """Write the list of digests."""
    text = sums_text({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    (folder / SUMS).write_text(text)


@dataclass(frozen=True)
class Machine:
    """One of the two."""

    folder: Path
    address: str

    @property
    def bundle(self) -> Path:
        """Its bundle."""
        return self.folder / "bundle"

    @property
    def state(self) -> str | None:
        """The state of its container."""
        file = self.folder / "container"
        return file.read_text() if file.exists() else None

    def set(self, name: str, text: str = "") -> None:
        """Change something of this machine that its stand-ins read."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def make(self, other: Path, other_address: str) -> None:
        """Give it what a healthy Spark has."""
        shutil.copytree(_PROGRAMS, self.folder / "bin")
        self.set("other", str(other))
        self.set("arrives", self.address)
        self.set("route", f"{other_address} dev {PRIMARY} src {self.address} uid 1000\n    cache")
        self.set("proc/meminfo", "MemTotal: 127600000 kB\nMemFree: 118000000 kB\nMemAvailable: 120000000 kB\n")
        self.set("nvidia-smi", _SMI)
        self.set("free", str(10**12))
        for number, link in enumerate((PRIMARY, TWIN)):
            self.set(f"address/{link}", self.address.replace("10.0.0", f"10.0.{number}"))
            for name, text in {"operstate": "up", "speed": "200000", "mtu": "9000"}.items():
                self.set(f"sys/class/net/{link}/{name}", text)
            self.set(f"sys/class/infiniband/{ROCE[link]}/device/net/{link}")
            self.set(f"sys/class/infiniband/{ROCE[link]}/ports/1/state", "4: ACTIVE")


class TwoFolders:
    """The two machines; only the first one has the bundle."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.head = Machine(folder / "head", "10.0.0.1")
        self.worker = Machine(folder / "worker", "10.0.0.2")
        self.head.make(self.worker.folder, self.worker.address)
        self.worker.make(self.head.folder, self.head.address)
        shutil.copytree(bundle, self.head.bundle)
        facts = self.head.bundle / "two-sparks" / "facts.sh"
        facts.write_text(
            facts.read_text()
            .replace("/sys/class/", '"${HOST}"/sys/class/')
            .replace("/proc/meminfo", '"${HOST}"/proc/meminfo')
        )
        self.relist()

    def clone(self, folder: Path) -> TwoFolders:
        """Copy both machines as they are."""
        copy = TwoFolders.__new__(TwoFolders)
        for name, other in (("head", "worker"), ("worker", "head")):
            machine: Machine = getattr(self, name)
            shutil.copytree(machine.folder, folder / name)
            setattr(copy, name, Machine(folder / name, machine.address))
            (folder / name / "other").write_text(str(folder / other))
        return copy

    def relist(self) -> None:
        """List the files of the head's bundle again, as if they had been built so."""
        names = [line.partition("  ")[2] for line in (self.head.bundle / SUMS).read_text().splitlines()]
        write_sums(self.head.bundle, {name: (self.head.bundle / name).read_bytes() for name in names})

    def start(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run start.sh on the first machine."""
        (self.head.folder / "ssh-calls").unlink(missing_ok=True)
        known = {"PEER_ADDRESS": self.worker.address, "PEER_BUNDLE": str(self.worker.bundle), **settings}
        folder = self.head.bundle / "two-sparks"
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in known.items()))
        return self._run(self.head, folder / "start.sh", *arguments)

    def run_on_head(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the bundle on the first machine."""
        return self._run(self.head, self.head.bundle / program, *arguments)

    def start_on_worker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run start.sh on the second machine."""
        return self._run(self.worker, self.worker.bundle / "two-sparks" / "start.sh", *arguments)

    @staticmethod
    def _run(machine: Machine, *command: Path | str) -> subprocess.CompletedProcess[str]:
        path = f"{machine.folder}/bin:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"PATH": path, "HOST": str(machine.folder), "HOME": str(machine.folder)}
        environment |= {"TMPDIR": os.environ.get("TMPDIR", "/tmp")}
        return subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, check=False, timeout=60
        )
