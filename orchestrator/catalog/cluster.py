"""Reads `cluster.yaml`: what the schedulers of a site must be told about each job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.catalog.schedulers import Containers, SchedulerName
from orchestrator.documents.files import read_document
from orchestrator.documents.schema import as_text, described_schema
from orchestrator.documents.validate import validate
from orchestrator.errors import ClusterInvalidError

Word = Annotated[str, Field(pattern=r"^[\w.,:;=@+&|*()\[\]/-]+$", max_length=200)]
"""A value without spaces or quotes, because it becomes part of a line of a script."""

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
"""The name of an object of Kubernetes."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


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


class Toleration(_Part):
    """A taint of nodes on which a pod may run all the same."""

    key: str | None = Field(default=None, min_length=1, max_length=317)
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = Field(default=None, max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class SecretKey(_Part):
    """A key of a Secret. Its value is never read here."""

    name: Label
    """The Secret."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]


class Volume(_Part):
    """The volume that holds the store."""

    claim: Label
    """The PersistentVolumeClaim: `ReadWriteMany`, or all pods on one node."""
    path: Annotated[str, Field(pattern=r"^/[^:]+$", max_length=4000)]
    """Where it is mounted, in the pods and on the machine of the build: the same path."""


class KubernetesPlacement(Request):
    """What Kubernetes is told about a job and the plan does not know."""

    image: Annotated[str, Field(pattern=r"^[\w.:/@-]+$", max_length=500)] | None = None
    """The image of the pod, with this version of the tool and the libraries of the step."""
    gpu: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[a-zA-Z0-9._-]+$", max_length=100)] = "nvidia.com/gpu"
    """The resource that a GPU is."""
    queue: Label | None = None
    """A queue of Kueue in the namespace. Jobs are created suspended, and Kueue starts them."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes on which the pods may run."""
    priority_class: Label | None = None
    """The name of a PriorityClass."""
    runtime_class: Label | None = None
    """The name of a RuntimeClass, for example `nvidia`."""


class Kubernetes(KubernetesPlacement):
    """One namespace of a Kubernetes cluster."""

    image: Annotated[str, Field(pattern=r"^[\w.:/@-]+$", max_length=500)]
    """The image of the pods, with this version of the tool and the libraries of the steps."""
    volume: Volume
    """The volume that holds the store."""
    context: str | None = Field(default=None, min_length=1, max_length=253)
    """The context of the kubeconfig; without it, the current one."""
    namespace: Label = "default"
    """The namespace of the jobs."""
    python: str = Field(default="python3", pattern=r"^[\w./-]+$")
    """The Python of the image that has the tool."""
    secrets: dict[str, SecretKey] = {}
    """Secrets by the variable that a step gets, for example `HF_TOKEN`."""
    pull_secrets: tuple[Label, ...] = ()
    """Secrets with which the nodes pull the image."""
    user: int = Field(default=1000, ge=1)
    """The user of the pods, who must be able to write to the volume. It cannot be root."""
    group: int = Field(default=1000, ge=1)
    """The group of the pods."""
    start_minutes: int = Field(default=30, ge=1)
    """Minutes that pulling the image may take, besides the time of the step."""
    keep_minutes: int = Field(default=60, ge=1)
    """Minutes after which Kubernetes removes an ended job."""
    steps: dict[str, KubernetesPlacement] = {}
    """Settings of single steps by name, such as `quantize`. They replace those of all steps."""

    def placement(self, step: str) -> KubernetesPlacement:
        """Return the settings of a step's job."""
        return _placement(KubernetesPlacement, self, self.steps.get(step))


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
    kubernetes: Kubernetes | None = None
    """For `--executor kubernetes`."""


LEAST: Mapping[SchedulerName, str] = {
    "slurm": "slurm: {containers: none}",
    "kubernetes": "kubernetes: {image: IMAGE, volume: {claim: NAME, path: FOLDER}}",
}
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
