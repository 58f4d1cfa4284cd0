"""Defines every error: a class, a stable code, an exit status and a hint.

A message says where, what was found and what was expected; the hint says what to do next.
Codes and exit statuses are part of the interface: they never change their meaning.

| status | meaning |
|---|---|
| 0 | done |
| 1 | a defect of ours; a log file ready for a bug report is named |
| 2 | wrong usage of the command line |
| 3 | bad input: a recipe, a lock, a catalogue file, a checkpoint |
| 4 | refused: the plan cannot work on this target or image |
| 5 | a step failed |
| 6 | this machine: no Docker, no disk space, no permission, no network |
| 7 | a check failed: quality, integrity, drift |
| 130, 143 | interrupted, terminated |
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from orchestrator.values import frozen


@frozen
class Refusal:
    """One reason why a plan cannot work, found before anything was downloaded."""

    code: str
    message: str
    hint: str
    """The nearest thing that works."""


class OrchestratorError(Exception):
    """A failure that a user can act on.

    Args:
        message: Where, what was found, what was expected.
        hint: What to do next; empty if the message is enough.
    """

    code: ClassVar[str] = "ERROR"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInputError(OrchestratorError):
    """A file by a person or another program is invalid."""

    exit_status = 3


class DocumentSyntaxError(BadInputError):
    """Not YAML, or YAML that recipes do not use (aliases, tags, duplicate keys, excessive size or depth)."""

    code = "YAML_INVALID"


class RecipeInvalidError(BadInputError):
    """A key that does not exist or a value that is not allowed."""

    code = "RECIPE_INVALID"


class RecipeUnknownError(BadInputError):
    """No recipe of that name."""

    code = "RECIPE_UNKNOWN"


class RecipeExtendsError(BadInputError):
    """A recipe extends itself, or a base that is not there."""

    code = "RECIPE_EXTENDS"


class RecipeThereError(BadInputError):
    """The file for a new recipe exists already."""

    code = "RECIPE_THERE"


class OverrideError(BadInputError):
    """A `--set key=value` that cannot be applied."""

    code = "OVERRIDE_INVALID"


class LockInvalidError(BadInputError):
    """A lock file that cannot be read or belongs to another recipe."""

    code = "LOCK_INVALID"


class CatalogError(BadInputError):
    """A catalogue file (images, targets) that is not valid."""

    code = "CATALOG_INVALID"


class ImageUnknownError(BadInputError):
    """No image of that name in the catalogue."""

    code = "IMAGE_UNKNOWN"


class TargetUnknownError(BadInputError):
    """No target of that name in the catalogue."""

    code = "TARGET_UNKNOWN"


class BundleIncompleteError(BadInputError):
    """A command needs a deployment that is not built."""

    code = "NOT_BUILT"


class BundleTargetError(BadInputError):
    """Unknown deployment target, one that the recipe does not support, or no name of an image."""

    code = "BUNDLE_TARGET"


class ComposeUnsupportedError(BadInputError):
    """A bundle's compose.yaml or .env has a setting that `deploy` does not support."""

    code = "COMPOSE_UNSUPPORTED"


class NotDeployedError(BadInputError):
    """A command needs a server that does not run."""

    code = "NOT_DEPLOYED"


class KeyMissingError(BadInputError):
    """The deployed server requires an API key, or another one."""

    code = "API_KEY_MISSING"


class ClusterInvalidError(BadInputError):
    """A cluster.yaml that is missing, or has a key that does not exist or a value that is not allowed."""

    code = "CLUSTER_INVALID"


class StepUnknownError(BadInputError):
    """A step that this recipe does not have."""

    code = "STEP_UNKNOWN"


class FolderMissingError(BadInputError):
    """A folder or file of the recipe does not exist."""

    code = "FOLDER_MISSING"


class PathEscapesError(BadInputError):
    """A path that leaves the folder it must stay in."""

    code = "PATH_ESCAPES"


class FileNameError(BadInputError):
    """A file name with a character that cannot be printed."""

    code = "FILE_NAME"


class SigningKeyError(BadInputError):
    """No usable key to sign or to check a signature with."""

    code = "SIGNING_KEY"


class IdentityTokenError(BadInputError):
    """No usable identity token to sign with."""

    code = "IDENTITY_TOKEN"


class TrustConfigError(BadInputError):
    """A trust configuration of Sigstore that cannot be used."""

    code = "TRUST_CONFIG"


class CheckpointError(BadInputError):
    """A checkpoint that cannot be read: truncated, misnamed, mistyped or incomplete."""

    code = "CHECKPOINT_INVALID"


class ModelUnsupportedError(CheckpointError):
    """A model whose tensors our own quantizer does not support."""

    code = "MODEL_UNSUPPORTED"


class CalibrationTextError(BadInputError):
    """Calibration text is missing, empty or not enough."""

    code = "CALIBRATION_INVALID"


class ConfigInvalidError(BadInputError):
    """A model's config.json or hf_quant_config.json that lacks a field, contradicts itself or describes no model."""

    code = "CONFIG_INVALID"


class ArchitectureUnknownError(ConfigInvalidError):
    """A model whose architecture is not supported, so its tensors do not follow from its config.json."""

    code = "ARCHITECTURE_UNKNOWN"


class SpeedInputError(BadInputError):
    """A speed is requested with impossible numbers, or for a machine without a GPU."""

    code = "SPEED_INPUT"


class MeasurementUnusableError(BadInputError):
    """An unusable measurement: it lacks a figure, or no such run is possible."""

    code = "MEASUREMENT_UNUSABLE"


class MeasurementsMissingError(BadInputError):
    """Too few measurements to calibrate with."""

    code = "MEASUREMENTS_MISSING"


class LedgerInvalidError(BadInputError):
    """The ledger of a tuning that cannot be read."""

    code = "LEDGER_INVALID"


class RecipeChangedError(BadInputError):
    """A recipe whose text cannot be patched, or was changed since it was."""

    code = "RECIPE_CHANGED"


class PlanRefusedError(OrchestratorError):
    """The plan cannot work. Every reason is listed."""

    code = "REFUSED"
    exit_status = 4

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        super().__init__("\n".join(f"{refusal.code}: {refusal.message}" for refusal in refusals))
        self.refusals = refusals
        self.hint = "\n".join(refusal.hint for refusal in refusals)


class UntrustedCodeError(OrchestratorError):
    """A model has code, or files that can carry code, and the recipe does not trust this commit."""

    code = "UNTRUSTED_CODE"
    exit_status = 4


class StepError(OrchestratorError):
    """A step ended without its result. Nothing was published."""

    exit_status = 5


class StepFailedError(StepError):
    """The step's command ended with a status other than 0."""

    code = "STEP_FAILED"


class StepOutOfMemoryError(StepError):
    """The step was killed for lack of memory."""

    code = "STEP_OUT_OF_MEMORY"


class HostMemoryError(StepError):
    """The machine ran short of memory while the step ran, and the step was stopped before the machine froze."""

    code = "HOST_MEMORY"


class StepKilledError(StepError):
    """Another process ended the step's container or process."""

    code = "STEP_KILLED"


class StepTimeLimitError(StepError):
    """The job of a step reached the time limit of its cluster."""

    code = "STEP_TIME_LIMIT"


class OutputMissingError(StepError):
    """The command ended with status 0, but a declared output is missing, empty or invalid."""

    code = "OUTPUT_MISSING"


class ServerEndedError(StepError):
    """The deployed server ended before it was ready."""

    code = "SERVER_ENDED"


class ServerNotReadyError(StepError):
    """The deployed server was not ready in time, or gave no answer."""

    code = "SERVER_NOT_READY"


class CheckFailedError(OrchestratorError):
    """A result exists and is not good enough, or differs from the record."""

    code = "CHECK_FAILED"
    exit_status = 7


class QualityTooLowError(CheckFailedError):
    """The quantized model's predictions differ from the original's by more than the recipe allows."""

    code = "QUALITY_TOO_LOW"


class LockDriftError(CheckFailedError):
    """A locked file, image or recipe has changed, or the lock is missing."""

    code = "LOCK_DRIFT"


class ArtifactCorruptError(CheckFailedError):
    """A file in the store differs from the published one."""

    code = "ARTIFACT_CORRUPT"


class SignatureInvalidError(CheckFailedError):
    """A bundle is not signed, not with the trusted key or identity, or its files differ from the signed ones."""

    code = "SIGNATURE_INVALID"


class MachineError(OrchestratorError):
    """This machine lacks something."""

    exit_status = 6


class HomeMissingError(MachineError):
    """The user has no home folder, and no setting names the store."""

    code = "HOME_MISSING"


class DockerUnavailableError(MachineError):
    """Docker does not answer."""

    code = "DOCKER_UNAVAILABLE"


class SchedulerUnavailableError(MachineError):
    """The scheduler of a cluster does not answer. Its jobs may run."""


class ClusterAccessError(SchedulerUnavailableError):
    """The scheduler of a cluster does not let this account do something, or its login has expired."""

    code = "CLUSTER_ACCESS"


class SlurmUnavailableError(SchedulerUnavailableError):
    """Slurm's commands are missing, or its controller does not answer."""

    code = "SLURM_UNAVAILABLE"


class KubernetesUnavailableError(SchedulerUnavailableError):
    """The API server of a Kubernetes cluster does not answer, or there is no kubeconfig that names it."""

    code = "KUBERNETES_UNAVAILABLE"


class JobRefusedError(MachineError):
    """The scheduler does not accept a job: a partition, account or amount that the cluster does not have, a quota."""

    code = "JOB_REFUSED"


class JobNotStartedError(MachineError):
    """A job ended before its command started: on its node, Python or a folder is missing."""

    code = "JOB_NOT_STARTED"


class NodeLostError(MachineError):
    """The scheduler lost a job together with its node, or no longer knows the job."""

    code = "NODE_LOST"


class GpuRuntimeMissingError(MachineError):
    """Docker cannot give a GPU to a container."""

    code = "GPU_RUNTIME_MISSING"


class PortInUseError(MachineError):
    """Another program listens on the server's port."""

    code = "PORT_IN_USE"


class PortUnreachableError(MachineError):
    """A deployed server answers in its container, but not on the port that Docker publishes."""

    code = "PORT_UNREACHABLE"


class NameTakenError(MachineError):
    """A container or network of that name exists, and `deploy` did not create it."""

    code = "NAME_TAKEN"


class ImageUnavailableError(MachineError):
    """An image is not on this machine and cannot be pulled."""

    code = "IMAGE_UNAVAILABLE"


class WrongArchitectureError(MachineError):
    """The image is built for another processor."""

    code = "WRONG_ARCHITECTURE"


class DependencyMissingError(MachineError):
    """A library that this step needs is not installed."""

    code = "DEPENDENCY_MISSING"


class MemoryBudgetError(MachineError):
    """The available memory is less than a step needs, which is known before it begins."""

    code = "MEMORY_BUDGET"


class DiskFullError(MachineError):
    """The disk is full."""

    code = "DISK_FULL"


class LocksMissingError(MachineError):
    """The file system of the store has no locks, which keep two builds from the same work."""

    code = "LOCKS_MISSING"


class ServerRunsError(MachineError):
    """A deployed server uses the GPU that a command needs alone."""

    code = "SERVER_RUNS"


class NoPermissionError(MachineError):
    """The user may not use a file or socket."""

    code = "NO_PERMISSION"


class FileSystemError(MachineError):
    """The operating system cannot use a file: a path that is too long, a disk that fails, a folder."""

    code = "FILE_SYSTEM"


class HubError(MachineError):
    """The Hugging Face Hub does not answer as it should."""

    code = "HUB_UNREACHABLE"


class HubAccessError(HubError):
    """A gated or private repository, or a token that is missing or wrong."""

    code = "HUB_ACCESS"


class HubNotFoundError(HubError):
    """No such repository, revision or file."""

    code = "HUB_NOT_FOUND"


class HubOfflineError(HubError):
    """The network must not be used, and a file is missing."""

    code = "OFFLINE_MISSING"


class RegistryError(MachineError):
    """A registry of images does not answer as it should."""

    code = "REGISTRY_UNREACHABLE"


class RegistryAccessError(RegistryError):
    """A registry refuses the credentials, or requires some."""

    code = "REGISTRY_ACCESS"


class SigstoreError(MachineError):
    """A service of Sigstore, or an identity provider, does not answer as it should."""

    code = "SIGSTORE_UNREACHABLE"


class DownloadCorruptError(HubError):
    """A file differs, twice in a row, from the Hub's."""

    code = "DOWNLOAD_CORRUPT"


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_LONGEST_SHOWN = 200
_UNUSABLE: Mapping[int, str] = {
    errno.ENAMETOOLONG: "use shorter names and fewer folders in each other",
    errno.ELOOP: "look at its links: one leads to itself",
    errno.ENOTDIR: "a file is where a folder is expected; use another place, or move the file",
    errno.EISDIR: "a folder is where a file is expected; name the file, or move the folder",
    errno.EIO: "the disk, or the network behind it, cannot read or write it: look at `dmesg`, and use another disk",
    errno.ESTALE: "the file server lost it: mount it again",
    errno.EFBIG: "allow larger files (`ulimit -f`), or use another file system",
    errno.EMFILE: "allow more open files: `ulimit -n 1024`",
    errno.ENFILE: "end other programs: the machine has no more open files",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "end other programs: you have as many processes as you may (`ulimit -u`)",
    errno.EOPNOTSUPP: "use another place: this file system cannot do that",
    errno.ENXIO: "name a file, not a device or a pipe",
    errno.ENODEV: "name a file, not a device or a pipe",
    errno.ENOTCONN: "mount it again",
}
"""What to do about errors of the operating system that no defect of ours causes."""


@contextmanager
def machine_faults(doing: str) -> Iterator[None]:
    """Turn the operating system's errors into ours: a full disk, a missing permission, an unusable file.

    Args:
        doing: The current action, for the message, e.g. `writing the checkpoint`.
    """
    try:
        yield
    except OSError as error:
        translated = from_os_error(error, doing)
        if translated is None:
            raise
        raise translated from error


def from_os_error(error: OSError, doing: str) -> MachineError | None:
    """Return our error for the operating system's, or None if there is none."""
    where = error.filename or "the file system"
    if error.errno in _FULL:
        return DiskFullError(f"no space is left on {where} while {doing}", hint="free some space, then run it again")
    if error.errno in _FORBIDDEN:
        return _no_permission(str(where), doing, read_only_disk=error.errno == errno.EROFS)
    if error.errno is not None and error.errno in _UNUSABLE:
        shown = str(where) if len(str(where)) <= _LONGEST_SHOWN else f"{str(where)[:_LONGEST_SHOWN]}…"
        return FileSystemError(f"{shown}: {error.strerror}; found while {doing}", hint=_UNUSABLE[error.errno])
    return None


def _no_permission(where: str, doing: str, *, read_only_disk: bool) -> NoPermissionError:
    """Tell whether a folder is at least readable. Then the hint is to write elsewhere."""
    nearest = _nearest_existing(where)
    if read_only_disk:
        message = f"{where} is on a read-only file system; found while {doing}"
        return NoPermissionError(message, hint="use another place (--store, --dist), or mount it for writing")
    if os.access(nearest, os.R_OK) and not os.access(nearest, os.W_OK):
        message = f"{nearest} is read-only for you; found while {doing}"
        return NoPermissionError(message, hint=f"use another place, or look at its owner: ls -ld {nearest}")
    return NoPermissionError(f"no permission for {where} while {doing}", hint=f"look at its owner: ls -ld {nearest}")


def _nearest_existing(place: str) -> str:
    """Find the nearest existing parent of a path, whose permissions decide."""
    while place and not os.path.lexists(place):
        place = os.path.dirname(place)  # noqa: PTH120 - a string; no Path is needed here
    return place or "."


def by_code(code: str) -> type[OrchestratorError] | None:
    """Find the class of a stable code, as a payload reports it."""
    pending: list[type[OrchestratorError]] = [OrchestratorError]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind
        pending.extend(kind.__subclasses__())
    return None
