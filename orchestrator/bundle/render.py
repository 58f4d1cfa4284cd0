"""Render `dist/<recipe>/`: the checkpoint or engine, what serves it, and what was measured.

A bundle claims nothing that was not measured: its figures come from quality.json and performance.json, or are
marked as predicted. It is written beside its place and then moved there, so that there is never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator import __version__
from orchestrator.bundle.files import beside, is_linked_or_copied, link_files, swap_in, sweep_beside
from orchestrator.catalog.load import Catalog
from orchestrator.errors import DiskFullError, machine_faults
from orchestrator.events import Observer, Warned, silence
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.serving.command import serve_command
from orchestrator.serving.config import config_text, llm_api_config
from orchestrator.steps.shape import CHECKPOINT, DRAFT, ENGINE, Shape
from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store, remove_tree

_CONFIG = "trtllm_config.yaml"
_STAMP = "bundle.json"


@dataclass(frozen=True)
class Bundle:
    """A rendered deployment."""

    folder: Path
    size: int
    """Bytes of all its files; linked ones take no room of their own."""
    reused: bool
    """It was there already, rendered from the same."""
    seconds: float


@dataclass(frozen=True)
class Part:
    """An artifact's files in a bundle."""

    name: str
    """Its folder in the bundle."""
    target: str
    """Where the server's container finds it."""
    artifact: Artifact


def render(
    recipe: Recipe,
    catalog: Catalog,
    artifacts: Mapping[str, Artifact],
    *,
    digests: Mapping[str, str],
    store: Store,
    dist: Path,
    observer: Observer = silence,
) -> Bundle:
    """Write a recipe's deployment.

    Args:
        recipe: The recipe, with its commits.
        catalog: Where its image is described.
        artifacts: What each step left, by the step's name.
        digests: What the lock says of images.
        store: Where the artifacts lie.
        dist: The folder of all deployments.
        observer: Hears of files that must be copied, because dist lies on another file system than the store.

    Raises:
        DiskFullError: Where there is no room for such a copy.
    """
    started = time.monotonic()
    shape = Shape(recipe, catalog)
    parts = _parts(shape, artifacts)
    texts = _texts(shape, parts, artifacts, digests)
    stamp = _stamp(recipe, parts, texts)
    folder = dist / recipe.name
    with store.lock(_lock_of(folder), lambda: None):
        reused = _stamp_of(folder) == stamp and _is_whole(folder, parts)
        if not reused:
            with machine_faults(f"writing {folder}"):
                _write(folder, parts, texts, stamp, observer)
            for part in parts:  # a new link changes what the file system says of a file
                store.remember(part.artifact)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Bundle(folder, size, reused, time.monotonic() - started)


def _parts(shape: Shape, artifacts: Mapping[str, Artifact]) -> tuple[Part, ...]:
    names = {CHECKPOINT: "model", ENGINE: "trtllm_engine", DRAFT: "draft"}
    return tuple(
        Part(names[mount.target], _place(shape.recipe, mount.target), artifacts[mount.step])
        for mount in shape.served_inputs
    )


def _served(recipe: Recipe) -> str:
    """Name what trtllm-serve opens: the engine, or the checkpoint."""
    return ENGINE if recipe.backend == "tensorrt" else CHECKPOINT


def _place(recipe: Recipe, target: str) -> str:
    """Where the server's container finds an artifact; clients see the last part of what is served as its name."""
    return f"/models/{recipe.name}" if target == _served(recipe) else target


def _texts(
    shape: Shape, parts: tuple[Part, ...], artifacts: Mapping[str, Artifact], digests: Mapping[str, str]
) -> dict[str, str]:
    """Render every file that is not linked, by name."""
    recipe = shape.recipe
    quality, performance = (
        _report(artifacts, "verify", "quality.json"),
        _report(artifacts, "benchmark", "performance.json"),
    )
    digest = digests.get(recipe.image)
    facts = {
        "recipe": recipe,
        "model": recipe.model.repo if isinstance(recipe.model, HubModel) else recipe.name,
        "license": recipe.model.license if isinstance(recipe.model, HubModel) else None,
        "commit": recipe.model.revision if isinstance(recipe.model, HubModel) else None,
        "image": f"{shape.image.reference}@{digest}" if digest else shape.image.reference,
        "image_pinned": digest is not None,
        "tensorrt_llm": shape.image.tensorrt_llm,
        "gpus": shape.gpus if shape.target.gpu else 1,  # trtllm-serve never runs without one
        "made_without_gpu": shape.target.gpu is None,
        "nodes": shape.target.nodes,
        "parts": parts,
        "command": _command(shape),
        "config_name": _CONFIG,
        "quality": quality,
        "performance": performance,
        "question": _question(recipe),
        "version": __version__,
    }
    environment = _environment()
    texts = {name: environment.get_template(f"{name}.j2").render(facts) for name in ("compose.yaml", "README.md")}
    texts[_CONFIG] = config_text(llm_api_config(recipe, shape.image))
    texts |= {
        name: json.dumps(report, indent=1) + "\n"
        for name, report in (("quality.json", quality), ("performance.json", performance))
        if report
    }
    return texts


def _command(shape: Shape) -> tuple[str, ...]:
    recipe = shape.recipe
    return serve_command(
        recipe,
        shape.image,
        shape.catalog,
        model=_place(recipe, _served(recipe)),
        tokenizer=CHECKPOINT if recipe.backend == "tensorrt" else None,
        config=f"/etc/orchestrator/{_CONFIG}",
        host="0.0.0.0",  # noqa: S104 - inside the container; Compose publishes it on loopback only
        port=recipe.serve.port,
    )


def _report(artifacts: Mapping[str, Artifact], step: str, name: str) -> dict[str, Any] | None:
    if step not in artifacts:
        return None
    found: dict[str, Any] = json.loads((artifacts[step].folder / name).read_bytes())
    return found


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator.bundle"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - YAML and Markdown; values are quoted as JSON where they stand in YAML
    )
    environment.filters["measured"] = _measured
    environment.filters["json"] = _quoted
    return environment


def _quoted(value: object) -> str:
    """Write a value for Compose: JSON is YAML, but Compose takes `$NAME` in it for a variable of the shell."""
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")


def _question(recipe: Recipe) -> str:
    """Write what a person pastes after `curl --data`."""
    request = {
        "model": recipe.serve.served_model_name or recipe.name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 64,
    }
    return shlex.quote(json.dumps(request, ensure_ascii=False))


def _measured(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.1f}{unit}"


def _stamp(recipe: Recipe, parts: tuple[Part, ...], texts: Mapping[str, str]) -> str:
    """Name everything that a bundle was rendered from."""
    fields = {
        "format": 1,
        "recipe": recipe.name,
        "parts": {part.name: part.artifact.digest for part in parts},
        "texts": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())},
    }
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _stamp_of(folder: Path) -> str | None:
    try:
        return (folder / _STAMP).read_text(encoding="utf-8")
    except OSError:
        return None


def _is_whole(folder: Path, parts: tuple[Part, ...]) -> bool:
    """Tell whether a bundle is all there, its artifacts unchanged; its texts are a person's to edit."""
    try:
        listed = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        written = (folder / _STAMP).stat().st_ctime_ns
    except (OSError, ValueError):
        return False
    there = all((folder / line.partition("  ")[2]).is_file() for line in listed)
    return there and all(is_linked_or_copied(part.artifact, folder / part.name, written) for part in parts)


def _lock_of(folder: Path) -> str:
    """Name the lock of a bundle's place."""
    return f"dist-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _write(folder: Path, parts: tuple[Part, ...], texts: Mapping[str, str], stamp: str, observer: Observer) -> None:
    def copying(artifact: Artifact) -> None:
        free = shutil.disk_usage(folder.parent).free
        told = f"{folder} lies on another file system than the store: {artifact.size / 1e9:.1f} GB cannot be linked"
        if free < artifact.size:
            message = f"{told}, and only {free / 1e9:.1f} GB are free for a copy"
            raise DiskFullError(message, hint="free some space, or put both on one file system: --store, --dist")
        observer(Warned(f"{told} and are copied"))

    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(folder)
    fresh = beside(folder)
    try:
        fresh.mkdir()
        for part in parts:
            link_files(part.artifact, fresh / part.name, copying)
        for name, text in {**texts, _STAMP: stamp}.items():
            (fresh / name).write_text(text, encoding="utf-8")
        (fresh / "SHA256SUMS").write_text(_sums(parts, {**texts, _STAMP: stamp}), encoding="utf-8")
        swap_in(fresh, folder)
    finally:
        if fresh.exists():
            remove_tree(fresh)


def _sums(parts: tuple[Part, ...], texts: Mapping[str, str]) -> str:
    """List every file as `sha256sum --check` reads it; artifacts were hashed when they were published."""
    sums = {f"{part.name}/{file.path}": file.sha256 for part in parts for file in part.artifact.files}
    sums |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
