"""Finds the model of a new recipe: on the Hub, in a local folder, or as a config.json alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.app.model_files import hub_files, local_files, read_object
from orchestrator.app.settings import Settings
from orchestrator.errors import ConfigInvalidError, HubAccessError
from orchestrator.models import ModelShape, kind_of
from orchestrator.models.files import CONFIG, QUANT_CONFIG, ModelFiles
from orchestrator.planner.figures import in_words
from orchestrator.planner.known import known_repo
from orchestrator.planner.scheme import Scheme, scheme_of_files
from orchestrator.recipe.model import HubModel, LocalModel
from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.hub.about import About

_REPO = re.compile(r"(?:https://huggingface\.co/)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")

_CONFIG = "from its config.json"
_ACTIVE = "what one token reads, calculated from its config.json"


@frozen
class FoundModel:
    """What is known of a model without its weights."""

    title: str
    """Its display name."""
    model: HubModel | LocalModel
    reasons: Mapping[str, str]
    """The source of each value, by key of `model`."""
    shape: ModelShape | None
    """None if config.json cannot be read."""
    declared: Scheme | None
    """The published quantization; None: not quantized."""
    brings_code: bool
    """Its config.json names Python files of the repository."""


def look_up_model(settings: Settings, what: str, revision: str) -> FoundModel:
    """Find the model: local files first, then the Hub.

    Raises:
        ConfigInvalidError: It is neither, or its config.json describes no model.
        ArchitectureUnknownError: Its architecture is not supported.
        HubError: The Hub does not answer, or has no such model.
    """
    place = Path(what).expanduser()
    if place.exists() or place.suffix == ".json" or what.startswith((".", "/", "~")):
        return _of_place(settings, place)
    repo = _REPO.fullmatch(what)
    if repo is None:
        message = f"{what!r:.200} is not a folder, a config.json or a model of the Hub"
        raise ConfigInvalidError(message, hint="name a model as OWNER/NAME")
    return _of_hub(settings, repo["repo"], revision)


def _of_place(settings: Settings, place: Path) -> FoundModel:
    """Read a folder in the Hub's layout, or a config.json without weights."""
    files = local_files(place)
    file = place / CONFIG if place.is_dir() else place
    folder, shape = file.parent.resolve(), files.shape
    if not place.is_dir() and file.name == CONFIG and (file.parent / QUANT_CONFIG).is_file():
        files = replace(files, quantization=read_object(file.parent / QUANT_CONFIG))
    parameters, basis = _parameters(shape, _source_of(files, "its files"))
    without = "only a config.json was read; put the weights into this folder, in safetensors"
    model = LocalModel(
        path=_recipe_path(settings, folder),
        architecture=shape.architecture,
        parameters=parameters,
        active_parameters=_active(shape),
    )
    reasons = {
        "path": "" if files.weights else without,
        "architecture": _CONFIG,
        "parameters": basis,
        "active_parameters": _ACTIVE,
    }
    return FoundModel(_title(file), model, reasons, shape, scheme_of_files(files), files.brings_code)


def _of_hub(settings: Settings, repo: str, revision: str) -> FoundModel:
    from orchestrator.hub.about import about  # noqa: PLC0415 - loads the Hub's client

    found = about(repo, revision)
    where = f"{repo}@{found.commit[:12]}"
    files = _readable(settings, found)
    shape: ModelShape | None
    if files is not None:
        shape, declared, source = files.shape, scheme_of_files(files), _CONFIG
        parameters, basis = _parameters(shape, _source_of(files, "the Hub, in its safetensors files"))
    else:
        shape, declared = _public(found, where)
        source = "from the public part of its page; its config.json is gated"
        parameters, basis = _public_parameters(shape, None if declared else found.counted)
    architecture = shape.architecture if shape else _architecture(found.public, where)
    model = HubModel(
        repo=repo,
        revision=found.commit,
        license=found.license or "unknown",
        gated=found.gated,
        architecture=architecture,
        parameters=parameters,
        active_parameters=_active(shape),
    )
    reasons = {
        "revision": f"the commit of `{revision}` when this recipe was written" if revision != found.commit else "",
        "license": "from its model card"
        if found.license
        else "its model card names none; read the card before you serve the model",
        "gated": "its owner must grant you access: ask on its page of the Hub, then log in (`hf auth login`)",
        "architecture": source,
        "parameters": basis,
        "active_parameters": _ACTIVE,
    }
    brings_code = files.brings_code if files else "auto_map" in found.public
    return FoundModel(repo.partition("/")[2], model, reasons, shape, declared, brings_code)


def _readable(settings: Settings, found: About) -> ModelFiles | None:
    """Read the files of a model; None if it is gated and this account has no access."""
    try:
        return hub_files(settings, found.repo, found.commit)
    except HubAccessError:
        if not found.gated:
            raise
        return None


def _public(found: About, where: str) -> tuple[ModelShape | None, Scheme | None]:
    """Take the sizes of a gated model from the catalogue, if it has them.

    Raises:
        HubAccessError: Its quantization is described only in its own files.
    """
    known = known_repo(found.repo)
    declared = known.stored if known else None
    if found.quantized and declared is None:
        message = f"{where} is gated and quantized, and only its own files describe the quantization"
        hint = f"ask for access on https://huggingface.co/{found.repo}, then log in (`hf auth login`) or set HF_TOKEN"
        raise HubAccessError(message, hint=hint)
    return known.shape if known else None, declared


def _architecture(public: Mapping[str, Any], where: str) -> str:
    """Read the architecture that the Hub shows of a gated model.

    Raises:
        HubAccessError: The Hub shows none.
        ArchitectureUnknownError: It is not supported.
    """
    shown = public.get("architectures")
    if not isinstance(shown, list) or len(shown) != 1:
        message = f"{where} is gated, and the Hub does not show its architecture"
        raise HubAccessError(message, hint="ask for access on its page, then log in (`hf auth login`) or set HF_TOKEN")
    kind_of(str(shown[0]), where)
    return str(shown[0])


def _source_of(files: ModelFiles, whose: str) -> str:
    """Name the source of a number of parameters."""
    if files.weights is not None:
        return f"as counted by the headers of {whose}"
    return f"calculated from its config.json{'' if files.shape.exact else '; not exact, only its weights decide'}"


def _parameters(shape: ModelShape, source: str) -> tuple[float, str]:
    return float(shape.parameters), f"{in_words(shape.parameters)}, {source}"


def _public_parameters(shape: ModelShape | None, counted: int | None) -> tuple[float, str]:
    """Return the number of parameters of a gated model: as the Hub counts them, else by the catalogue."""
    if counted:
        return float(counted), f"{in_words(counted)}, as counted by the Hub, in its safetensors files"
    if shape is None:
        message = "the model is gated, and the Hub does not show how many parameters it has"
        raise HubAccessError(message, hint="ask for access on its page, then log in (`hf auth login`) or set HF_TOKEN")
    return _parameters(shape, "calculated from the catalogue's config.json")


def _active(shape: ModelShape | None) -> float | None:
    return float(shape.active_parameters) if shape and shape.is_moe else None


def _recipe_path(settings: Settings, folder: Path) -> str:
    """Write a folder's path as a recipe does: relative to the project if it lies inside."""
    root = settings.project.root.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) and folder != root else str(folder)


def _title(file: Path) -> str:
    """Name a local model after its folder, or after the repository if the folder is in the Hub's cache."""
    if file.name != "config.json":
        return file.stem.removesuffix("_config").rpartition("--")[2]
    folder = file.parent.resolve()
    named = folder.parent.parent if folder.parent.name == "snapshots" else folder
    return named.name.rpartition("--")[2] or "model"
