"""Checks a bundle and its signature."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.app.signing import Verified, verify_bundle
from orchestrator.cli.deploy_view import DeployView
from orchestrator.cli.options import json_option
from orchestrator.cli.text import print_json


@click.command("verify-bundle")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="The public key (PEM) that you trust. It must not come from the bundle itself.",
)
@json_option
def command(folder: Path, key: Path, as_json: bool) -> None:
    """Check every file of the bundle in FOLDER against its signature."""
    with DeployView() as view:
        verified = verify_bundle(folder, key, view)
    if as_json:
        print_json(_document(verified))
    else:
        click.echo(f"{verified.folder}: {verified.files} files are as they were signed")
        if verified.unsigned:
            click.echo(f"not part of the signature: {', '.join(verified.unsigned)}")
        click.echo(f"trusted: the key of {key}, SHA-256 {verified.key.digest}")


def _document(verified: Verified) -> dict[str, object]:
    return {
        "bundle": str(verified.folder),
        "files": verified.files,
        "unsigned": list(verified.unsigned),
        "key_sha256": verified.key.digest,
    }
