"""Declares the downloads from the Hub of the model and its draft model. Only downloads have network and a token."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.steps.shape import HF_CHECKPOINT, OUT, Shape, payload
from orchestrator.steps.step import Step

TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a secret, not one


def build(recipe: Recipe, _catalog: Catalog) -> Step | None:
    """Declare the download of the model."""
    return download("download", recipe.model) if isinstance(recipe.model, HubModel) else None


def build_draft(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the download of the draft model."""
    draft = Shape(recipe, catalog).draft
    return download("download-draft", draft) if draft else None


def download(name: str, model: HubModel) -> Step:
    """Declare the download of any model."""
    return Step(
        name=name,
        argv=(*payload("download", {"repo": model.repo, "revision": model.revision, "output": OUT}), *_trust(model)),
        outputs=HF_CHECKPOINT,
        needs_code=True,
        secrets=(TOKEN,),
        network=True,
    )


def _trust(model: HubModel) -> tuple[str, ...]:
    trust = model.trust
    if trust is None:
        return ()
    files = ("--trust-files", *trust.files) if trust.files else ()
    code = ("--trust-remote-code",) if trust.remote_code else ()
    return ("--trust-commit", trust.commit, *files, *code)
