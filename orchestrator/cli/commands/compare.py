"""Compares the formats of a model: fit, context, requests, speed, and when to use which."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from orchestrator.app.comparing import compare_formats
from orchestrator.app.comparing_runtimes import RuntimeRow, compare_runtimes
from orchestrator.app.settings import Settings
from orchestrator.cli.options import PageFile, complete_recipe, write_page
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text
from orchestrator.cli.workload_options import AskedWorkload, drafted_workload_options
from orchestrator.pages.advice import advice
from orchestrator.pages.cells import FORMAT_HEADS, conditions, format_cells, users_sentences
from orchestrator.pages.draft_sentences import draft_sentences
from orchestrator.pages.json_document import document
from orchestrator.pages.markdown import comparison_text
from orchestrator.pages.page import comparison_page
from orchestrator.planner.comparison import Comparison
from orchestrator.planner.constants import RUNTIMES
from orchestrator.planner.drafts import Drafts, drafts
from orchestrator.planner.scheme import KvDtype


@click.command("compare")
@click.argument("model", shell_complete=complete_recipe)
@click.option("--target", "target_name", default="dgx-spark", show_default=True, help="The machine.")
@click.option("--engine", type=click.Choice(RUNTIMES), default="trtllm", show_default=True, help="The runtime.")
@drafted_workload_options
@click.option(
    "--kv-cache", "kv_dtype", type=click.Choice(["bf16", "fp8", "nvfp4"]),
    help="The format of the KV cache. Default: that of the recipe, else bf16.",
)  # fmt: skip
@click.option(
    "--wanted", type=click.FloatRange(0, 1e9, min_open=True), multiple=True, metavar="TOKENS/S",
    help="Show the speculative decoding that this speed needs. May be repeated.",
)  # fmt: skip
@click.option(
    "--format", "style", type=click.Choice(["text", "md", "json", "html"]), default="text", show_default=True,
    help="The format of the output; html is one page with charts.",
)  # fmt: skip
@click.option(
    "--html", "page", type=PageFile(), metavar="FILE",
    help="Also write one self-contained page with charts.",
)  # fmt: skip
@click.option(
    "--runtimes", is_flag=True, help="Compare the runtimes instead: what each refuses, its speed, its faults."
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    target_name: str,
    engine: str,
    asked: AskedWorkload,
    kv_dtype: KvDtype | None,
    wanted: tuple[float, ...],
    style: str,
    page: Path | None,
    runtimes: bool,
    as_json: bool,
) -> None:
    """Compare the formats of MODEL: a recipe or the beginning of its name, a repository on the Hub, a config.json.

    Only a repository that the catalogue does not know needs the network, for its config.json.
    """
    settings: Settings = ctx.obj
    if runtimes:
        _show_runtimes(compare_runtimes(settings, model), as_json=as_json or style == "json")
        return
    found = compare_formats(
        settings,
        model,
        target_name=target_name,
        engine=engine,
        workload=asked.workload,
        targets=asked.targets,
        drafter=asked.drafter,
        kv_dtype=kv_dtype,
    )
    needed = drafts(found, wanted) if asked.drafter is None else None
    if page is not None:
        write_page(page, comparison_page(found, needed))
    match "json" if as_json else style:
        case "json":
            print_json(document(found, needed))
        case "md":
            click.echo(comparison_text(found, needed), nl=False)
        case "html":
            click.echo(comparison_page(found, needed), nl=False)
        case _:
            _show(found, needed)


def _show_runtimes(rows: tuple[RuntimeRow, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    heads = ("recipe", "runtime", "image", "works", "tok/s")
    print_table(heads, map(_runtime_cells, rows), right=(4,), least=(2,))
    click.echo()
    for row in rows:
        for kind, found in (("refused", row.refused), ("limit", row.known)):
            for each in found:
                print_text(f"{row.recipe}, {row.runtime}: {kind}[{each.code}]: {each.message}")


def _runtime_cells(row: RuntimeRow) -> tuple[str, ...]:
    speed = f"{row.decode.value:.3g}" if row.decode else ""
    return row.recipe, row.runtime, row.image, "no" if row.refused else "yes", speed


def _show(comparison: Comparison, needed: Drafts | None) -> None:
    terms = comparison.terms
    print_text(f"{comparison.subject.name} on {terms.target_name}: {conditions(terms)}")
    click.echo()
    print_table(FORMAT_HEADS, map(format_cells, comparison.rows), right=range(2, len(FORMAT_HEADS)), least=(3, 2))
    click.echo()
    for line in users_sentences(comparison):
        print_text(line)
    for row in comparison.rows:
        print_text(f"{row.label}: {advice(comparison, row)}")
    if needed:
        click.echo()
        for line in draft_sentences(needed):
            print_text(line)
