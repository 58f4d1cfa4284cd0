"""Reads `cluster.yaml`: what the schedulers of a site must be told about each job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.documents.files import read_document
from orchestrator.documents.schema import as_text, described_schema
from orchestrator.documents.validate import validate
from orchestrator.errors import ClusterInvalidError

Containers = Literal["none", "docker", "apptainer", "pyxis"]
"""The program that runs the containers of steps; `none`: steps of our own code run on this machine's Python."""

SchedulerName = Literal["slurm"]
SCHEDULERS: Mapping[str, SchedulerName] = {"slurm": "slurm"}
"""The schedulers by their names on the command line and in `cluster.yaml`."""

Word = Annotated[str, Field(pattern=r"^[\w.,:;=@+&|*()\[\]/-]+$", max_length=200)]
"""A value without spaces or quotes, because it becomes part of a line of a script."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Request(_Part):
    """Amounts that replace those of the plan."""

    cpus: int | None = Field(default=None, ge=1, le=1024)
    """Processor cores of each job; without it, the cluster's default."""
    memory_gb: float | None = Field(default=None, gt=0)
    """GB of memory; without it, the plan's peak with a margin."""
    minutes: int | None = Field(default=None, ge=1, le=60 * 24 * 60)
    """The time limit; without it, the plan's time with a margin."""


class SlurmPlacement(Request):
    """What Slurm is told about a job and the plan does not know."""

    partition: Word | None = None
    """The partition; without it, the cluster's default."""
    account: Word | None = None
    """The account to charge."""
    qos: Word | None = None
    """The quality of service."""
    constraint: Word | None = None
    """The features that a node must have, for example `h100&ib`."""
    gpu: Word = "gpu"
    """The name of a GPU as a generic resource, for example `gpu:h100`."""
    options: tuple[Word, ...] = ()
    """More options of sbatch, for example `--exclude=node7`."""


class Margins(_Part):
    """How much more than the plan's figures a job requests."""

    time: float = Field(default=3.0, ge=1, le=100)
    """The plan's longest time is multiplied by it."""
    shortest_minutes: int = Field(default=15, ge=1)
    """The least time limit."""
    unknown_minutes: int = Field(default=8 * 60, ge=1)
    """The time limit of a step whose time the plan does not know."""
    longest_minutes: int = Field(default=24 * 60, ge=1)
    """The greatest time limit that the site allows."""
    memory: float = Field(default=1.25, ge=1, le=10)
    """The plan's peak is multiplied by it."""
    least_memory_gb: float = Field(default=4.0, gt=0)
    """The least memory of a job in GB."""
    stop_seconds: int = Field(default=120, ge=5, le=3600)
    """Seconds before the time limit at which a step is stopped, so that it saves its state."""


_Placement = TypeVar("_Placement", bound=Request)


def _placement(kind: type[_Placement], everywhere: _Placement, own: _Placement | None) -> _Placement:
    """Return the settings of all steps, with those of one step in their place."""
    changed = {name: getattr(own, name) for name in own.model_fields_set} if own else {}
    return kind(**{name: getattr(everywhere, name) for name in kind.model_fields} | changed)


class Slurm(SlurmPlacement):
    """One Slurm."""

    containers: Containers
    """The program that runs the containers of steps on a node; `none`: all steps run on this machine's Python."""
    steps: dict[str, SlurmPlacement] = {}
    """Settings of single steps by name, such as `download`. They replace those of all steps."""

    def placement(self, step: str) -> SlurmPlacement:
        """Return the settings of a step's job."""
        return _placement(SlurmPlacement, self, self.steps.get(step))


class Cluster(_Part):
    """The schedulers of a site, and what counts for each of them."""

    schema_version: Literal[1]
    margins: Margins = Margins()
    """How much more than the plan's figures a job requests."""
    jobs_of_a_step: int = Field(default=10, ge=1, le=100)
    """The most jobs in a row for one resumable step that does not end within its time limit."""
    settle_seconds: float = Field(default=10.0, ge=0, le=600)
    """Seconds after the end of a job within which its files are visible on every node. A network file system that
    caches attributes shows them late."""
    slurm: Slurm | None = None
    """For `--executor slurm`."""


LEAST: Mapping[SchedulerName, str] = {"slurm": "slurm: {containers: none}"}
"""The least section of each scheduler."""


def read_cluster(file: Path, scheduler: SchedulerName) -> Cluster:
    """Read a cluster's settings.

    Args:
        file: The file.
        scheduler: The scheduler whose section must be there.

    Raises:
        ClusterInvalidError: The file or the section is missing or not valid. All faults are listed with their lines.
    """
    least = f"the least is `schema_version: 1` and `{LEAST[scheduler]}`"
    document = read_document(file, ClusterInvalidError, hint=f"name another: --cluster FILE; {least}")
    cluster = validate(Cluster, dict(document.data), document.positions, ClusterInvalidError)
    if getattr(cluster, scheduler) is None:
        message = f"{file}: it has no section `{scheduler}`, which --executor {scheduler} needs"
        raise ClusterInvalidError(message, hint=least)
    return cluster


def cluster_schema_text() -> str:
    """Return the schema of `cluster.yaml` as text."""
    return as_text(described_schema(Cluster), "orchestrator cluster")
