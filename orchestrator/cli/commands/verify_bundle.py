"""Checks a bundle and its signature."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.app.signing import Verified, verify_bundle
from orchestrator.bundle.keyless import Identity, TrustedIdentity
from orchestrator.cli.deploy_view import DeployView
from orchestrator.cli.options import json_option
from orchestrator.cli.text import print_json
from orchestrator.cli.trust import trust_options


@click.command("verify-bundle")
@click.argument("folder", type=click.Path(path_type=Path))
@trust_options(by_variables=False)
@json_option
def command(folder: Path, trusted: Path | TrustedIdentity, as_json: bool) -> None:
    """Check every file of the bundle in FOLDER against its signature."""
    with DeployView() as view:
        verified = verify_bundle(folder, trusted, view)
    if as_json:
        print_json(_document(verified))
    else:
        click.echo(f"{verified.folder}: {verified.files} files are as they were signed")
        if verified.unsigned:
            click.echo(f"not part of the signature: {', '.join(verified.unsigned)}")
        signer = verified.signer
        who = signer if isinstance(signer, Identity) else f"the key of {trusted}, SHA-256 {signer.digest}"
        click.echo(f"trusted: {who}")


def _document(verified: Verified) -> dict[str, object]:
    return {
        "bundle": str(verified.folder),
        "files": verified.files,
        "unsigned": list(verified.unsigned),
        **verified.signer.facts,
    }
