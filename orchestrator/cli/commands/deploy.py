"""Starts the server of a built recipe and sends it a question."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.app.deploying import Deployed, deploy
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.bundle.keyless import TrustedIdentity
from orchestrator.cli.deploy_view import DeployView
from orchestrator.cli.options import json_option, profile_option, recipe_argument, verbose_option
from orchestrator.cli.text import print_json, program
from orchestrator.cli.trust import trust_options
from orchestrator.deployment.compose_file import SERVER
from orchestrator.units import in_time


@click.command("deploy")
@recipe_argument
@profile_option
@trust_options(by_variables=True)
@verbose_option
@json_option
@click.pass_obj
def command(
    settings: Settings,
    recipe: RecipeName,
    profiles: tuple[str, ...],
    trusted: Path | TrustedIdentity | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Start the server of dist/RECIPE on this machine, wait until it is ready and ask it one question.

    Only changed containers restart. If you interrupt the command, the server continues to start; run the command again
    to wait for it. Needs Docker (or Podman's socket), but not Compose.
    """
    with DeployView(verbose=verbose) as view:
        deployed = deploy(settings, recipe, profiles, view, trusted=trusted)
    if as_json:
        print_json(_document(recipe.name, deployed))
    else:
        _show(recipe, deployed)


def _document(recipe: str, deployed: Deployed) -> dict[str, object]:
    answer = deployed.answer
    asked = (
        {
            "model": answer.model,
            "question": answer.question,
            "answer": answer.text,
            "tokens": answer.tokens,
            "seconds_to_first_token": round(answer.first, 4),
            "tokens_per_second": answer.rate and round(answer.rate, 2),
        }
        if answer
        else {}
    )
    return {
        "recipe": recipe,
        "bundle": str(deployed.folder),
        "url": f"{deployed.gateway.url}/v1",
        "seconds_to_ready": round(deployed.seconds_to_ready, 3),
        **asked,
    }


def _show(recipe: RecipeName, deployed: Deployed) -> None:
    answer = deployed.answer
    if answer is None:
        click.echo("no question asked: the server requires a client certificate, and this command has none")
    else:
        rate = f", then {answer.rate:.1f} tokens/s" if answer.rate else ""
        click.echo(f"question: {answer.question}")
        click.echo(f"answer:   {answer.text}")
        click.echo(f"          first token after {in_time(answer.first)}{rate} ({answer.tokens} tokens)")
    click.echo()
    click.echo(f"{recipe.name} is served on {deployed.gateway.url}/v1; see {deployed.folder / 'README.md'}")
    click.echo(f"follow:   {program()} status, {program()} logs {recipe} {SERVER} --follow")
    click.echo(f"stop:     {program()} undeploy {recipe}")
