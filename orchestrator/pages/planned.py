"""Gathers the content of a plan's page from a recipe and its estimate."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.catalog.target import Target
from orchestrator.errors import Refusal
from orchestrator.pages.page import Notice, PlanFacts
from orchestrator.pages.rows import FIGURE_NAMES, draft_words
from orchestrator.planner.asking import ENGINE, usual_context
from orchestrator.planner.comparison import Comparison, Subject, Terms, compare
from orchestrator.planner.estimate import Estimate
from orchestrator.planner.known import known_model
from orchestrator.planner.serving import gpus_of, room_per_gpu, room_words
from orchestrator.planner.verdict import verdict_of
from orchestrator.recipe.model import Recipe


def plan_facts(
    recipe: Recipe,
    target: Target,
    estimate: Estimate,
    refusals: Sequence[Refusal],
    warnings: Sequence[Refusal],
) -> PlanFacts:
    """Gather what the page of a plan says."""
    return PlanFacts(
        name=recipe.name,
        description=recipe.description,
        target=recipe.target,
        verdict=verdict_of(refusals, warnings),
        works=not refusals,
        notices=tuple(Notice(one.code, one.message, one.hint) for one in (*refusals, *warnings)),
        figures=tuple(
            (FIGURE_NAMES[name], str(figure), "; ".join(filter(None, (figure.conditions, figure.basis))))
            for name, figure in estimate.figures.items()
        ),
        stages=estimate.stages,
        speeds=estimate.speeds,
        drafts=draft_words(estimate.drafted) if estimate.drafted else None,
        room=room_per_gpu(target),
        has=room_words(target, recipe.target),
        gpus=gpus_of(target),
        format=recipe.quantization.format,
    )


def comparison_for(recipe: Recipe, target: Target) -> Comparison | None:
    """Put a recipe's format beside the others, as its server would run them; None where its sizes are not known."""
    known = known_model(recipe)
    if known is None:
        return None
    subject = Subject(recipe.name, known.shape, known.basis, {recipe.quantization.format: known.served})
    gpus = min(recipe.serve.tensor_parallel_size, gpus_of(target))
    context = usual_context(recipe, known)
    return compare(subject, Terms(target, recipe.target, ENGINE, 1, context, known.kv_dtype, gpus))
