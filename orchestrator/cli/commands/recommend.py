"""Recommends recipes for a purpose: which model, for how many users, how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from orchestrator.app.recommending import recommend_recipes
from orchestrator.app.settings import Settings
from orchestrator.cli.options import json_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text, program
from orchestrator.cli.workload_options import Seconds
from orchestrator.pages.cells import short
from orchestrator.planner.figures import seconds_in_words, workload_words
from orchestrator.planner.queueing import Targets
from orchestrator.planner.recommendation import PURPOSES, Candidate, Recommendation
from orchestrator.planner.users import queue_document
from orchestrator.recipe.model import Workload
from orchestrator.units import in_bytes

_HEADS = ("recipe", "tok/s each", "first token", "per token", "users", "weights", "quality")
_SHOWN = 8
"""Recipes of the table; more do not fit on a screen."""
_LONGEST = 3
"""Names that are printed for one reason."""


@click.command("recommend")
@click.option(
    "--for", "purpose", type=click.Choice(list(PURPOSES)), default="chat", show_default=True,
    help="What the model is for. It decides the usual lengths and times.",
)  # fmt: skip
@click.option("--users", type=click.IntRange(1, 4096), default=1, show_default=True, help="Users at once.")
@click.option("--ttft", type=Seconds(), metavar="TIME", help="Longest time to the first token. Default: by purpose.")
@click.option("--tpot", type=Seconds(), metavar="TIME", help="Longest time per further token. Default: 100ms.")
@click.option("--input-tokens", type=click.IntRange(1, 2**24), metavar="N", help="Tokens of a prompt, by purpose.")
@click.option("--output-tokens", type=click.IntRange(1, 2**24), metavar="N", help="Tokens of an answer, by purpose.")
@click.option("--target", default="dgx-spark", show_default=True, help="The machine.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    purpose: str,
    users: int,
    ttft: float | None,
    tpot: float | None,
    input_tokens: int | None,
    output_tokens: int | None,
    target: str,
    as_json: bool,
) -> None:
    """Recommend recipes that answer users in time, the best first, and say why the others lost.

    Times are those that 95 of 100 requests stay within. Speeds are predicted, without speculative decoding.
    """
    settings: Settings = ctx.obj
    usual = PURPOSES[purpose]
    workload = Workload(
        input_tokens=input_tokens or usual.input_tokens,
        output_tokens=output_tokens or usual.output_tokens,
        concurrency=users,
    )
    targets = Targets(ttft or usual.targets.first_token, tpot or usual.targets.per_token)
    found = recommend_recipes(settings, purpose, target, workload, targets)
    if as_json:
        print_json(_document(found, purpose, target))
    else:
        _show(found, purpose, target)


def _show(found: Recommendation, purpose: str, target: str) -> None:
    asked, targets = found.workload, found.targets
    words = workload_words(asked.concurrency or 1, asked.context, asked.output_tokens)
    limits = " and ".join(
        f"{name} within {seconds_in_words(limit)}"
        for name, limit in (("the first token", targets.first_token), ("each further token", targets.per_token))
        if limit is not None
    )
    print_text(f"{purpose} on {target}: {words}; {limits}")
    click.echo()
    if found.ranked:
        print_table(_HEADS, map(_cells, found.ranked[:_SHOWN]), right=(1, 2, 3, 4, 5), least=(5, 3))
        click.echo()
    else:
        print_text("no recipe does this: allow more time, or ask for fewer users")
    for line in _lines(found):
        print_text(line, hanging=2)
    if found.ranked:
        click.echo(f"next: {program()} plan {found.ranked[0].recipe.name}")


def _lines(found: Recommendation) -> Iterator[str]:
    if found.ranked:
        yield (
            "users: as many are answered in time. quality: the divergence from BF16 that is normal for the format."
            " Order: made for the purpose by its name, then more parameters, less loss, more speed; no source scores"
            " all models."
        )
    for candidate in found.ranked[:_SHOWN]:
        if candidate.score:
            score = candidate.score
            yield f"quality of {candidate.recipe.name}: {score.score} ({score.source}, read {score.read})"
    also = [candidate.recipe.name for candidate in found.ranked[_SHOWN:]]
    if also:
        yield f"in time as well: {_some(also)}"
    for why, names in found.lost.items():
        yield f"{why}: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LONGEST
    return ", ".join(names[:_LONGEST]) + (f" and {more} more" if more > 0 else "")


def _cells(candidate: Candidate) -> tuple[str, ...]:
    queue = candidate.queue
    assert queue is not None  # noqa: S101 - only such candidates are ranked
    return (
        candidate.recipe.name,
        short(queue.tokens_per_second_of_each),
        seconds_in_words(queue.first_token.p95),
        seconds_in_words(queue.per_token.p95),
        f"{candidate.within:,}",
        in_bytes(candidate.summary.weights.value),
        "published" if candidate.score else candidate.quality,
    )


def _document(found: Recommendation, purpose: str, target: str) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "target": target,
        "workload": found.workload.model_dump(mode="json"),
        "ttft_s": found.targets.first_token,
        "tpot_s": found.targets.per_token,
        "recipes": [
            {
                "name": candidate.recipe.name,
                "users": queue_document(candidate.queue) if candidate.queue else None,
                "users_within_targets": candidate.within,
                "weights_bytes": candidate.summary.weights.value,
                "quality": candidate.quality,
                "quality_source": candidate.score.source if candidate.score else None,
            }
            for candidate in found.ranked
        ],
        "lost": {why: list(names) for why, names in found.lost.items()},
    }
