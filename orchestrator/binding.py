"""A declared step meets this machine: its key, and the job that an executor runs.

The key is spelled field by field with a format number, so that a new field of a step changes no key by accident.
Not in it: paths, names of recipes, log levels, tokens, time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from orchestrator.catalog.load import Catalog
from orchestrator.code import PACKAGE, code_digest
from orchestrator.errors import FolderMissingError
from orchestrator.executors.job import Argument, ContainerImage, ImageBuild, Inside, Job, Mount
from orchestrator.recipe.load import resolve_inside
from orchestrator.steps.step import CODE, FILES, PROVENANCE, SCRATCH, Step
from orchestrator.store.artifact import Artifact

_KEY_FORMAT = 1
_PAYLOADS = "orchestrator.payloads."
_LIBRARIES = ("numpy", "ml_dtypes", "tokenizers")
_SMALL = 1 << 20
"""Files up to this many bytes are known by content, larger ones by what the file system says of them."""


@dataclass(frozen=True)
class Binder:
    """Binds the steps of one recipe to this machine."""

    catalog: Catalog
    recipe: str
    architecture: str
    """Of the target: what its containers are built for."""
    image_digests: Mapping[str, str]
    """What the lock says of images."""
    secrets: Mapping[str, str]
    """Every secret that this machine has, by name."""
    image_sizes: Mapping[str, int] = field(default_factory=dict)
    """How many bytes are pulled for an image, where the lock says so."""

    def key(self, step: Step, executor: str, inputs: Mapping[str, Artifact]) -> str:
        """Name what a step will leave: 64 hexadecimal digits, the same wherever the same is done.

        Args:
            step: The step.
            executor: Where it runs: on this machine's Python its version and libraries count.
            inputs: The artifacts of the steps it reads.
        """
        fields = {
            "format": _KEY_FORMAT,
            "step": step.name,
            "argv": [_spelled(argument) for argument in step.argv],
            "environment": {name: _spelled(value) for name, value in sorted(step.environment.items())},
            "inputs": {mount.target: inputs[mount.step].digest for mount in step.inputs},
            "folders": {folder.target: self._folder_digest(folder.path) for folder in step.folders},
            "files": dict(sorted(step.files.items())),
            "code": _code(step),
            "image": self._reference(step) if executor != "process" else _this_python(*step.libraries),
            "gpus": step.gpus,
            "identity": dict(sorted(step.identity.items())),
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def job(
        self,
        step: Step,
        executor: str,
        key: str,
        inputs: Mapping[str, Path],
        attempt: Path,
        *,
        digests: Mapping[str, str] | None = None,
        scratch: Path | None = None,
    ) -> Job:
        """Decide everything that a step leaves open.

        Args:
            step: The step.
            executor: Where it runs.
            key: Its key.
            inputs: Per step that it reads, the folder of its files.
            attempt: The folder that holds `out/`, where the command may write, and `files/`.
            digests: Per step that it reads, the digest of its artifact; for what the command writes down of itself.
            scratch: The folder of the key's notes, for a step that can go on; it must be there when the job runs.
        """
        mounts = [Mount(inputs[mount.step], mount.target) for mount in step.inputs]
        mounts += [Mount(self.place(folder.path), folder.target) for folder in step.folders]
        if step.needs_code:
            mounts.append(Mount(PACKAGE, f"{CODE}/{PACKAGE.name}"))
        if step.files:
            mounts.append(Mount(attempt / "files", FILES))
        if step.resumable:
            mounts.append(Mount(scratch or attempt / "scratch", SCRATCH, read_only=False))
        environment: dict[str, str | Inside] = {**step.environment, **step.limits}
        if step.needs_code and executor != "process":
            environment["PYTHONPATH"] = CODE
        if step.provenance and digests is not None:
            image = self._reference(step) if step.image else _this_python()
            environment[PROVENANCE] = json.dumps({"key": key, "image": image, "inputs": dict(sorted(digests.items()))})
        return Job(
            step=step.name,
            key=key,
            recipe=self.recipe,
            argv=step.argv,
            output=attempt / "out",
            mounts=tuple(mounts),
            image=self._container_image(step) if executor != "process" else None,
            environment=environment,
            secrets={name: self.secrets[name] for name in step.secrets if name in self.secrets},
            network=step.network,
            gpus=step.gpus,
        )

    def place(self, path: str) -> Path:
        """Find what a recipe names: relative to the project, or absolute."""
        return resolve_inside(self.catalog.project.root, path)

    def _reference(self, step: Step) -> str:
        assert step.image is not None  # noqa: S101 - only steps with an image run outside this machine's Python
        return self._pinned(step.image)

    def _pinned(self, image: str) -> str:
        digest = self.image_digests.get(image)
        reference = self.catalog.image(image).reference
        return f"{reference}@{digest}" if digest else reference

    def _container_image(self, step: Step) -> ContainerImage:
        assert step.image is not None  # noqa: S101 - as above
        build = self.catalog.image(step.image).build
        if build is None:
            return ContainerImage(self._reference(step), self.architecture, None, self.image_sizes.get(step.image))
        root = self.catalog.project.root
        dockerfile = self.place(build.dockerfile)
        base = self._pinned(build.base)
        return ContainerImage(
            self._reference(step),
            self.architecture,
            ImageBuild(dockerfile, root / "docker", base, build.arguments),
            self.image_sizes.get(build.base),
        )

    def _folder_digest(self, path: str) -> str:
        return _digest_of_folder(self.place(path))


def _spelled(argument: Argument) -> str | list[str]:
    return [argument.target, argument.path] if isinstance(argument, Inside) else argument


def _digest_of_folder(folder: Path) -> str:
    """Name the state of a folder or file that a person keeps.

    Raises:
        FolderMissingError: There is none.
    """
    if not folder.exists():
        message = f"there is no {folder}"
        raise FolderMissingError(message, hint="model.path and calibration files are relative to the project folder")
    digest = hashlib.sha256()
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else [folder]
    for file in files:
        status = file.stat()
        small = status.st_size <= _SMALL
        word = hashlib.sha256(file.read_bytes()).hexdigest() if small else f"{status.st_ino}:{status.st_mtime_ns}"
        digest.update(f"{file.relative_to(folder)}\0{status.st_size}\0{word}\n".encode())
    return digest.hexdigest()


def _code(step: Step) -> list[str]:
    """Name the state of each payload of ours that a step runs."""
    return [
        code_digest(argument) for argument in step.argv if isinstance(argument, str) and argument.startswith(_PAYLOADS)
    ]


@cache
def _this_python(*more: str) -> str:
    versions = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    versions += [f"{library} {metadata.version(library)}" for library in _LIBRARIES]
    return ", ".join(versions + [f"{library} {_version(library)}" for library in more])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
