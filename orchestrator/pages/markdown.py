"""A comparison as Markdown, for an issue or a README."""

from __future__ import annotations

from orchestrator.pages.comparison import Comparison, Row
from orchestrator.pages.drafts import Drafts, words
from orchestrator.pages.page import NOTHING, band_words
from orchestrator.planner.figures import gigabytes

_HEADS = (
    "format",
    "fits",
    "weights",
    "longest context",
    "most texts",
    "decode, tokens/s",
    "its limit",
    "when to use it",
)
_NUMBERS = range(2, 7)


def comparison_text(comparison: Comparison, drafts: Drafts | None) -> str:
    """Write a comparison as one table, and what drafts must do below it."""
    terms = comparison.terms
    texts = "one text" if terms.batch == 1 else f"{terms.batch} texts"
    asked = f"{terms.engine}, {texts} of {terms.context:,} tokens, KV cache in {terms.kv_dtype.upper()}"
    lines = [
        f"{comparison.subject.name} on {terms.target_name} ({asked})",
        "",
        _line(_HEADS),
        _line(tuple("--:" if number in _NUMBERS else "---" for number in range(len(_HEADS)))),
        *(_line(_cells(row)) for row in comparison.rows),
    ]
    if drafts:
        lines += ["", *(f"- {line}" for line in words(drafts))]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    found = row.outlook
    return (
        row.label,
        "yes" if found.fits else "no",
        gigabytes(found.weights_bytes),
        f"{found.max_context:,}" if found.max_context else "none",
        f"{found.max_batch:,}" if found.max_batch else "none",
        band_words(found.decode),
        f"{row.ceiling:.1f}" if row.ceiling else NOTHING,
        row.advice,
    )


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
