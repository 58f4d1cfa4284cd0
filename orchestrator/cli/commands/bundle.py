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
from orchestrator.app.signing import KEYLESS, Signature, read_signing_key, sign_bundle
from orchestrator.bundle.files import INSTALL, SIGNATURE, SUMS
from orchestrator.bundle.keyless import Identity, KeylessSigner
from orchestrator.bundle.render import Bundle
from orchestrator.bundle.signing import PrivateKey, Signer
from orchestrator.bundle.targets import TARGETS
from orchestrator.cli.deploy_view import DeployView
from orchestrator.cli.interrupted_jobs import is_interactive
from orchestrator.cli.options import executor_option, json_option, profile_option, recipe_argument, set_option
from orchestrator.cli.text import print_json
from orchestrator.cli.trust import refuse_unused_trust_config, trust_config_option
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
    help="Sign the bundle, and the archive if there is one, with this private key: PEM, ECDSA, such as P-256. "
    "`keyless`: sign the bundle with your identity.",
)
@trust_config_option
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
    trust_config: Path | None,
    profiles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write dist/RECIPE again from finished steps. Builds no step."""
    key = _signing_key(settings, key_file, trust_config, archive_file)
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
    signature = sign_bundle(bundle.folder, key) if key else None
    if signature and not as_json:
        click.echo(f"{signature.file} is written; it is checked with {_checked_with(signature)}")
    archived = _archive(bundle.folder, archive_file.resolve(), profiles, key) if archive_file else None
    if as_json:
        print_json(_document(recipe.name, bundle, archived, signature))
    elif archived:
        click.echo(f"{archived.file} is written. On the other machine: tar --extract --file {archived.file.name}")
        click.echo(f"then run: ./{recipe.name}/{INSTALL}")
        click.echo(f"SHA-256 of its {SUMS}, to carry apart from the archive: {archived.sums_digest}")


def _signing_key(
    settings: Settings, key: str | None, trust_config: Path | None, archive_file: Path | None
) -> PrivateKey | KeylessSigner | None:
    if key != KEYLESS:
        refuse_unused_trust_config(f"--sign {KEYLESS}")
        return read_signing_key(settings, key) if key else None
    if archive_file:
        message = (
            f"--sign {KEYLESS} cannot sign an archive: openssl checks its list of digests with a key. Sign the bundle "
            f"first, then write the archive without --sign: it carries {SIGNATURE}, which verify-bundle checks"
        )
        raise click.UsageError(message)
    return read_signing_key(settings, key, trust_config=trust_config, interactive=is_interactive())


def _checked_with(signature: Signature) -> str:
    signer = signature.signer
    return signer.option if isinstance(signer, Identity) else f"the key whose SHA-256 is {signer.digest}"


def _show_warning(event: Event) -> None:
    if isinstance(event, Warned):
        click.echo(f"! {event.message}", err=True)


def _archive(folder: Path, file: Path, profiles: tuple[str, ...], key: Signer | None) -> Archived:
    wanted = images_of(folder, profiles)
    with closing(connect()) as client, DeployView() as view:
        sign = key.sign_for_openssl if isinstance(key, PrivateKey) else None
        return archive(client, folder, wanted, file, observer=view, sign=sign)


def _document(recipe: str, bundle: Bundle, archived: Archived | None, signature: Signature | None) -> dict[str, object]:
    document: dict[str, object] = {"recipe": recipe, "bundle": str(bundle.folder), "reused": bundle.reused}
    if signature:
        document["signature"] = {"file": str(signature.file), **signature.signer.facts}
    if archived:
        document["archive"] = {
            "file": str(archived.file),
            "bytes": archived.size,
            "images": list(archived.images),
            "sums_sha256": archived.sums_digest,
        }
    return document
