"""Builds recipes: download, quantize, check, measure, bundle."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
from click.core import ParameterSource

from orchestrator.app.building import Build, build, executors_of
from orchestrator.app.detach import start_detached
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import written_to
from orchestrator.app.settings import Settings
from orchestrator.catalog.schedulers import SCHEDULERS, Containers
from orchestrator.cli.build_page_file import with_page
from orchestrator.cli.interrupted_jobs import OnInterrupt, leaves_jobs
from orchestrator.cli.options import (
    PageFile,
    json_option,
    recipes_argument,
    set_option,
    verbose_option,
)
from orchestrator.cli.text import print_json, program
from orchestrator.events import Observer
from orchestrator.units import in_bytes, in_time

if TYPE_CHECKING:
    from orchestrator.app.cluster_building import ClusterBuild
    from orchestrator.app.cluster_jobs import Site

_HERE: Mapping[str, ExecutorName] = {"process": "process", "docker": "docker"}
"""The executors of this machine by their names on the command line."""


class _Extent(TypedDict):
    """Arguments of a build on this machine and of one on a cluster."""

    first: str | None
    last: str | None
    locked: bool
    offline: bool


@click.command("build")
@recipes_argument
@click.option("--dry-run", "dry", is_flag=True, help="Print the commands of each step, and run nothing.")
@click.option("--all", "every", is_flag=True, help="Build every recipe.")
@click.option(
    "--matrix",
    multiple=True,
    metavar="KEY=VALUE,…",
    help="Build each recipe with each of these values, for example format=fp8,nvfp4. Several keys: every combination.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Build up to N recipes at once. Default: 1; on a cluster, all.",
)
@click.option("--keep-going", is_flag=True, help="Leave out recipes that are refused, and go on after one has failed.")
@click.option("--from", "first", metavar="STEP", help="Run STEP and all later steps even if their results are cached.")
@click.option("--until", "last", metavar="STEP", help="Stop after STEP.")
@click.option(
    "--locked",
    is_flag=True,
    help="Use only what the lock lists. Refuse if the lock is missing, older than the recipe or incomplete.",
)
@click.option("--offline", is_flag=True, help="Download no model and no data. Refuse if a file is missing.")
@click.option(
    "--executor",
    type=click.Choice(["process", "docker", *SCHEDULERS]),
    help="Where to run the steps that can run in more than one place; slurm, kubernetes: each step as a job of a "
    "cluster.",
)
@click.option(
    "--containers",
    type=click.Choice(["docker", "apptainer", "pyxis"]),
    default="docker",
    show_default=True,
    help="The program that runs the containers of steps.",
)
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The settings of the cluster. Default: cluster.yaml in the project folder.",
)
@click.option(
    "--render",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the scripts or manifests of a cluster's jobs into this folder, and submit nothing.",
)
@click.option(
    "--on-interrupt",
    type=click.Choice(["ask", "leave", "cancel"]),
    default="ask",
    show_default=True,
    help="What Ctrl-C does to the jobs of a cluster. Without a terminal, and for several recipes, `ask` cancels them.",
)
@click.option(
    "--events", is_flag=True, help="Print each event as a line of JSON, for a program that follows the build."
)
@click.option(
    "--html",
    "page",
    type=PageFile(),
    metavar="FILE",
    help="Also write one self-contained page, which follows the builds and shows their end.",
)
@click.option("--detach", is_flag=True, help="Build in the background; follow it with attach, status and logs -f.")
@set_option
@json_option
@verbose_option
@click.pass_context
def command(
    ctx: click.Context,
    recipes: tuple[RecipeName, ...],
    dry: bool,
    every: bool,
    matrix: tuple[str, ...],
    jobs: int | None,
    keep_going: bool,
    first: str | None,
    last: str | None,
    locked: bool,
    offline: bool,
    executor: str | None,
    containers: Containers,
    cluster_file: Path | None,
    render: Path | None,
    on_interrupt: OnInterrupt,
    events: bool,
    page: Path | None,
    detach: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Build RECIPE. Finished steps are reused.

    Several recipes are planned together, and the smallest is built first. They share what they download.
    """
    settings: Settings = ctx.obj
    many = every or bool(matrix) or len(recipes) > 1
    _check_usage(recipes, dry=dry, every=every, detach=detach, executor=executor, render=render)
    _check_page(page, dry=dry, detach=detach, executor=executor)
    _check_many(ctx, many=many, dry=dry)
    here = _HERE.get(executor or "")
    if dry:
        from orchestrator.cli.dry_run import dry_run  # noqa: PLC0415 - each job of a cluster loads this module

        ctx.exit(dry_run(settings, recipes, overrides, here, as_json=as_json))
    if many:
        from orchestrator.cli.batch import Wanted, build_many  # noqa: PLC0415 - as above

        wanted = Wanted(
            recipes,
            matrix,
            overrides,
            here,
            last,
            locked,
            jobs,
            keep_going,
            _passed_on(ctx),
            _site_of(settings, executor, cluster_file, recipes),
            offline,
            on_interrupt == "leave",
            page,
        )
        ctx.exit(build_many(settings, wanted, as_json=as_json))
    (recipe,) = recipes
    extent: _Extent = {"first": first, "last": last, "locked": locked, "offline": offline}
    if detach:
        ctx.exit(_detached(settings, recipe, as_json=as_json))
    started = time.monotonic()
    run: Callable[..., Build]
    if site := _site_of(settings, executor, cluster_file, recipes):
        from orchestrator.app.cluster_building import ClusterBuild  # noqa: PLC0415 - loads clients of schedulers

        prepared = ClusterBuild.prepare(settings, recipe, overrides, site, **extent)
        if render:
            _render(prepared, render)
            return
        run = partial(prepared.run, leaves=partial(leaves_jobs, on_interrupt, recipe))
    else:
        executors = executors_of(settings, offline=offline, containers=containers)
        run = partial(build, settings, recipe, overrides, executor=here, executors=executors, **extent)
    with (
        _view(events=events, verbose=verbose) as view,
        with_page(settings, recipe, overrides, page, view) as observer,
    ):
        built = run(observer=observer)
    if as_json:
        print_json(_document(built))
    elif not events:
        _show(built, time.monotonic() - started)
        click.echo(_next(recipe, built))


def _site_of(
    settings: Settings, executor: str | None, file: Path | None, recipes: tuple[RecipeName, ...]
) -> Site | None:
    """Read the settings of a cluster, by default those of the first recipe's project; None for this machine."""
    scheduler = SCHEDULERS.get(executor or "")
    if scheduler is None:
        return None
    from orchestrator.app.cluster_jobs import read_site  # noqa: PLC0415 - loads clients of schedulers

    project = settings.at(recipes[0]).project if recipes else settings.project
    return read_site(file or project.root / "cluster.yaml", scheduler)


def _check_usage(
    recipes: tuple[RecipeName, ...], *, dry: bool, every: bool, detach: bool, executor: str | None, render: Path | None
) -> None:
    """Refuse options that exclude each other."""
    message = ""
    names = [recipe.name for recipe in recipes]
    if every == bool(recipes):
        message = "name a recipe, or --all"
    elif len({*names}) < len(names):
        message = f"{max(names, key=names.count)} is named twice"
    elif detach and dry:
        message = "--detach and --dry-run exclude each other"
    elif executor in SCHEDULERS and dry:
        message = f"--executor {executor} and --dry-run exclude each other; --render writes the requests of the jobs"
    elif render and executor not in SCHEDULERS:
        message = f"--render needs --executor {' or '.join(SCHEDULERS)}"
    elif detach and render:
        message = "--detach and --render exclude each other"
    if message:
        raise click.UsageError(message)


def _check_page(page: Path | None, *, dry: bool, detach: bool, executor: str | None) -> None:
    """Refuse a page of a build that does not run here."""
    other = "--dry-run" if dry else "--detach" if detach else f"--executor {executor}" if executor in SCHEDULERS else ""
    if page and other:
        message = f"--html is not possible with {other}; `{program()} status --html FILE` writes the page of a build"
        raise click.UsageError(message)


_OF_ONE = ("first", "render", "detach", "events", "verbose")
"""Options of the build of one recipe."""
_OF_MANY = ("matrix", "jobs", "keep_going")
_PASSED_ON = ("last", "locked", "offline", "executor", "containers")


def _check_many(ctx: click.Context, *, many: bool, dry: bool) -> None:
    """Refuse options of one build for several recipes, and options of several for one."""
    of_one = many and not dry
    what = "several recipes" if of_one else "--dry-run" if dry else "one recipe"
    for option in _options(ctx, _OF_ONE if of_one else _OF_MANY):
        message = f"{option.opts[-1]} is not possible with {what}"
        raise click.UsageError(message)


def _options(ctx: click.Context, names: Sequence[str]) -> Iterator[click.Parameter]:
    """Yield the options of these names that were given."""
    for parameter in ctx.command.params:
        if parameter.name in names and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            yield parameter


def _passed_on(ctx: click.Context) -> tuple[str, ...]:
    """Return the given options that each build of several gets."""
    words: list[str] = []
    for option in _options(ctx, _PASSED_ON):
        value = ctx.params[option.name or ""]
        words += [option.opts[-1]] if value is True else [option.opts[-1], str(value)]
    return tuple(words)


def _view(*, events: bool, verbose: bool) -> AbstractContextManager[Observer]:
    if events:
        return written_to(sys.stdout.fileno())
    from orchestrator.cli.build_view import BuildView  # noqa: PLC0415 - as above

    return BuildView(verbose=verbose)


def _render(prepared: ClusterBuild, folder: Path) -> None:
    chain = prepared.render(folder.resolve())
    for job in chain.jobs:
        click.echo(f"{folder / job.step / prepared.request_name}")
    click.echo(f"submit them in their order: {folder / 'submit.sh'}")


def _detached(settings: Settings, recipe: RecipeName, *, as_json: bool) -> int:
    """Start the build in another process. If it ends at once, report it as if it had run here."""
    settings.load(recipe)  # an unknown name must not become a path
    started = start_detached(settings, recipe.name, sys.argv[1:])
    if started.status is not None:
        click.echo(started.log.read_text(encoding="utf-8", errors="replace"), nl=False, err=bool(started.status))
        return started.status
    if as_json:
        print_json({"recipe": recipe.name, "process": started.process, "log": str(started.log)})
        return 0
    click.echo(f"{recipe.name} is being built by process {started.process}; its output goes to {started.log}")
    for what, words in (("attach", "follow it"), ("status", "its steps"), ("logs -f", "the output of its steps")):
        click.echo(f"  {program()} {what} {recipe}  # {words}")
    click.echo(f"  kill {started.process}  # stop it; finished steps are kept")
    return 0


def _document(built: Build) -> dict[str, object]:
    return {
        "recipe": built.plan.recipe.name,
        "steps": [
            {
                "name": result.name,
                "reused": result.reused,
                "seconds": round(result.seconds, 3),
                "bytes_in": result.bytes_in,
                "bytes_out": result.artifact.size,
                "key": result.artifact.key,
                "digest": result.artifact.digest,
                "folder": str(result.artifact.folder),
            }
            for result in built.results
        ],
        "bundle": str(built.bundle.folder) if built.bundle else None,
    }


def _show(built: Build, seconds: float) -> None:
    from orchestrator.cli.table import print_table  # noqa: PLC0415 - as above

    rows = [
        (
            result.name,
            "reused" if result.reused else "run",
            in_time(result.seconds),
            in_bytes(result.bytes_in),
            in_bytes(result.artifact.size),
        )
        for result in built.results
    ]
    if bundle := built.bundle:
        rows.append(
            ("bundle", "reused" if bundle.reused else "run", in_time(bundle.seconds), "", in_bytes(bundle.size))
        )
    rows.append(("total", "", in_time(seconds), "", ""))
    print_table(("step", "", "time", "in", "out"), rows, right=(2, 3, 4))


def _next(recipe: RecipeName, built: Build) -> str:
    if built.bundle is None:
        return f"\nnext: {program()} build {recipe}"
    reading = f"read {built.bundle.folder}/README.md"
    following = f"{program()} deploy {recipe}, or {reading}" if built.plan.target.gpu else reading
    return f"\n{built.bundle.folder} contains the deployment\nnext: {following}"
