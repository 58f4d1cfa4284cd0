"""Binds declared steps to this machine: the key of each, and the job that an executor runs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path

from orchestrator.app.key import Surroundings, key_fields, key_of
from orchestrator.catalog.load import Catalog
from orchestrator.errors import FolderMissingError
from orchestrator.executors.job import ContainerImage, ImageBuild, Inside, Job, Mount
from orchestrator.libraries import installed
from orchestrator.recipe.load import resolve_inside
from orchestrator.steps.step import CODE, FILES, PROVENANCE, SCRATCH, Step
from orchestrator.store.artifact import Artifact
from orchestrator.values import frozen

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = ("numpy", "ml_dtypes", "tokenizers")
"""Libraries that count for every step on this machine's Python."""
_SMALL = 1 << 20
"""Files up to this many bytes are identified by content, larger ones by their file status."""


@cache
def host_version(name: str) -> str:
    """Return the version of this machine's Python or of one of its libraries; `none` if it is missing."""
    return f"{sys.version_info.major}.{sys.version_info.minor}" if name == "python" else installed(name)


@frozen
class Binder:
    """Binds the steps of one recipe to this machine."""

    catalog: Catalog
    recipe: str
    architecture: str
    """The target's compute capability, for which its containers are built."""
    image_digests: Mapping[str, str]
    """The image digests of the lock."""
    secrets: Mapping[str, str]
    """The secrets of this machine, by name."""
    image_sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes to pull for an image, if the lock has them."""
    versions: Callable[[str], str] = host_version
    """The version of this machine's Python and of its libraries, by name."""

    def key(self, step: Step, executor: str, inputs: Mapping[str, Artifact]) -> str:
        """Return the key of a step's result: 64 hexadecimal digits, equal for equal work.

        Args:
            step: The step.
            executor: Where it runs. On this machine's Python, its version and libraries count.
            inputs: The artifacts of the steps it reads.
        """
        return key_of(self.key_fields(step, executor, inputs))

    def key_fields(self, step: Step, executor: str, inputs: Mapping[str, Artifact]) -> dict[str, object]:
        """Return the fields of a step's key, by name. The arguments are those of `key`."""
        here = executor == "process"
        surroundings = Surroundings(
            inputs={mount.step: inputs[mount.step].digest for mount in step.inputs},
            folders={folder.path: _digest_of_folder(self.place(folder.path)) for folder in step.folders},
            image=None if here else self._reference(step),
            python=self._python() if here else {},
            libraries={name: self.versions(name) for name in step.libraries} if here else {},
        )
        return key_fields(step, surroundings)

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
        """Make the job of a step.

        Args:
            step: The step.
            executor: Where it runs.
            key: Its key.
            inputs: For each step that it reads, the folder of its files.
            attempt: The folder that holds `out/`, where the command may write, and `files/`.
            digests: For each step that it reads, the digest of its artifact, for the command's own report.
            scratch: The folder of the key's saved state, for a resumable step. It must exist when the job runs.
        """
        mounts = [Mount(inputs[mount.step], mount.target) for mount in step.inputs]
        mounts += [Mount(self.place(folder.path), folder.target) for folder in step.folders]
        if step.needs_code:
            mounts.append(Mount(_PACKAGE, f"{CODE}/{_PACKAGE.name}"))
        if step.files:
            mounts.append(Mount(attempt / "files", FILES))
        if step.resumable:
            mounts.append(Mount(scratch or attempt / "scratch", SCRATCH, read_only=False))
        environment: dict[str, str | Inside] = {**step.environment, **step.limits}
        if step.needs_code and executor != "process":
            environment["PYTHONPATH"] = CODE
        if step.provenance and digests is not None:
            image = self._python_in_words() if executor == "process" else self._reference(step)
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
        """Find a path of a recipe: relative to the project, or absolute."""
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
        image = self.catalog.image(step.image)
        build = image.build
        if build is None:
            return ContainerImage(
                self._reference(step),
                self.architecture,
                pulled=self.image_sizes.get(step.image),
                clears_entrypoint=image.entrypoint == (),
            )
        root = self.catalog.project.layer_of(build.dockerfile)
        dockerfile = resolve_inside(root, build.dockerfile)
        base = self._pinned(build.base)
        return ContainerImage(
            self._reference(step),
            self.architecture,
            ImageBuild(dockerfile, root / "docker", base, build.arguments),
            self.image_sizes.get(build.base),
        )

    def _python(self) -> dict[str, str]:
        return {name: self.versions(name) for name in ("python", *_LIBRARIES)}

    def _python_in_words(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self._python().items())


def _digest_of_folder(folder: Path) -> str:
    """Return the state of a user's folder or file.

    Raises:
        FolderMissingError: It does not exist.
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
