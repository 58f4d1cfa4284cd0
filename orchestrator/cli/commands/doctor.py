"""Checks this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from orchestrator.app import planning
from orchestrator.app.machine import Finding, Host, check_machine
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.options import json_option, optional_recipe_argument
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json

_MARKS = {"ok": "✓", "missing": "✗", "unknown": "?"}


@click.command("doctor")
@optional_recipe_argument
@click.option("--online", is_flag=True, help="Also check access to the models on the Hub and the images on NGC.")
@json_option
@click.pass_context
def command(ctx: click.Context, recipe: RecipeName | None, online: bool, as_json: bool) -> None:
    """Check this machine, for RECIPE if one is named. Exit status 6 if RECIPE needs something that is missing."""
    settings: Settings = ctx.obj
    plan = planning.plan(settings, recipe).plan if recipe else None
    findings = check_machine(settings.store.root, plan, Host(settings.environment), online=online)
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
        if finding.state != "ok" and finding.fix:
            click.echo(f"\n{finding.name}: {finding.fix}")
