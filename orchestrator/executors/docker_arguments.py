"""Describes a job's container once, for Docker's API and as a command line. No I/O."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.executors.job import OUTPUT, Inside
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.executors.job import Argument, Job

LABEL = "dev.orchestrator."
MANAGED = LABEL + "managed"
SECRETS = "/run/secrets"
"""The folder of secrets in a container, one file for each."""
HOME = "/tmp/home"  # noqa: S108 - inside the container, a file system of its own
_HOME_OPTIONS = "exec,mode=1777"  # exec: compiled kernels are loaded from ~/.triton and ~/.cache
_LOG_OPTIONS = {"max-file": "4", "max-size": "50m"}
_KEY_LENGTH = 16
_STORE_LENGTH = 6


@frozen
class User:
    """The user of a container's command, so that its files belong to the caller."""

    uid: int
    gid: int

    @classmethod
    def caller(cls) -> User:
        """Return the user of this process."""
        return cls(os.getuid(), os.getgid())

    @property
    def is_root(self) -> bool:
        """Whether it is the superuser of its user namespace."""
        return self.uid == 0


@frozen
class Bind:
    """A path of this machine inside the container."""

    source: Path
    target: str
    read_only: bool


@frozen
class Container:
    """Everything that defines a job's container."""

    name: str
    image: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    binds: tuple[Bind, ...]
    user: User
    network: bool
    gpus: int
    limits: Mapping[str, int]
    """By their names in `ulimit`."""
    clears_entrypoint: bool = False


LIMITS = {"memlock": -1, "stack": 67108864}
"""Unlimited pinned memory, and the stack that deep graphs need."""
LIMITS_UNRAISED = {name: limit for name, limit in LIMITS.items() if limit >= 0}
"""For a Docker that may not raise a limit above its own: in a user namespace, or in a container."""


def container_name(job: Job) -> str:
    """Return the container's name for a job's key and store. Docker ensures that there is only one.

    Stores with equal jobs do not adopt each other's containers, because each must find the output in its own folder.
    """
    store = hashlib.sha256(str(job.output.parent.parent).encode()).hexdigest()
    return f"orchestrator-{job.key[:_KEY_LENGTH]}-{store[:_STORE_LENGTH]}"


def describe(
    job: Job, *, user: User, secrets: Mapping[str, Path], owner: str = "", limits: Mapping[str, int] = LIMITS
) -> Container:
    """Describe the container of a job.

    Args:
        job: A job with an image.
        user: The user of its command.
        secrets: The file that holds each secret, by the secret's name.
        owner: The process that creates it, for a label.
        limits: Those of `LIMITS` that Docker can grant.
    """
    if job.image is None:
        message = f"step {job.step} names no image"
        raise ValueError(message)
    return Container(
        name=container_name(job),
        image=job.image.reference,
        argv=tuple(text_in_container(argument) for argument in job.argv),
        environment={
            "HOME": HOME,
            "PYTHONUNBUFFERED": "1",  # unbuffered, so that events arrive when they are written
            **{name: text_in_container(value) for name, value in job.environment.items()},
            **{f"{name}_PATH": f"{SECRETS}/{name}" for name in job.secrets},
        },
        labels={
            MANAGED: "1",
            LABEL + "key": job.key,
            LABEL + "output": str(job.output),
            **({LABEL + "owner": owner} if owner else {}),
            LABEL + "recipe": job.recipe,
            LABEL + "step": job.step,
        },
        binds=(
            Bind(job.output, OUTPUT, read_only=False),
            *(Bind(mount.source, mount.target, mount.read_only) for mount in job.mounts),
            *(Bind(file, f"{SECRETS}/{name}", read_only=True) for name, file in secrets.items()),
        ),
        user=user,
        network=job.network,
        gpus=job.gpus,
        limits=limits,
        clears_entrypoint=job.image.clears_entrypoint,
    )


def text_in_container(argument: Argument) -> str:
    """Write an argument with the paths of a container."""
    if isinstance(argument, Inside):
        return f"{argument.target}/{argument.path}" if argument.path else argument.target
    return argument


def capabilities(user: User) -> tuple[str, ...]:
    """List the superuser rights that a container keeps.

    Without them, root in the container could not read all files that root outside can. Other users never have
    any.
    """
    return ("DAC_OVERRIDE",) if user.is_root else ()


def create_arguments(container: Container) -> dict[str, Any]:
    """Convert the container to arguments of `DockerClient.containers.create`."""
    from docker.types import DeviceRequest, LogConfig, Mount, Ulimit  # noqa: PLC0415 - the SDK loads slowly

    return {
        "image": container.image,
        "command": list(container.argv),
        **({"entrypoint": [""]} if container.clears_entrypoint else {}),  # Docker's way to have none
        "name": container.name,
        "labels": dict(container.labels),
        "init": True,  # a PID 1 that forwards SIGTERM and reaps
        "user": f"{container.user.uid}:{container.user.gid}",
        "working_dir": OUTPUT,
        "environment": dict(container.environment),
        "mounts": [
            # Not `volumes`: for those Docker creates a missing source, as root
            Mount(type="bind", source=str(bind.source), target=bind.target, read_only=bind.read_only)
            for bind in container.binds
        ],
        "tmpfs": {HOME: _HOME_OPTIONS},
        "ipc_mode": "host",  # TensorRT-LLM's workers share more memory than the 64 MB of a container's own /dev/shm
        "ulimits": [Ulimit(name=name, soft=limit, hard=limit) for name, limit in container.limits.items()],
        **({} if container.network else {"network_mode": "none"}),
        "log_config": LogConfig(type="json-file", config=_LOG_OPTIONS),
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "cap_add": list(capabilities(container.user)),
        "device_requests": ([DeviceRequest(count=container.gpus, capabilities=[["gpu"]])] if container.gpus else []),
    }


def run_line(container: Container) -> tuple[str, ...]:
    """Convert the container to arguments of `docker run`, to paste into a shell."""
    return (
        *("docker", "run"),
        "--rm",  # for people: without the name and labels by which the orchestrator finds its containers
        "--init",
        *("--user", f"{container.user.uid}:{container.user.gid}"),
        *("--workdir", OUTPUT),
        *(part for item in container.environment.items() for part in ("--env", "=".join(item))),
        *(part for bind in container.binds for part in ("--mount", _mount(bind))),
        *("--tmpfs", f"{HOME}:{_HOME_OPTIONS}"),
        *("--ipc", "host"),
        *(part for name, limit in container.limits.items() for part in ("--ulimit", f"{name}={limit}")),
        *(() if container.network else ("--network", "none")),
        *("--log-driver", "json-file"),
        *(part for item in _LOG_OPTIONS.items() for part in ("--log-opt", "=".join(item))),
        *("--security-opt", "no-new-privileges"),
        *("--cap-drop", "ALL"),
        *(part for name in capabilities(container.user) for part in ("--cap-add", name)),
        *(("--gpus", str(container.gpus)) if container.gpus else ()),
        *(("--entrypoint", "") if container.clears_entrypoint else ()),
        container.image,
        *container.argv,
    )


def _mount(bind: Bind) -> str:
    fields = ["type=bind", f"source={bind.source}", f"target={bind.target}", *(["readonly"] if bind.read_only else [])]
    return ",".join(_quoted(field) for field in fields)


def _quoted(field: str) -> str:
    """Quote one field as `docker run --mount` reads it: as a line of comma-separated values."""
    return '"' + field.replace('"', '""') + '"' if any(sign in field for sign in ',"\n') else field
