"""Checks this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from orchestrator.app.machine import Finding, look
from orchestrator.app.named import Named
from orchestrator.app.planning import plan_recipe
from orchestrator.app.settings import Settings
from orchestrator.cli.options import json_option, optional_recipe_argument
from orchestrator.cli.text import print_json, print_table

_MARKS = {"ok": "✓", "missing": "✗", "unknown": "?"}


@click.command("doctor")
@optional_recipe_argument
@click.option("--online", is_flag=True, help="Ask the Hub for the models and NGC for the images as well.")
@json_option
@click.pass_context
def command(ctx: click.Context, recipe: Named | None, online: bool, as_json: bool) -> None:
    """Check this machine, for RECIPE if one is named. Exit status 6 if RECIPE needs something that is missing."""
    settings: Settings = ctx.obj
    plan = plan_recipe(settings, recipe).plan if recipe else None
    findings = look(settings.store.root, plan, online=online)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.state == "missing" and finding.needed for finding in findings):
        ctx.exit(6)


def _show(findings: tuple[Finding, ...]) -> None:
    rows = [(_MARKS[finding.state], finding.name, finding.found) for finding in findings]
    print_table(("", "what", "found"), rows)
    for finding in findings:
        if finding.state != "ok" and finding.mend:
            click.echo(f"\n{finding.name}: {finding.mend}")
