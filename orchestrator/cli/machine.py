"""What this machine has, and the command that mends what it lacks. Looks only; asks nothing of the network."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.cli.text import in_bytes
from orchestrator.errors import OrchestratorError
from orchestrator.plan import Plan

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MEMINFO = Path("/proc/meminfo")
_DROP_CACHES = "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "missing", "unknown"]
    found: str
    mend: str = ""
    """What a person can do about it."""
    needed: bool = False
    """The recipe cannot be built without."""


def look(store: Path, plan: Plan | None) -> tuple[Finding, ...]:
    """Look at everything a build may need.

    Args:
        store: Where results will be kept.
        plan: The recipe that is to be built here, if there is one.
    """
    return tuple(_findings(store, plan))


def _findings(store: Path, plan: Plan | None) -> Iterator[Finding]:
    containers = bool(plan and any(placed.executor == "docker" for placed in plan.steps))
    gpus = bool(plan and any(placed.step.gpus for placed in plan.steps))
    yield Finding("Python", "ok", platform.python_version())
    yield _architecture(plan if containers else None)
    yield _memory()
    yield _disk(store, plan)
    yield from _docker(needed=containers, gpus=gpus)
    yield _gpu(needed=gpus)
    yield _token(plan)


def _architecture(plan: Plan | None) -> Finding:
    here = _MACHINES.get(platform.machine(), platform.machine())
    wanted = plan.target.architecture if plan else here
    if here == wanted:
        return Finding("processor", "ok", here)
    mend = f"the target is {wanted}: build on a machine like it, or choose another target: --set target=NAME"
    return Finding("processor", "missing", here, mend, needed=True)


def _memory() -> Finding:
    """Ask the kernel; CUDA and NVML do not know on unified memory."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        available, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return Finding("memory", "unknown", f"{_MEMINFO} cannot be read")
    found = f"{in_bytes(available)} available of {in_bytes(total)}"
    return Finding("memory", "ok", found, f"the page cache counts as used for CUDA on unified memory: {_DROP_CACHES}")


def _disk(store: Path, plan: Plan | None) -> Finding:
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{in_bytes(free)} free at {place}"
    if plan and plan.estimate.disk.value > free:
        mend = (
            f"{plan.estimate.disk} are needed; put the store on a larger disk (--store), or free some (orchestrator gc)"
        )
        return Finding("disk", "missing", found, mend, needed=True)
    return Finding("disk", "ok", found)


def _docker(*, needed: bool, gpus: bool) -> Iterator[Finding]:
    from orchestrator.executors.docker_engine import connect, require_gpus  # noqa: PLC0415 - the SDK loads slowly

    try:
        client = connect()
    except OrchestratorError as error:
        yield Finding("Docker", "missing", error.message, error.hint, needed)
        return
    with closing(client):
        engine = client.info()
        yield Finding("Docker", "ok", f"{engine.get('ServerVersion')} on {engine.get('Architecture')}")
        try:
            require_gpus(client)
        except OrchestratorError as error:
            yield Finding("NVIDIA runtime", "missing", error.message, error.hint, gpus)
        else:
            yield Finding("NVIDIA runtime", "ok", "the engine can hand GPUs to containers")


def _gpu(*, needed: bool) -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("GPU", "missing", "no nvidia-smi", "install NVIDIA's driver", needed)
    query = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    if answer.returncode:
        return Finding("GPU", "missing", answer.stdout.strip() or answer.stderr.strip(), "look at: nvidia-smi", needed)
    return Finding("GPU", "ok", "; ".join(answer.stdout.strip().splitlines()))


def _token(plan: Plan | None) -> Finding:
    """Look for a token where the Hub's own client looks; never at its value."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    there = bool(os.environ.get("HF_TOKEN")) or (home / "token").is_file()
    gated = bool(plan and getattr(plan.recipe.model, "gated", False))
    if there:
        return Finding("Hub token", "ok", "there is one")
    return Finding("Hub token", "missing", "none", "for gated models: hf auth login, or set HF_TOKEN", gated)
