"""A comparison for programs: names and units are those of `orchestrator estimate`."""

from __future__ import annotations

from typing import Any

from orchestrator.pages.comparison import Comparison, Row
from orchestrator.pages.drafts import Drafts
from orchestrator.planner.speed import Band


def document(comparison: Comparison, drafts: Drafts | None) -> dict[str, Any]:
    """Spell a comparison."""
    terms, shape = comparison.terms, comparison.subject.shape
    return {
        "model": comparison.subject.name,
        "sizes_from": comparison.subject.basis,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "target": terms.target_name,
        "engine": terms.engine,
        "batch": terms.batch,
        "context": terms.context,
        "kv_dtype": terms.kv_dtype,
        "room_bytes": round(comparison.room),
        "formats": [_row(row) for row in comparison.rows],
        "drafts": _drafts(drafts) if drafts else None,
    }


def _row(row: Row) -> dict[str, Any]:
    found = row.outlook
    return {
        "format": row.format,
        "weights_bytes": found.weights_bytes,
        "active_bytes_per_token": found.active_bytes_per_token,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "fits": found.fits,
        "peak_memory_bytes": dict(found.peak_memory_bytes),
        "max_context": found.max_context,
        "max_batch": found.max_batch,
        "decode_tokens_per_s": _band(found.decode),
        "decode_ceiling_tokens_per_s": row.ceiling,
        "prefill_tokens_per_s": _band(found.prefill),
        "context_by_batch": {reach.batch: reach.context for reach in row.reaches},
        "recipes": list(row.recipes),
        "advice": row.advice,
        "limits": list(found.limits),
        "basis": list(found.basis),
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


def _band(band: Band | None) -> dict[str, float] | None:
    return {"low": band.low, "expected": band.expected, "high": band.high} if band else None
