"""Converts a comparison to JSON. Names and units are those of `orchestrator estimate`."""

from __future__ import annotations

from typing import Any

from orchestrator.pages.advice import advice
from orchestrator.planner.comparison import Comparison, Row
from orchestrator.planner.drafts import Drafts
from orchestrator.planner.serving_figures import to_document
from orchestrator.planner.users import queue_document


def document(comparison: Comparison, drafts: Drafts | None) -> dict[str, Any]:
    """Convert a comparison."""
    terms, shape = comparison.terms, comparison.subject.shape
    return {
        "model": comparison.subject.name,
        "sizes_from": comparison.subject.basis,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "target": terms.target_name,
        "engine": terms.runtime,
        "workload": {
            "input_tokens": terms.context - terms.output_tokens,
            "output_tokens": terms.output_tokens,
            "concurrency": terms.batch if terms.rate is None else None,
            "rate": terms.rate,
        },
        "kv_dtype": terms.kv_dtype,
        "available_bytes": comparison.available_bytes,
        "formats": [_row(comparison, row) for row in comparison.rows],
        "drafts": _drafts(drafts) if drafts else None,
    }


def _row(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "format": row.format,
        **to_document(row.figures),
        "fits": row.usable,
        "decode_ceiling_tokens_per_s": row.figures.ceiling,
        "context_by_batch": {reach.batch: reach.context for reach in row.reaches},
        "users": queue_document(row.figures.queue) if row.figures.queue else None,
        "users_within_targets": row.users,
        "recipes": list(row.recipes),
        "refused": row.refused or None,
        "advice": advice(comparison, row),
    }


def _drafts(drafts: Drafts) -> dict[str, Any]:
    return {
        "format": drafts.row.format,
        "draft_length": drafts.draft_length,
        "draft_cost_ratio": drafts.draft_cost,
        "check_cost_ratio": drafts.check_cost,
        "wanted": [
            {
                "tokens_per_s": wanted.speed,
                "tokens_per_step": wanted.with_costs,
                "tokens_per_step_if_free": wanted.tokens_per_step,
                "acceptance": wanted.acceptance,
            }
            for wanted in drafts.wanted
        ],
    }
