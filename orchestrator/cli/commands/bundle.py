"""Writes dist/ again from finished steps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from orchestrator.app.building import bundle_of
from orchestrator.app.named import Named
from orchestrator.app.plan import ExecutorName
from orchestrator.app.planning import plan_recipe
from orchestrator.app.resolving import resolve
from orchestrator.app.runner import forecast
from orchestrator.app.settings import Settings
from orchestrator.bundle.render import Bundle
from orchestrator.bundle.targets import TARGETS
from orchestrator.cli.deploying import DeployView, compose_of
from orchestrator.cli.options import executor_option, json_option, profile_option, recipe_argument, set_option
from orchestrator.cli.text import print_json
from orchestrator.deployment.archive import INSTALL, Archived, archive
from orchestrator.errors import BundleIncompleteError
from orchestrator.events import Event, Warned
from orchestrator.executors.docker_client import connect
from orchestrator.store.artifact import Artifact


@click.command("bundle")
@recipe_argument
@set_option
@executor_option
@click.option(
    "--target",
    "targets",
    metavar="NAME[,NAME…]",
    default="",
    help=f"Write files for these ways to deploy alone: {', '.join(TARGETS)}. All that apply where none is named.",
)
@click.option("--embed-model", is_flag=True, help="Have the bundle's Dockerfile put the model into the image.")
@click.option(
    "--air-gap",
    "archive_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar",
    help="Also write one archive with model, images and an install script, for a machine without a network.",
)
@profile_option
@json_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: Named,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    targets: str,
    embed_model: bool,
    archive_file: Path | None,
    profiles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write dist/RECIPE again from finished steps. Builds no step."""
    planned = plan_recipe(settings, recipe, overrides, executor)
    planned.plan.insist()
    plan = resolve(settings, planned, executor)
    open_steps = [f.placed.step.name for f in forecast(plan, settings.store, Path("/WORK")) if f.decision != "reuse"]
    if open_steps:
        message = f"{recipe.name} is not built: {', '.join(open_steps)} left to do"
        raise BundleIncompleteError(message, hint=f"orchestrator build {recipe}")
    artifacts: dict[str, Artifact] = {}
    for placed in plan.steps:
        inputs = {mount.step: artifacts[mount.step] for mount in placed.step.inputs}
        found = settings.store.find(plan.binder.key(placed.step, placed.executor, inputs))
        assert found is not None  # noqa: S101 - the forecast found each of them
        artifacts[placed.step.name] = found
    chosen = [name.strip() for name in targets.split(",") if name.strip()]
    bundle = bundle_of(settings, plan, artifacts, _tell, targets=chosen, embed_model=embed_model)
    if not as_json:
        click.echo(f"{bundle.folder} {'is as it was' if bundle.reused else 'is written'}")
    archived = _archive(bundle.folder, archive_file.resolve(), profiles) if archive_file else None
    if as_json:
        print_json(_document(recipe.name, bundle, archived))
    elif archived:
        click.echo(f"{archived.file} is written. Where there is no network: tar --extract --file {archived.file.name}")
        click.echo(f"then, in the folder that it makes: ./{recipe.name}/{INSTALL}")


def _tell(event: Event) -> None:
    if isinstance(event, Warned):
        click.echo(f"! {event.message}", err=True)


def _archive(folder: Path, file: Path, profiles: tuple[str, ...]) -> Archived:
    compose = compose_of(folder, profiles)
    with closing(connect()) as client, DeployView() as view:
        return archive(client, folder, compose, file, profiles=profiles, observer=view)


def _document(recipe: str, bundle: Bundle, archived: Archived | None) -> dict[str, object]:
    document: dict[str, object] = {"recipe": recipe, "bundle": str(bundle.folder), "reused": bundle.reused}
    if archived:
        document["archive"] = {"file": str(archived.file), "bytes": archived.size, "images": list(archived.images)}
    return document
