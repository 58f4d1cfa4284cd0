"""Gathers a bundle's facts once, from the recipe, the catalogue, the lock and the artifacts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from orchestrator.bundle.facts import (
    DRAFT_FOLDER,
    DRAFT_PLACE,
    ENGINE_FOLDER,
    MODEL_FOLDER,
    BaseImage,
    Facts,
    License,
    Part,
)
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Architecture
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.prediction import predict
from orchestrator.recipe.lock import LockedImage
from orchestrator.recipe.model import GeneratedModel, HubModel, LocalModel, Recipe
from orchestrator.serving.command import serve_options
from orchestrator.serving.config import config_text, llm_api_config
from orchestrator.steps.shape import CHECKPOINT, DRAFT, ENGINE, Shape
from orchestrator.store.artifact import Artifact

_NAMES = {
    CHECKPOINT: MODEL_FOLDER,
    ENGINE: f"{MODEL_FOLDER}/{ENGINE_FOLDER}",  # the path in a multi-LLM NIM 1.x
    DRAFT: f"{MODEL_FOLDER}/{DRAFT_FOLDER}",
}
_LICENSES = re.compile(r"(LICEN[SC]E|COPYING)([._-].*)?", re.IGNORECASE)


def gather(
    recipe: Recipe,
    catalog: Catalog,
    artifacts: Mapping[str, Artifact],
    *,
    images: Mapping[str, LockedImage],
) -> Facts:
    """Gather all facts of a bundle.

    Args:
        recipe: The recipe, with its commits.
        catalog: The source of its image and target.
        artifacts: The artifact of each step, by the step's name.
        images: The image digests of the lock.
    """
    shape = Shape(recipe, catalog)
    locked = images.get(recipe.image)
    return Facts(
        recipe=recipe,
        shape=shape,
        image=BaseImage(
            shape.image.reference,
            locked.index if locked else None,
            _digests(locked),
            shape.image.tensorrt_llm,
        ),
        parts=tuple(_part(recipe, mount.target, artifacts[mount.step]) for mount in shape.served_inputs),
        arguments=serve_options(recipe, shape.image, catalog),
        config=config_text(llm_api_config(recipe, shape.image, draft=DRAFT_PLACE)),
        quality=_report(artifacts, "verify", "quality.json"),
        performance=_report(artifacts, "benchmark", "performance.json"),
        prediction=predict(model_on_target(recipe, shape.target)),
        license=_license(shape, artifacts),
        model_config=_read_json(artifacts[shape.checkpoint_step], "config.json"),
        engine_config=_read_json(artifacts["engine"], "config.json") if recipe.backend == "tensorrt" else None,
    )


def _digests(locked: LockedImage | None) -> Mapping[Architecture, str]:
    known: dict[Architecture, str | None] = (
        {"amd64": locked.amd64, "arm64": locked.arm64} if locked else {"amd64": None, "arm64": None}
    )
    return {architecture: digest for architecture, digest in known.items() if digest}


def _part(recipe: Recipe, target: str, artifact: Artifact) -> Part:
    """Leave out the weights of a checkpoint if there is a TensorRT engine, which needs only the tokenizer."""
    files = artifact.files
    if target == CHECKPOINT and recipe.backend == "tensorrt":
        files = tuple(file for file in files if not file.path.endswith((".safetensors", ".safetensors.index.json")))
    return Part(_NAMES[target], artifact, files)


def _report(artifacts: Mapping[str, Artifact], step: str, name: str) -> dict[str, Any] | None:
    return _read_json(artifacts[step], name) if step in artifacts else None


def _read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact.folder / name).read_bytes())
    return found


def _license(shape: Shape, artifacts: Mapping[str, Artifact]) -> License:
    name, text = _terms(shape.recipe)
    model = shape.recipe.model
    page = f"https://huggingface.co/{model.repo}/{{kind}}/{model.revision}" if isinstance(model, HubModel) else ""
    for step in dict.fromkeys((shape.checkpoint_step, shape.model_step)):
        for file in artifacts[step].files if step in artifacts else ():
            if _LICENSES.fullmatch(file.path):
                text = (artifacts[step].folder / file.path).read_text(encoding="utf-8", errors="replace")
                url = f"{page.format(kind='blob')}/{file.path}" if page else ""
                return License(name, url, file.path, text)
    return License(name, page.format(kind="tree"), "", text)


def _terms(recipe: Recipe) -> tuple[str, str]:
    """Return a model's licence, with a sentence for a missing file."""
    match recipe.model:
        case HubModel(license=name, repo=repo):
            return (
                name,
                f"The model {repo} is published under the licence `{name}`; its terms are where it is published.",
            )
        case LocalModel():
            return "unknown", "The model comes from a folder, and nothing in it says under which licence."
        case GeneratedModel():
            return "none", "The model was made from a seed by the recipe; nobody has written or trained it."
