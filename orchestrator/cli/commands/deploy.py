"""Starts the server of a built recipe and sends it a question."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from orchestrator.app.named import Named
from orchestrator.app.settings import Settings
from orchestrator.cli.deploying import DeployView, compose_of
from orchestrator.cli.options import json_option, profile_option, recipe_argument, verbose_option
from orchestrator.cli.text import print_json, program
from orchestrator.deployment.compose_file import SERVER
from orchestrator.deployment.observer import Done, Phase
from orchestrator.deployment.question import API_KEY, Answer, Gateway
from orchestrator.deployment.record import lock_of, remember
from orchestrator.deployment.server import gateway_of, limit_of, wait_until_ready
from orchestrator.deployment.up import Deployment
from orchestrator.executors.docker_client import connect
from orchestrator.units import in_time


@click.command("deploy")
@recipe_argument
@profile_option
@verbose_option
@json_option
@click.pass_obj
def command(settings: Settings, recipe: Named, profiles: tuple[str, ...], verbose: bool, as_json: bool) -> None:
    """Start the server of dist/RECIPE on this machine, wait until it is ready and ask it one question.

    Only changed containers restart. If you interrupt the command, the server continues to start; run the command again
    to wait for it. Needs Docker (or Podman's socket), but not Compose.
    """
    settings.load(recipe)  # an unknown name must not become a path
    folder = settings.dist / recipe.name
    compose = compose_of(folder, profiles)
    with closing(connect()) as client, DeployView(verbose=verbose) as view:
        remember(settings.store.root, recipe.name)
        waits = Phase("server", "waiting: another command works on this deployment")
        with settings.store.lock(lock_of(recipe.name), lambda: view(waits)):
            container = Deployment(client, folder, compose, profiles, view).bring_up()
        gateway = gateway_of(folder, compose, os.environ.get(API_KEY))
        waited = wait_until_ready(container, gateway, limit_of(compose), view)
        view(Done("server", f"ready after {in_time(waited)}"))
        view(Phase("server", "asking it one question"))
        answer = None if gateway.mutual else gateway.ask()
    if as_json:
        print_json(_document(recipe.name, folder, gateway, waited, answer))
    else:
        _tell(recipe, folder, gateway, answer)


def _document(recipe: str, folder: Path, gateway: Gateway, waited: float, answer: Answer | None) -> dict[str, object]:
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
        "bundle": str(folder),
        "url": f"{gateway.url}/v1",
        "seconds_to_ready": round(waited, 3),
        **asked,
    }


def _tell(recipe: Named, folder: Path, gateway: Gateway, answer: Answer | None) -> None:
    if answer is None:
        click.echo("not asked: it wants a certificate of its clients, and this command has none")
    else:
        rate = f", then {answer.rate:.1f} tokens/s" if answer.rate else ""
        click.echo(f"asked:    {answer.question}")
        click.echo(f"answered: {answer.text}")
        click.echo(f"          first token after {in_time(answer.first)}{rate} ({answer.tokens} tokens)")
    click.echo()
    click.echo(f"{recipe.name} is served on {gateway.url}/v1; {folder / 'README.md'} has more")
    click.echo(f"watch it: {program()} status, {program()} logs {recipe} {SERVER} --follow")
    click.echo(f"end it:   {program()} undeploy {recipe}")
