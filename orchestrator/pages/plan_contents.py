"""Gathers the content of a plan's page from a recipe and its estimate."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import Refusal
from orchestrator.pages.cells import FIGURE_NAMES, draft_words
from orchestrator.pages.page import Notice, PlanContents
from orchestrator.planner.comparison import Comparison, Subject, Terms, compare
from orchestrator.planner.estimate import Estimate
from orchestrator.planner.model_on_target import ModelOnTarget
from orchestrator.planner.serving import gpus_of, memory_per_gpu, memory_words
from orchestrator.planner.verdict import verdict_of


def plan_contents(
    model: ModelOnTarget,
    estimate: Estimate,
    refusals: Sequence[Refusal],
    warnings: Sequence[Refusal],
    measured: tuple[tuple[str, ...], ...] = (),
) -> PlanContents:
    """Gather what the page of a plan says; `measured` are rows of `MEASURED_HEADS`."""
    recipe, target = model.recipe, model.target
    verdict = verdict_of(refusals, warnings)
    return PlanContents(
        name=recipe.name,
        description=recipe.description,
        target=recipe.target,
        verdict=verdict,
        tone="no" if refusals else "maybe" if verdict == "may not fit" else "yes",
        notices=tuple(Notice(one.code, one.message, one.hint) for one in (*refusals, *warnings)),
        figures=tuple(
            (FIGURE_NAMES[name], str(figure), "; ".join(filter(None, (figure.conditions, figure.basis))))
            for name, figure in estimate.figures.items()
        ),
        stages=estimate.stages,
        speeds=estimate.speeds,
        drafts=draft_words(estimate.draft_speed) if estimate.draft_speed else None,
        available=memory_per_gpu(target),
        has=memory_words(target, recipe.target),
        gpus=gpus_of(target),
        format=recipe.quantization.format,
        users=estimate.users,
        measured=measured,
    )


def comparison_for(model: ModelOnTarget) -> Comparison | None:
    """Put a recipe's format beside the others, as its server would run them; None where its sizes are not known."""
    known, serving, recipe = model.known, model.serving, model.recipe
    if known is None or serving is None:
        return None
    subject = Subject(recipe.name, known.shape, known.basis, {recipe.quantization.format: known.served})
    terms = Terms(
        model.target,
        recipe.target,
        serving.runtime,
        serving.batch,
        serving.context,
        serving.kv_dtype,
        serving.gpus,
        serving.output_tokens,
    )
    return compare(subject, terms)
