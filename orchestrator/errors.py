"""Every way to fail: a class, a stable code, an exit status and a hint.

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
| 6 | this machine: no Docker, no room, no permission, no network |
| 7 | a check failed: quality, integrity, drift |
| 130, 143 | interrupted, terminated |
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
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
        hint: What to do next; empty where the message says it all.
    """

    code: ClassVar[str] = "ERROR"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInputError(OrchestratorError):
    """Something that a person or another program wrote is not what it must be."""

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
    """A file that a recipe is to be written to is there already."""

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
    """Something is asked of a deployment that is not built."""

    code = "NOT_BUILT"


class BundleTargetError(BadInputError):
    """Files are asked for a way to deploy that does not exist, or that the recipe cannot be deployed in."""

    code = "BUNDLE_TARGET"


class ComposeUnsupportedError(BadInputError):
    """A bundle's compose.yaml or .env says something that `deploy` does not understand."""

    code = "COMPOSE_UNSUPPORTED"


class NotDeployedError(BadInputError):
    """Something is asked of a server that is not up."""

    code = "NOT_DEPLOYED"


class KeyMissingError(BadInputError):
    """The deployed server wants an API key, or another one."""

    code = "API_KEY_MISSING"


class StepUnknownError(BadInputError):
    """A step that this recipe does not have."""

    code = "STEP_UNKNOWN"


class FolderMissingError(BadInputError):
    """A folder or file that a recipe names is not there."""

    code = "FOLDER_MISSING"


class PathEscapesError(BadInputError):
    """A path that leaves the folder it must stay in."""

    code = "PATH_ESCAPES"


class CheckpointError(BadInputError):
    """A checkpoint that cannot be read: truncated, misnamed, mistyped or incomplete."""

    code = "CHECKPOINT_INVALID"


class ModelUnsupportedError(CheckpointError):
    """A model whose tensors our own quantizer does not know."""

    code = "MODEL_UNSUPPORTED"


class CalibrationTextError(BadInputError):
    """Text to calibrate with that is missing, empty or not enough."""

    code = "CALIBRATION_INVALID"


class ConfigInvalidError(BadInputError):
    """A model's config.json or hf_quant_config.json that lacks a field, contradicts itself or describes no model."""

    code = "CONFIG_INVALID"


class ArchitectureUnknownError(ConfigInvalidError):
    """A model whose tensors do not follow from its config.json by anything known here."""

    code = "ARCHITECTURE_UNKNOWN"


class SpeedInputError(BadInputError):
    """A speed is asked for with numbers that no run can have, or of a machine without a GPU."""

    code = "SPEED_INPUT"


class MeasurementUnusableError(BadInputError):
    """A measurement that says nothing about a machine: it lacks a figure, or no such run is possible."""

    code = "MEASUREMENT_UNUSABLE"


class MeasurementsMissingError(BadInputError):
    """Too few measurements to calibrate with."""

    code = "MEASUREMENTS_MISSING"


class PlanRefusedError(OrchestratorError):
    """The plan cannot work; every reason is listed."""

    code = "REFUSED"
    exit_status = 4

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        super().__init__("\n".join(f"{refusal.code}: {refusal.message}" for refusal in refusals))
        self.refusals = refusals
        self.hint = "\n".join(refusal.hint for refusal in refusals)


class UntrustedCodeError(OrchestratorError):
    """A model brings code, or files that can carry code, and the recipe does not say that this commit is trusted."""

    code = "UNTRUSTED_CODE"
    exit_status = 4


class StepError(OrchestratorError):
    """A step ended without its result; nothing was published."""

    exit_status = 5


class StepFailedError(StepError):
    """The step's command ended with a status other than 0."""

    code = "STEP_FAILED"


class StepOutOfMemoryError(StepError):
    """The step was killed for memory."""

    code = "STEP_OUT_OF_MEMORY"


class HostMemoryError(StepError):
    """The machine ran short of memory while the step ran, and the step was stopped before the machine froze."""

    code = "HOST_MEMORY"


class StepKilledError(StepError):
    """Somebody else ended the step's container or process."""

    code = "STEP_KILLED"


class OutputMissingError(StepError):
    """The command ended with status 0, but a declared output is absent, empty or does not parse."""

    code = "OUTPUT_MISSING"


class ServerEndedError(StepError):
    """The deployed server ended before it was ready."""

    code = "SERVER_ENDED"


class ServerNotReadyError(StepError):
    """The deployed server was not ready in time, or gave no answer."""

    code = "SERVER_NOT_READY"


class CheckFailedError(OrchestratorError):
    """A result exists and is not good enough, or is not what was recorded."""

    code = "CHECK_FAILED"
    exit_status = 7


class QualityTooLowError(CheckFailedError):
    """The quantized model says something else than the original, more than the recipe allows."""

    code = "QUALITY_TOO_LOW"


class LockDriftError(CheckFailedError):
    """What was locked is no longer what is there, or the lock is missing or older than its recipe."""

    code = "LOCK_DRIFT"


class ArtifactCorruptError(CheckFailedError):
    """A file in the store is not what was published."""

    code = "ARTIFACT_CORRUPT"


class MachineError(OrchestratorError):
    """This machine lacks something."""

    exit_status = 6


class HomeMissingError(MachineError):
    """The user has no home folder, and nothing says where results are kept."""

    code = "HOME_MISSING"


class DockerUnavailableError(MachineError):
    """No Docker engine answers."""

    code = "DOCKER_UNAVAILABLE"


class GpuRuntimeMissingError(MachineError):
    """The engine cannot hand a GPU to a container."""

    code = "GPU_RUNTIME_MISSING"


class PortInUseError(MachineError):
    """Something else listens where the server is to listen."""

    code = "PORT_IN_USE"


class NameTakenError(MachineError):
    """A container or network of that name is there, and `deploy` did not make it."""

    code = "NAME_TAKEN"


class ImageUnavailableError(MachineError):
    """An image is neither here nor can it be pulled."""

    code = "IMAGE_UNAVAILABLE"


class WrongArchitectureError(MachineError):
    """The image is built for another processor."""

    code = "WRONG_ARCHITECTURE"


class DependencyMissingError(MachineError):
    """A library that this step needs is not installed."""

    code = "DEPENDENCY_MISSING"


class MemoryBudgetError(MachineError):
    """The memory that a step may use is less than it needs, which is known before it begins."""

    code = "MEMORY_BUDGET"


class DiskFullError(MachineError):
    """No room is left."""

    code = "DISK_FULL"


class NoPermissionError(MachineError):
    """A file or socket may not be used."""

    code = "NO_PERMISSION"


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
    """The network may not be used, and something is not here."""

    code = "OFFLINE_MISSING"


class RegistryError(MachineError):
    """A registry of images does not answer as it should."""

    code = "REGISTRY_UNREACHABLE"


class RegistryAccessError(RegistryError):
    """A registry refuses these credentials, or wants some."""

    code = "REGISTRY_ACCESS"


class DownloadCorruptError(HubError):
    """A file is, twice in a row, not what the Hub says it is."""

    code = "DOWNLOAD_CORRUPT"


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def machine_faults(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into ours: a full disk, a missing permission.

    Args:
        doing: What was going on, for the message, e.g. `writing the checkpoint`.
    """
    try:
        yield
    except OSError as error:
        translated = from_os_error(error, doing)
        if translated is None:
            raise
        raise translated from error


def from_os_error(error: OSError, doing: str) -> MachineError | None:
    """Give our error for the operating system's, or None where it means something else."""
    where = error.filename or "the file system"
    if error.errno in _FULL:
        return DiskFullError(f"no room is left on {where} while {doing}", hint="free some space, then run it again")
    if error.errno in _FORBIDDEN:
        return _no_permission(str(where), doing, read_only_disk=error.errno == errno.EROFS)
    return None


def _no_permission(where: str, doing: str, *, read_only_disk: bool) -> NoPermissionError:
    """Say whether a place may be read at least: then another one has to be found to write to."""
    there = _there(where)
    if read_only_disk:
        message = f"{where} is on a read-only file system; found while {doing}"
        return NoPermissionError(message, hint="use another place (--store, --dist), or mount it for writing")
    if os.access(there, os.R_OK) and not os.access(there, os.W_OK):
        message = f"{there} is read-only for you; found while {doing}"
        return NoPermissionError(message, hint=f"use another place, or look at its owner: ls -ld {there}")
    return NoPermissionError(f"no permission for {where} while {doing}", hint=f"look at its owner: ls -ld {there}")


def _there(place: str) -> str:
    """Find what of a path is there: what was to be made is not, and its folder decides."""
    while place and not os.path.lexists(place):
        place = os.path.dirname(place)  # noqa: PTH120 - text, and no Path is needed here
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
