"""Finds out before a download whether this account may have a gated model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.app.forecast import forecast
from orchestrator.app.make_plan import Plan
from orchestrator.app.settings import Settings
from orchestrator.errors import HubAccessError
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.steps.download import TOKEN
from orchestrator.values import frozen

_PUBLISHED = "-published"
"""The ending of the name of a recipe's twin that takes the checkpoint that a vendor quantized."""


@frozen
class GatedModel:
    """A recipe's model that its owner gives only to accounts that accepted the licence."""

    repo: str
    license: str
    twin: str | None
    """A recipe of the same model and format that needs no account."""

    @property
    def condition(self) -> str:
        """What a user does to get it."""
        page = f"https://huggingface.co/{self.repo}"
        return f"accept its licence ({self.license}) at {page}, then set HF_TOKEN or run `hf auth login`"

    def __str__(self) -> str:
        """Say it in one sentence."""
        other = f"; {self.twin} needs no account" if self.twin else ""
        return f"{self.repo} is gated: {self.condition}{other}"


def gated_model(recipe: Recipe, book: RecipeBook) -> GatedModel | None:
    """Return the recipe's model if it is gated."""
    model = recipe.model
    if not isinstance(model, HubModel) or not model.gated:
        return None
    twin = f"{recipe.name}{_PUBLISHED}"
    return GatedModel(model.repo, model.license, twin if book.file_of(twin) else None)


def token_is_there(environment: Mapping[str, str], home: Path) -> bool:
    """Look for a token in the places that the Hub's client reads. The value is not used."""
    given = environment.get
    folder = Path(given("HF_HOME") or Path(given("XDG_CACHE_HOME") or home / ".cache") / "huggingface")
    file = Path(given("HF_TOKEN_PATH") or folder / "token")
    return bool(given("HF_TOKEN") or given("HUGGING_FACE_HUB_TOKEN")) or file.is_file()


def require_token(settings: Settings, plan: Plan) -> None:
    """Check before a gated model is downloaded that there is a token. A mirror (`HF_ENDPOINT`) may need none.

    Raises:
        HubAccessError: There is none.
    """
    gated, environment = gated_model(plan.recipe, settings.book), settings.environment
    home = Path(environment.get("HOME") or "/")
    if gated is None or environment.get("HF_ENDPOINT") or token_is_there(environment, home):
        return
    steps = forecast(plan, settings.store, Path())
    if any(TOKEN in one.placed.step.secrets and one.decision != "reuse" for one in steps):
        message = f"{gated.repo} is gated, and this machine has no token for the Hub"
        other = f"; or build {gated.twin}, which needs no account" if gated.twin else ""
        raise HubAccessError(message, hint=gated.condition + other)
