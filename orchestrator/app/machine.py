"""Checks what this machine has, and names the command that fixes each problem. Changes nothing."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.app.access import token_is_there
from orchestrator.app.gpu_clock import read_clock
from orchestrator.app.make_plan import Plan
from orchestrator.errors import OrchestratorError
from orchestrator.planner.constants import default_constants
from orchestrator.planner.speed import Band
from orchestrator.recipe.lock import hub_models
from orchestrator.units import in_bytes
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker import DockerClient

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_DROP_CACHES = "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'"
_UNIFIED = ("GB10",)
"""Names of GPUs that share the processor's memory."""
_PATIENCE = 20
"""Seconds. nvidia-smi is slow if the driver sleeps, and hangs if the driver is broken."""
_NOT_REPORTED = ("", "n/a", "[n/a]", "[not supported]", "not supported", "[unknown error]")
_SLOWED = 0.9
"""Share of the usual clock below which a GPU counts as slowed. Every band holds more than the rest."""
_COOL = "let it cool: free its vents, and keep warm air away from it"
_POWER = "use the power adapter that came with the machine, and take it out of wall and machine for a minute"
_UNLOCK = "remove a limit that someone set: sudo nvidia-smi -rgc"
_FASTER = {"heat": _COOL, "power": _POWER, "power supply": _POWER, "slowdown": f"{_COOL}; {_POWER}", "limit": _UNLOCK}
"""What raises a clock, by the reason that the driver reports."""
_INHERITED = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH")
"""Environment variables that programs get."""
_PUBLIC_REPO = "openai/gpt-oss-20b"
_PUBLIC_IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return a program's output; None if it is missing or fails. It gets no secrets."""
    inherited = {name: environment[name] for name in _INHERITED if name in environment}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE, env=inherited)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _connect() -> DockerClient:
    from orchestrator.executors.docker_client import connect  # noqa: PLC0415 - the SDK loads slowly

    return connect()


def _resolve(repo: str, revision: str) -> str:
    from orchestrator.hub.snapshot import resolve_commit  # noqa: PLC0415 - the Hub's client loads slowly

    return resolve_commit(repo, revision)


def _digest(reference: str) -> str:
    from orchestrator.registry.digests import image_digests  # noqa: PLC0415 - loads the Docker SDK

    return image_digests(reference).index


@frozen
class Host:
    """The machine to check; tests pass another one."""

    environment: Mapping[str, str]
    architecture: str = field(default_factory=platform.machine)
    """The kernel's name of the processor architecture."""
    meminfo: Path = Path("/proc/meminfo")
    run: Callable[[Sequence[str], Mapping[str, str]], str | None] = _run
    """Runs a program with an environment."""
    home: Path = field(default_factory=Path.home)
    free: Callable[[Path], int] = lambda place: shutil.disk_usage(place).free
    """Bytes free on the disk of a folder."""
    connect: Callable[[], DockerClient] = _connect
    resolve: Callable[[str, str], str] = _resolve
    """Asks the Hub for a commit."""
    digest: Callable[[str], str] = _digest
    """Asks a registry for an image."""


@frozen
class Finding:
    """One check."""

    name: str
    state: Literal["ok", "missing", "unknown"]
    found: str
    fix: str = ""
    """What the user can do about it."""
    needed: bool = False
    """The recipe cannot be built without it."""


@frozen
class _Gpu:
    """What the driver reports; None for what it does not report."""

    name: str
    sm: int | None
    driver: str | None
    cuda: str | None

    @property
    def unified(self) -> bool:
        return any(name in self.name for name in _UNIFIED)


def check_machine(store: Path, plan: Plan | None, host: Host, *, online: bool = False) -> tuple[Finding, ...]:
    """Check everything that a build may need.

    Args:
        store: Where results will be kept.
        plan: The plan of the recipe to build here, if any.
        host: The machine to check.
        online: Check the Hub and NGC as well.
    """
    return tuple(_findings(store, plan, host, online=online))


def _findings(store: Path, plan: Plan | None, host: Host, *, online: bool) -> Iterator[Finding]:
    containers = bool(plan and any(placed.executor == "docker" for placed in plan.steps))
    gpus = bool(plan and any(placed.step.gpus for placed in plan.steps))
    uses_docker = plan is None or containers or not plan.steps  # a process needs neither a driver nor Docker
    gpu = _ask_gpu(host) if uses_docker else None
    yield Finding("Python", "ok", platform.python_version())
    yield _architecture(plan if containers else None, host)
    if uses_docker:
        yield from _gpu_findings(gpu, plan, needed=gpus)
        if gpu:
            yield _clock(gpu, plan, host)
    yield from _memory(plan, gpu, host)
    yield _disk(store, plan, host)
    if uses_docker:
        yield from _docker(host, needed=containers, gpus=gpus)
    yield _token(plan, host)
    if online:
        yield from _access(plan, host)


def _architecture(plan: Plan | None, host: Host) -> Finding:
    here = _MACHINES.get(host.architecture, host.architecture)
    wanted = plan.target.architecture if plan else here
    if here == wanted:
        return Finding("processor", "ok", here)
    fix = f"the target is {wanted}: build on a machine like it, or choose another target: --set target=NAME"
    return Finding("processor", "missing", here, fix, needed=True)


def _ask_gpu(host: Host) -> _Gpu | None:
    """Ask the driver about the first GPU, but not about memory, which it does not report on GB10."""
    answer = host.run(
        ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"), host.environment
    )
    if answer is None or not answer.strip():
        return None
    name, capability, driver = (*(_reported(cell) for cell in answer.splitlines()[0].split(",")), None, None, None)[:3]
    numbers = re.fullmatch(r"(\d+)\.(\d)", capability or "")
    cuda = re.search(r"CUDA Version\s*:\s*(\d+\.\d+)", host.run(("nvidia-smi",), host.environment) or "")
    return _Gpu(
        name=name or "a GPU without a name",
        sm=int("".join(numbers.groups())) if numbers else None,
        driver=driver,
        cuda=cuda.group(1) if cuda else None,
    )


def _reported(cell: str) -> str | None:
    text = cell.strip()
    return None if text.lower() in _NOT_REPORTED else text


def _gpu_findings(gpu: _Gpu | None, plan: Plan | None, *, needed: bool) -> Iterator[Finding]:
    if gpu is None:
        fix = "install NVIDIA's driver (on Ubuntu: sudo ubuntu-drivers install), restart, then check: nvidia-smi"
        yield Finding("GPU", "missing", "nvidia-smi lists none", fix, needed)
        yield Finding(
            "not checked",
            "unknown",
            "without a GPU: its compute capability, driver and CUDA, and what CUDA counts as free memory",
        )
        return
    yield Finding("GPU", "ok", gpu.name)
    yield _capability(gpu, plan, needed=needed)
    fix = "check the first lines of: nvidia-smi"
    yield Finding("driver", "ok", gpu.driver) if gpu.driver else Finding("driver", "unknown", "not reported", fix)
    yield Finding("CUDA", "ok", f"up to {gpu.cuda}") if gpu.cuda else Finding("CUDA", "unknown", "not reported", fix)


def _capability(gpu: _Gpu, plan: Plan | None, *, needed: bool) -> Finding:
    name = "compute capability"
    wanted = plan.target.gpu.sm if plan and plan.target.gpu else None
    if gpu.sm is None:
        return Finding(name, "unknown", "not reported", "check: nvidia-smi --query-gpu=compute_cap --format=csv")
    if wanted not in (None, gpu.sm):
        fix = f"the target has SM {wanted}: build there, or choose another target: --set target=NAME"
        return Finding(name, "missing", f"SM {gpu.sm}", fix, needed)
    return Finding(name, "ok", f"SM {gpu.sm}")


def _clock(gpu: _Gpu, plan: Plan | None, host: Host) -> Finding:
    """Compare the clock with that of the planner's measurements. Only a GPU that works shows what it reaches."""
    clock = read_clock(lambda command: host.run(command, host.environment))
    if clock is None:
        return Finding("clock", "unknown", "not reported", "check: nvidia-smi -q -d CLOCK,PERFORMANCE")
    usual = default_constants().clock_mhz.get(gpu.sm or 0, clock.most) or clock.now
    found = f"{clock.now:,.0f} of {usual:,.0f} MHz"
    if clock.idle:
        fix = "look at the clock under load: run doctor again while a model answers"
        return Finding("clock", "unknown", f"{found}, because the GPU is idle", fix)
    share = clock.now / usual
    if share >= _SLOWED:
        return Finding("clock", "ok", "; ".join(filter(None, (found, clock.conditions))))
    why = ", ".join(filter(None, (*(clock.why or ("no reason reported",)), clock.conditions)))
    fixes = [_FASTER[name] for name in clock.why] or [_POWER, _UNLOCK]
    return Finding(
        "clock", "missing", f"{found} ({why}): {_loss(share, gpu, plan)}", "; or ".join(dict.fromkeys(fixes))
    )


def _loss(share: float, gpu: _Gpu, plan: Plan | None) -> str:
    """Say what a low clock costs, with the plan's own band if it is of this GPU."""
    least = f"speeds are {share:.0%} to 100 % of those planned"
    decode = plan.estimate.decode if plan and plan.target.gpu and plan.target.gpu.sm == gpu.sm else None
    if decode is None or decode.band is None:
        return least
    low, high = decode.band
    slow = Band(low, decode.value, high).at_clock(share)
    return f"{least}, decode {slow.low:.1f} to {high:.1f} instead of {low:.1f} to {high:.1f} {decode.unit}"


def _memory(plan: Plan | None, gpu: _Gpu | None, host: Host) -> Iterator[Finding]:
    """Ask the kernel. On unified memory CUDA counts the page cache as used, and NVML does not answer."""
    try:
        lines = host.meminfo.read_text(encoding="ascii").splitlines()
        fields = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        available, total, free = (fields[name] for name in ("MemAvailable", "MemTotal", "MemFree"))
    except (OSError, KeyError, ValueError, IndexError):
        yield Finding("memory", "unknown", f"{host.meminfo} cannot be read")
        return
    unified = plan.target.unified_memory if plan else gpu is not None and gpu.unified
    needed = _peak(plan) if plan and (unified or plan.target.gpu is None) else 0.0
    found = f"{in_bytes(available)} available of {in_bytes(total)}"
    if needed > available:
        fix = (
            f"{in_bytes(needed)} are needed at the peak: stop what else runs (docker ps; ps aux --sort=-rss | head),"
            f" then {_DROP_CACHES}"
        )
        yield Finding("memory", "missing", found, fix, needed=True)
    else:
        yield Finding("memory", "ok", found)
    if unified:
        yield _page_cache(fields, free, needed if needed <= available else 0.0)


def _peak(plan: Plan) -> float:
    """Return the bytes of the largest phase. The build of a TensorRT engine has a warning in the plan."""
    estimate = plan.estimate
    held = [stage.peak.total for phase in ("quantize", "load") if (stage := estimate.stage(phase))]
    least = estimate.serve_memory.value / plan.target.nodes if plan.target.gpu else 0.0
    return max([*held, least])


def _page_cache(fields: Mapping[str, int], free: int, needed: float) -> Finding:
    cached = sum(fields.get(name, 0) for name in ("Buffers", "Cached", "SReclaimable")) - fields.get("Shmem", 0)
    found = f"{in_bytes(max(cached, 0))}, which CUDA counts as used; it counts {in_bytes(free)} as free"
    if needed > free:
        return Finding("page cache", "missing", found, f"before the server starts: {_DROP_CACHES}")
    return Finding("page cache", "ok", found)


def _disk(store: Path, plan: Plan | None, host: Host) -> Finding:
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = host.free(place)
    found = f"{in_bytes(free)} free at {place}"
    if plan and plan.estimate.disk.value > free:
        fix = (
            f"{plan.estimate.disk} are needed; put the store on a larger disk (--store), or free some (orchestrator gc)"
        )
        return Finding("disk", "missing", found, fix, needed=True)
    return Finding("disk", "ok", found)


def _docker(host: Host, *, needed: bool, gpus: bool) -> Iterator[Finding]:
    from orchestrator.executors.docker_client import require_gpus  # noqa: PLC0415 - the SDK loads slowly

    try:
        client = host.connect()
    except OrchestratorError as error:
        yield Finding("Docker", "missing", error.message, error.hint, needed)
        yield Finding("NVIDIA runtime", "unknown", "unknown until Docker answers")
        return
    with closing(client):
        info = client.info()
        yield Finding("Docker", "ok", f"{info.get('ServerVersion')} on {info.get('Architecture')}")
        try:
            require_gpus(client)
        except OrchestratorError as error:
            yield Finding("NVIDIA runtime", "missing", error.message, error.hint, gpus)
        else:
            yield Finding("NVIDIA runtime", "ok", "Docker can give GPUs to containers")


def _token(plan: Plan | None, host: Host) -> Finding:
    """Find a token in the places that the Hub's client reads. The value is not read."""
    gated = bool(plan and getattr(plan.recipe.model, "gated", False))
    if token_is_there(host.environment, host.home):
        return Finding("Hub token", "ok", "there is one")
    return Finding("Hub token", "missing", "none", "for gated models: hf auth login, or set HF_TOKEN", gated)


def _access(plan: Plan | None, host: Host) -> Iterator[Finding]:
    """Check access to a recipe's models and images; without a recipe, to public ones."""
    models = {(model.repo, model.revision) for model in hub_models(plan.recipe)} if plan else {(_PUBLIC_REPO, "main")}
    for repo, revision in sorted(models):
        yield _check_access(f"Hub: {repo}", partial(host.resolve, repo, revision))
    for reference in _pulled(plan) if plan else (_PUBLIC_IMAGE,):
        registry = "NGC" if reference.startswith("nvcr.io/") else "registry"
        yield _check_access(f"{registry}: {reference}", partial(host.digest, reference))


def _pulled(plan: Plan) -> tuple[str, ...]:
    """List the images that a build pulls. Images that the project builds itself are not checked."""
    names = sorted({placed.step.image for placed in plan.steps if placed.step.image})
    images = [plan.binder.catalog.image(name) for name in names]
    return tuple(image.reference for image in images if image.build is None)


def _check_access(name: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", ask())
    except OrchestratorError as error:
        return Finding(name, "missing", error.message, error.hint, needed=True)
