"""Builds several recipes from the command line, and prints one table of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

import click

from orchestrator.app.batch import Batch, Member, plan_batch
from orchestrator.app.batch_run import (
    BatchRun,
    Result,
    Start,
    document_of,
    refused_results,
    start_builds,
)
from orchestrator.app.batch_threads import start_threads
from orchestrator.app.cluster_building import ClusterBuild
from orchestrator.app.cluster_jobs import Site, executor_on
from orchestrator.app.detach import log_file
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.matrix import derived_recipes, read_axes
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.batch_view import BatchView
from orchestrator.cli.build_page_file import BatchPage
from orchestrator.cli.crash_report import without_secrets, write_report
from orchestrator.cli.error_view import show_error
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, program
from orchestrator.errors import OrchestratorError, PlanRefusedError, from_os_error
from orchestrator.events import Event, Observer
from orchestrator.executors.job import AbortCheck
from orchestrator.planner.constants import calibrations_of
from orchestrator.planner.duration import Span
from orchestrator.units import in_bytes, in_time
from orchestrator.values import frozen

_HEADS = ("recipe", "state", "time", "planned", "GPU hours", "steps")


@frozen
class Wanted:
    """What was asked for."""

    recipes: tuple[RecipeName, ...]
    """None named: every recipe."""
    matrix: tuple[str, ...]
    overrides: tuple[str, ...]
    executor: ExecutorName | None
    last: str | None
    locked: bool
    jobs: int | None
    """None: one at once, or with a cluster, all."""
    keeps_going: bool
    options: tuple[str, ...]
    """The options of each build on its command line."""
    site: Site | None = None
    """The cluster whose jobs the steps are; None: this machine."""
    offline: bool = False
    leaves_jobs: bool = False
    """The jobs of a cluster continue after an interrupt."""
    page: Path | None = None
    """Where to write the page of all builds."""


def build_many(settings: Settings, wanted: Wanted, *, as_json: bool) -> int:
    """Build the recipes, and return the exit status: of the first one that failed, in the order of the builds."""
    recipes = wanted.recipes
    if axes := read_axes(wanted.matrix):
        bases = recipes or tuple(RecipeName(name) for name in settings.book.names)
        derived = (name for recipe in bases for name in derived_recipes(settings.at(recipe), recipe, axes))
        recipes = tuple(dict.fromkeys(derived))
        settings = replace(settings)  # which finds the recipes that were just written
    executor = executor_on(wanted.site) if wanted.site else wanted.executor
    batch = plan_batch(settings, recipes, wanted.overrides, executor, last=wanted.last, locked=wanted.locked)
    jobs = wanted.jobs or (max(len(batch.ready), 1) if wanted.site else 1)
    if not as_json:
        _show_plan(batch, jobs)
    batch.check(jobs, shares_memory=not wanted.site, skips=wanted.keeps_going)
    settings.store.make()
    names = [member.recipe.name for member in batch.ready]
    with BatchView() as view, BatchPage(settings, wanted.page, names) as page:

        def show(member: Member, event: Event) -> None:
            view(member, event)
            page(member, event)

        run = BatchRun(_starts(settings, wanted), show, jobs, wanted.keeps_going)
        try:
            run.run(batch.ready)
        except KeyboardInterrupt:
            _show(settings, run.results.values(), as_json=as_json, on_cluster=bool(wanted.site))
            if wanted.leaves_jobs:
                click.echo(f"the jobs continue: {program()} attach RECIPE, or {program()} cancel RECIPE", err=True)
            raise
    results = (*run.results.values(), *refused_results(batch))
    _show(settings, results, as_json=as_json, on_cluster=bool(wanted.site))
    failed = (*(result.error for result in run.results.values()), *(member.error for member in batch.refused))
    return next((error.exit_status for error in failed if error), 0)


def _starts(settings: Settings, wanted: Wanted) -> Start:
    """Return what starts a build: in a process on this machine, or in a thread that follows jobs of a cluster."""
    if wanted.site is None:
        return start_builds(settings, _command(settings, wanted))
    return start_threads(partial(_follow, settings, wanted))


def _follow(settings: Settings, wanted: Wanted, member: Member, observer: Observer, abort_check: AbortCheck) -> None:
    """Build a recipe on a cluster.

    Raises:
        OrchestratorError: It failed; a defect as well, with a report.
    """
    assert wanted.site  # noqa: S101 - see above
    assert member.planned  # noqa: S101 - a member that can be built has a plan
    own = settings.at(member.recipe)
    try:
        with calibrations_of(lambda: own.store.root):
            prepared = ClusterBuild.of(own, member.planned, wanted.site, last=wanted.last, offline=wanted.offline)
            prepared.run(observer, lambda: wanted.leaves_jobs, abort_check)
    except OrchestratorError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (known := from_os_error(error, "working")):
            raise known from error
        message = without_secrets(f"{type(error).__name__}: {error}")
        hint = f"this is a defect of this program; please report it with {write_report(error)}"
        raise OrchestratorError(message, hint=hint) from error


def _command(settings: Settings, wanted: Wanted) -> tuple[str, ...]:
    places = {"project": settings.project_folder, "store": settings.store_folder, "dist": settings.dist_folder}
    given = (word for name, folder in places.items() if folder for word in (f"--{name}", str(folder)))
    overrides = (word for override in wanted.overrides for word in ("--set", override))
    return (sys.executable, "-m", "orchestrator.cli.main", *given, "build", *wanted.options, *overrides)


def _show_plan(batch: Batch, jobs: int) -> None:
    rows = [
        (member.recipe.name, in_bytes(member.memory), _planned(member), " → ".join(_pending(member)) or "built")
        for member in batch.ready
    ]
    rows += [(member.recipe.name, "", "", f"refused, as the recipe expects{_why(member)}") for member in batch.expected]
    rows += [(member.recipe.name, "", "", f"refused{_why(member)}") for member in batch.refused]
    print_table(("recipe", "memory", "time", "steps to run"), rows, right=(1, 2))
    at_once = f"at most {jobs} at once" if jobs > 1 else "one after another"
    size = sum(need.size for need in batch.needs)
    known = [member.time for member in batch.ready if member.time]
    hours = f"; {_span(reduce(Span.plus, known))} of work in all" if known else ""
    unknown = sum(bool(member.pending) and member.time is None for member in batch.ready)
    rest = f", without {unknown} whose time is not known" if known and unknown else ""
    click.echo(
        f"\n{len(batch.ready)} of {len(rows)} recipes, {at_once}; {in_bytes(size)} will be written{hours}{rest}\n"
    )


def _pending(member: Member) -> Iterator[str]:
    return (placed.step.name for placed in member.pending)


def _why(member: Member) -> str:
    error = member.error
    codes = [refusal.code for refusal in error.refusals] if isinstance(error, PlanRefusedError) else []
    return f": {', '.join(codes) or (error.code if error else '')}"


def _planned(member: Member) -> str:
    return _span(member.time) if member.time else ""


def _span(time: Span) -> str:
    return f"{in_time(time.least)} to {in_time(time.most)}"


def _show(settings: Settings, results: Iterable[Result], *, as_json: bool, on_cluster: bool) -> None:
    results = tuple(results)
    if as_json:
        print_json(document_of(results))
        return
    rows = [
        (
            result.member.recipe.name,
            result.state,
            in_time(result.seconds) if result.seconds else "",
            "" if result.member.error else _planned(result.member),
            f"{result.gpu_hours:.2f}" if result.gpu_hours else "",
            ", ".join(f"{step.name} {'reused' if step.reused else in_time(step.seconds)}" for step in result.steps),
        )
        for result in results
    ]
    print_table(_HEADS, rows, right=(2, 3, 4), least=(5, 4, 3))
    for result in results:
        if result.error and result.state == "failed":
            name = result.member.recipe.name
            output = "" if on_cluster else f"; its output: {log_file(settings, name)}"
            click.echo(f"\n{name} failed{output}", err=True)
            show_error(result.error)
    built = [result.member.recipe.name for result in results if result.state == "built"]
    click.echo(f"\n{len(built)} of {len(results)} built")
