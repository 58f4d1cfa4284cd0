"""Finds the sizes of a recipe's models: by headers that are on this machine, else in the catalogue."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache

from orchestrator.app.model_files import hub_files, local_files, remembered_files
from orchestrator.app.settings import Settings
from orchestrator.errors import ArchitectureUnknownError, HubError
from orchestrator.models.files import CONFIG, ModelFiles
from orchestrator.planner.known import Find, Sizes, in_catalogue
from orchestrator.planner.scheme import scheme_of, scheme_of_files
from orchestrator.recipe.lock import hub_models
from orchestrator.recipe.model import HubModel, LocalModel, Recipe


def sizes_of(settings: Settings) -> Find:
    """Return the look-up of a command. It uses no network; `fetch_sizes` does."""

    @cache  # a plan asks for the same model several times
    def find(model: HubModel | LocalModel) -> Sizes | None:
        files = _files(settings, model)
        return (_sizes(files) if files else None) or in_catalogue(model)

    return find


def _files(settings: Settings, model: HubModel | LocalModel) -> ModelFiles | None:
    if isinstance(model, HubModel):
        return remembered_files(settings, model.repo, model.revision)
    folder = settings.project.root / model.path
    return local_files(folder) if (folder / CONFIG).is_file() else None


def _sizes(files: ModelFiles) -> Sizes | None:
    try:
        if files.weights is None:
            return Sizes(files.shape, scheme_of_files(files), files.where)
        stored = scheme_of_files(files) or replace(scheme_of("bf16"), as_stored=True)
        return Sizes(files.shape, stored, f"the headers of {files.where}")
    except ArchitectureUnknownError:  # a draft that is no language model of its own, such as EAGLE's
        return None


def fetch_sizes(settings: Settings, recipe: Recipe) -> None:
    """Read the headers of models that the catalogue does not have. Without network, their parameters are counted.

    Raises:
        CheckpointError: A header contradicts itself, its file or the index.
        ModelUnsupportedError: A repository has GGUF files only.
    """
    for model in () if settings.is_offline else hub_models(recipe):
        if in_catalogue(model) is None and remembered_files(settings, model.repo, model.revision) is None:
            with suppress(HubError):
                hub_files(settings, model.repo, model.revision)
