"""Lists what a recipe downloads from the Hub, for its lock: models, and text for calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.executors.job import Inside
from orchestrator.hub.patterns import MODEL_FILES, RepoType
from orchestrator.hub.trust import Trusted
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.steps.calibration import calibration_dataset
from orchestrator.steps.held_out import held_out_dataset
from orchestrator.steps.step import FILES, Step
from orchestrator.values import frozen

_LISTING = "files.json"


@frozen
class Source:
    """One repository and its file patterns."""

    repo: str
    revision: str
    kind: RepoType = "model"
    include: tuple[str, ...] = MODEL_FILES
    trusted: Trusted | None = None


def sources(recipe: Recipe) -> Mapping[str, Source]:
    """Return every source by the step that downloads it, in the order of the run."""
    found: dict[str, Source] = {}
    if isinstance(recipe.model, HubModel):
        found["download"] = _of_model(recipe.model)
    draft = getattr(recipe.serve.speculative, "draft", None)
    if isinstance(draft, HubModel):
        found["download-draft"] = _of_model(draft)
    dataset = calibration_dataset(recipe)
    if dataset:
        revision = recipe.quantization.calibration.revision
        found["download-calibration"] = Source(dataset.repo, revision, "dataset", (dataset.file,))
    compared = held_out_dataset(recipe)
    if compared and recipe.checks.held_out:
        found["download-held-out"] = Source(compared.repo, recipe.checks.held_out.revision, "dataset", (compared.file,))
    return found


def with_listing(step: Step, listing: str) -> Step:
    """Give a download the list of its files, so that it fetches only these bytes."""
    return replace(step, argv=(*step.argv, "--files", Inside(FILES, _LISTING)), files={**step.files, _LISTING: listing})


def listing_of(step: Step) -> str | None:
    """Return the list of a download; None if it must ask the Hub."""
    return step.files.get(_LISTING)


def _of_model(model: HubModel) -> Source:
    trust = model.trust
    if trust is None:
        return Source(model.repo, model.revision)
    trusted = Trusted(trust.commit, trust.files, trust.remote_code)
    return Source(model.repo, model.revision, include=(*MODEL_FILES, *trusted.patterns), trusted=trusted)
