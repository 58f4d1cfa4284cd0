"""Writes `dist/<recipe>/`: the checkpoint or TensorRT engine, the server's files, and the measurements.

A bundle has only measured claims: its figures come from quality.json and performance.json, or are
marked as predicted. It is written beside its path and then moved there, so that it is never incomplete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from orchestrator.bundle.contents import Part, read_contents
from orchestrator.bundle.files import (
    SUMS,
    are_unchanged,
    keep_user_files,
    link_files,
    read_sums,
    remove_temporary_siblings,
    replace_folder,
    sums_text,
    temporary_sibling,
    text_digest,
)
from orchestrator.bundle.image_name import ImageName
from orchestrator.bundle.private_files import EDITED, PRIVATE
from orchestrator.bundle.targets import choose, left_out, render_files
from orchestrator.catalog.load import Catalog
from orchestrator.errors import DiskFullError, NoPermissionError, machine_faults
from orchestrator.events import Observer, Warned, silence
from orchestrator.models import ModelShape
from orchestrator.planner.known import Find, in_catalogue
from orchestrator.recipe.lock import LockedImage
from orchestrator.recipe.model import Recipe
from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store, remove_tree
from orchestrator.values import frozen

_STAMP = "bundle.json"
_DIGESTS = "texts"  # codespell:ignore texts
"""The field of the stamp with the digest of each rendered file."""


@frozen
class Bundle:
    """A rendered deployment."""

    folder: Path
    size: int
    """Bytes of all its files. Linked ones take no extra disk space."""
    reused: bool
    """It existed already with the same content."""
    seconds: float


def render(
    recipe: Recipe,
    catalog: Catalog,
    artifacts: Mapping[str, Artifact],
    *,
    images: Mapping[str, LockedImage],
    store: Store,
    dist: Path,
    targets: Sequence[str] = (),
    embed_model: bool = False,
    image_name: ImageName | None = None,
    find: Find = in_catalogue,
    counted: ModelShape | None = None,
    observer: Observer = silence,
) -> Bundle:
    """Write a recipe's deployment.

    Args:
        recipe: The recipe, with its commits.
        catalog: The source of its image.
        artifacts: The artifact of each step, by the step's name.
        images: The image digests of the lock.
        store: The store of the artifacts.
        dist: The folder of all deployments.
        targets: The targets to render; none: all that the recipe supports.
        embed_model: The bundle's image includes the model.
        image_name: The name under which the bundle's image is pulled; None: the recipe's, in no registry.
        find: Looks up the sizes of models.
        counted: The checkpoint's tensors by its headers.
        observer: Gets a warning if files must be copied because dist is on another file system than the store.

    Raises:
        BundleTargetError: A target is unknown, or the recipe does not support it.
        DiskFullError: The disk has no space for such a copy.
    """
    started = time.monotonic()
    whole = read_contents(
        recipe,
        catalog,
        artifacts,
        images=images,
        embed_model=embed_model,
        image_name=image_name,
        find=find,
        counted=counted,
    )
    contents = choose(whole, targets)
    if not targets:
        for name, refusal in left_out(contents).items():
            observer(Warned(f"no files for {name}: {refusal}"))
    rendered, parts = render_files(contents), contents.parts
    stamp = _stamp(recipe, parts, rendered)
    folder = dist / recipe.name
    with store.lock(_lock_of(folder), lambda: None):
        reused = _stamp_of(folder) == stamp and _is_whole(folder, parts)
        if not reused:
            with machine_faults(f"writing {folder}"):
                _write(folder, parts, rendered, stamp, observer)
            for part in parts:  # a new link changes a file's status
                store.remember(part.artifact)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Bundle(folder, size, reused, time.monotonic() - started)


def _stamp(recipe: Recipe, parts: tuple[Part, ...], rendered: Mapping[str, str]) -> str:
    """Calculate the digest of everything that a bundle was rendered from."""
    fields = {
        "format": 2,
        "recipe": recipe.name,
        "parts": {part.name: part.artifact.digest for part in parts},
        _DIGESTS: {name: text_digest(text) for name, text in sorted(rendered.items())},
    }
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _stamp_of(folder: Path) -> str | None:
    try:
        return (folder / _STAMP).read_text(encoding="utf-8")
    except OSError:
        return None


def _is_whole(folder: Path, parts: tuple[Part, ...]) -> bool:
    """Tell whether a bundle is complete, with unchanged artifacts. The user may edit its text files."""
    try:
        listed = read_sums(folder)
        written = (folder / _STAMP).stat().st_ctime_ns
    except (OSError, ValueError):
        return False
    complete = bool(listed) and all((folder / name).is_file() for name in listed)
    return complete and all(
        are_unchanged(part.artifact.folder, part.files, folder / part.name, written) for part in parts
    )


def _lock_of(folder: Path) -> str:
    """Return the lock of a bundle's path."""
    return f"dist-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _write(folder: Path, parts: tuple[Part, ...], rendered: Mapping[str, str], stamp: str, observer: Observer) -> None:
    def copying(part: Part) -> None:
        free = shutil.disk_usage(folder.parent).free
        problem = f"{folder} is on another file system than the store: {part.size / 1e9:.1f} GB cannot be linked"
        if free < part.size:
            message = f"{problem}, and only {free / 1e9:.1f} GB are free for a copy"
            raise DiskFullError(message, hint="free some space, or put both on one file system: --store, --dist")
        observer(Warned(f"{problem} and are copied"))

    _make_folder(folder.parent)
    remove_temporary_siblings(folder)
    fresh = temporary_sibling(folder)
    try:
        fresh.mkdir()
        for part in parts:
            link_files(part.artifact.folder, part.files, fresh / part.name, partial(copying, part))
        written = {**rendered, _STAMP: stamp}
        for name, text in {**written, SUMS: _sums(parts, written)}.items():
            _write_text(fresh / name, text)
        keep_user_files(folder, fresh, PRIVATE)
        _keep_edited_files(folder, fresh, rendered, observer)
        replace_folder(folder, fresh)
    finally:
        if fresh.exists():
            remove_tree(fresh)


def _make_folder(dist: Path) -> None:
    try:
        dist.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        message = f"cannot create the folder {dist}: {error.strerror}"
        raise NoPermissionError(message, hint="choose another folder: --dist FOLDER") from error


def _keep_edited_files(folder: Path, fresh: Path, rendered: Mapping[str, str], observer: Observer) -> None:
    """Keep the user's changes to text files of a bundle that is overwritten, and report their folder."""
    edited = {name: text for name, text in _edited(folder) if rendered.get(name) != text}
    for name, text in edited.items():
        _write_text(fresh / EDITED / name, text)
    if edited:
        names = ", ".join(edited)
        observer(Warned(f"{folder}: {names}: overwritten; your changed versions are in {EDITED}/"))


def _edited(folder: Path) -> Iterator[tuple[str, str]]:
    """Return the text files of a bundle that were changed."""
    try:
        written: dict[str, str] = json.loads((folder / _STAMP).read_bytes())[_DIGESTS]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name, digest in written.items():
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            continue  # the user may have damaged the file as well
        try:
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                yield name, content.decode()
        except (OSError, ValueError):  # it is missing, or not text
            continue


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if text.startswith("#!"):
        file.chmod(0o755)


def _sums(parts: tuple[Part, ...], rendered: Mapping[str, str]) -> str:
    """List every file for `sha256sum --check`. Artifacts were hashed when they were published."""
    digests = {f"{part.name}/{file.path}": file.sha256 for part in parts for file in part.files}
    return sums_text(digests | {name: text_digest(text) for name, text in rendered.items()})
