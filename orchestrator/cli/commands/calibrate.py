"""Fits the planner's constants to measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from orchestrator.app.calibrating import calibrate
from orchestrator.app.settings import Settings
from orchestrator.cli.options import json_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json


@click.command("calibrate")
@click.option(
    "--target", "target_name", default="dgx-spark", show_default=True, help="The target that this machine is."
)
@json_option
@click.pass_obj
def command(settings: Settings, target_name: str, as_json: bool) -> None:
    """Fit the planner's constants to the benchmarks of this machine. Later plans use the result.

    Reads the rows of `measurements` and every performance.json in the store and in dist/, and writes constants.json
    into the store.
    """
    report = calibrate(settings, target_name)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    for name, fit in report["runtimes"].items():
        click.echo(f"{name}: {fit['levels']} levels of {fit['runs']} benchmarks")
        print_table(("cost", "before", "after"), _rows(fit["costs"]), right=(1, 2))
        error = fit["mean_error"]
        click.echo(f"mean error of the predicted times: {error['before']:.0%} before, {error['after']:.0%} after\n")
    for name, levels in report["too_few"].items():
        click.echo(f"not fitted: {name}: {levels} levels are too few")
    for file, reason in report["skipped"].items():
        click.echo(f"not used: {file}: {reason}")
    click.echo(f"wrote {report['file']}; plans and estimates now use it")


def _rows(costs: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str, str]]:
    for name, values in costs.items():
        yield name, f"{values['before']:.3g}", f"{values['after']:.3g}"
