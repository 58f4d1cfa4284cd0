"""Summarizes a recipe for lists: size, fit and speed. It is a part of an estimate, so that it is quick."""

from __future__ import annotations

from orchestrator.planner.estimate import decode_of
from orchestrator.planner.figures import Figure
from orchestrator.planner.known import Find, in_catalogue
from orchestrator.planner.rule_input import Lookup, rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.planner.verdict import Verdict, verdict_of
from orchestrator.recipe.model import Recipe
from orchestrator.values import frozen


@frozen
class Summary:
    """One recipe on its target."""

    verdict: Verdict
    refused: tuple[str, ...]
    """The codes of its refusals."""
    weights: Figure
    """The size of the served weights."""
    decode: Figure | None
    """Tokens per second of one request; None if it is refused, not served, or of unknown sizes."""

    @property
    def fits(self) -> bool:
        """Whether no plan refuses it."""
        return not self.refused


def summary_of(recipe: Recipe, catalog: Lookup, find: Find = in_catalogue) -> Summary:
    """Summarize one recipe. The figures are those of its plan.

    Raises:
        BadInputError: The recipe names a target or an image that the catalogue does not have.
    """
    given = rule_input(recipe, catalog, find)
    refused = refusals(given)
    return Summary(
        verdict=verdict_of(refused, warnings(given)),
        refused=tuple(dict.fromkeys(refusal.code for refusal in refused)),
        weights=given.model.weights,
        decode=None if refused else decode_of(given.model),
    )
