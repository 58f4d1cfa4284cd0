"""Formats a comparison as Markdown, for an issue or a README."""

from __future__ import annotations

from orchestrator.pages.advice import advice
from orchestrator.pages.cells import FORMAT_HEADS, conditions, format_cells
from orchestrator.pages.draft_sentences import draft_sentences
from orchestrator.planner.comparison import Comparison
from orchestrator.planner.drafts import Drafts

_HEADS = (*FORMAT_HEADS, "when to use it")
_NUMBERS = range(2, len(FORMAT_HEADS))


def comparison_text(comparison: Comparison, drafts: Drafts | None) -> str:
    """Write a comparison as one table, and what drafts must do below it."""
    terms = comparison.terms
    lines = [
        f"{comparison.subject.name} on {terms.target_name} ({conditions(terms)})",
        "",
        _line(_HEADS),
        _line(tuple("--:" if number in _NUMBERS else "---" for number in range(len(_HEADS)))),
        *(_line((*format_cells(row), advice(comparison, row))) for row in comparison.rows),
    ]
    if drafts:
        lines += ["", *(f"- {line}" for line in draft_sentences(drafts))]
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
