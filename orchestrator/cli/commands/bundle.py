"""Writes dist/ again from finished steps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from orchestrator.app.bundling import write_bundle
from orchestrator.app.deploying import images_of
from orchestrator.app.make_plan import ExecutorName
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.signing import read_signing_key, sign_bundle
from orchestrator.bundle.files import INSTALL, SIGNATURE, SUMS
from orchestrator.bundle.render import Bundle
from orchestrator.bundle.signing import PrivateKey
from orchestrator.bundle.targets import TARGETS
from orchestrator.cli.deploy_view import DeployView
from orchestrator.cli.options import executor_option, json_option, profile_option, recipe_argument, set_option
from orchestrator.cli.text import print_json
from orchestrator.deployment.archive import Archived, archive
from orchestrator.events import Event, Warned
from orchestrator.executors.docker_client import connect


@click.command("bundle")
@recipe_argument
@set_option
@executor_option
@click.option(
    "--target",
    "targets",
    metavar="NAME[,NAME…]",
    default="",
    help=f"Write files only for these ways to deploy: {', '.join(TARGETS)}. Default: all that apply.",
)
@click.option("--embed-model", is_flag=True, help="Put the model into the image that the bundle's Dockerfile builds.")
@click.option(
    "--image",
    metavar="NAME[:TAG]",
    help="The name under which the bundle's image is pulled, such as registry.example/team/llama, in every file.",
)
@click.option(
    "--air-gap",
    "archive_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar",
    help="Also write one archive with model, images and an install script, for a machine without a network.",
)
@click.option(
    "--sign",
    "key_file",
    metavar="KEY",
    help="Sign the bundle, and the archive if there is one, with this private key: PEM, ECDSA, such as P-256.",
)
@profile_option
@json_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
    overrides: tuple[str, ...],
    executor: ExecutorName | None,
    targets: str,
    embed_model: bool,
    image: str | None,
    archive_file: Path | None,
    key_file: str | None,
    profiles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write dist/RECIPE again from finished steps. Builds no step."""
    key = read_signing_key(settings, key_file) if key_file else None
    chosen = [name.strip() for name in targets.split(",") if name.strip()]
    bundle = write_bundle(
        settings,
        recipe,
        overrides,
        executor=executor,
        targets=chosen,
        embed_model=embed_model,
        image=image,
        observer=_show_warning,
    )
    if not as_json:
        click.echo(f"{bundle.folder} {'is unchanged' if bundle.reused else 'is written'}")
    if key:
        signature = sign_bundle(bundle.folder, key)
        if not as_json:
            click.echo(f"{signature} is written; it is checked with the key whose SHA-256 is {key.public.digest}")
    archived = _archive(bundle.folder, archive_file.resolve(), profiles, key) if archive_file else None
    if as_json:
        print_json(_document(recipe.name, bundle, archived, key))
    elif archived:
        click.echo(f"{archived.file} is written. On the other machine: tar --extract --file {archived.file.name}")
        click.echo(f"then run: ./{recipe.name}/{INSTALL}")
        click.echo(f"SHA-256 of its {SUMS}, to carry apart from the archive: {archived.sums_digest}")


def _show_warning(event: Event) -> None:
    if isinstance(event, Warned):
        click.echo(f"! {event.message}", err=True)


def _archive(folder: Path, file: Path, profiles: tuple[str, ...], key: PrivateKey | None) -> Archived:
    wanted = images_of(folder, profiles)
    with closing(connect()) as client, DeployView() as view:
        sign = key.sign_for_openssl if key else None
        return archive(client, folder, wanted, file, observer=view, sign=sign)


def _document(recipe: str, bundle: Bundle, archived: Archived | None, key: PrivateKey | None) -> dict[str, object]:
    document: dict[str, object] = {"recipe": recipe, "bundle": str(bundle.folder), "reused": bundle.reused}
    if key:
        document["signature"] = {"file": str(bundle.folder / SIGNATURE), "key_sha256": key.public.digest}
    if archived:
        document["archive"] = {
            "file": str(archived.file),
            "bytes": archived.size,
            "images": list(archived.images),
            "sums_sha256": archived.sums_digest,
        }
    return document
