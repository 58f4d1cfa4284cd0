"""Builds up to the benchmark, shows its results and keeps them."""

from __future__ import annotations

import click

from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.measuring import benchmark_of, measure
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.measured_view import HEADS, level_cells
from orchestrator.cli.options import executor_option, json_option, recipe_argument, set_option, verbose_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text
from orchestrator.cli.workload_options import AskedWorkload, measured_workload_options


@click.command("bench")
@recipe_argument
@set_option
@executor_option
@measured_workload_options
@click.option(
    "--precision",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.03,
    show_default=True,
    metavar="SHARE",
    help="Repeat until the 95 % interval of the mean is ± this share.",
)
@click.option("--max-runs", type=click.IntRange(3, 30), metavar="N", help="Most runs of a level. Default: 10.")
@click.option("--again", is_flag=True, help="Measure again, even if the store has the result.")
@json_option
@verbose_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    precision: float,
    max_runs: int | None,
    again: bool,
    as_json: bool,
    verbose: bool,
    asked: AskedWorkload,
) -> None:
    """Build RECIPE up to its benchmark, show what was measured and add it to the measurements.

    Each level warms up and is repeated until the mean is known well enough. Without options for the workload, the
    recipe's own benchmark counts.
    """  # fmt: skip
    planned = settings.load(recipe, overrides).recipe
    benchmark = benchmark_of(planned, asked.workload, precision, max_runs) if planned.benchmark else ()
    everything = (*asked.overrides, *benchmark, *overrides)
    with BuildView(verbose=verbose) as view:
        row = measure(settings, recipe, everything, executor=executor, again=again, observer=view)
    if as_json:
        print_json(row.document())
        return
    print_table(HEADS, [level_cells(level) for level in row.levels], right=range(len(HEADS)), least=(5, 4))
    for level in row.levels:
        if level.interval and not level.interval["reached"]:
            runs = len(level.interval["runs"])
            print_text(f"concurrency {level.concurrency}: ±{precision:.1%} was not reached in {runs} runs")
    print_text(f"kept in {settings.measurements}")
