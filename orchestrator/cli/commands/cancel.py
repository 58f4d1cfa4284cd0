"""Cancels the jobs of a build on a cluster."""

from __future__ import annotations

import click

from orchestrator.app.cluster_chains import cancel_chain, chains_of
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.options import recipe_argument


@click.command("cancel")
@recipe_argument
@click.pass_obj
def command(settings: Settings, recipe: RecipeName) -> None:
    """Remove the jobs of RECIPE from the queue of the cluster. Finished steps are kept."""
    chains = chains_of(settings, recipe.name)
    if not chains:
        settings.load(recipe)
        click.echo(f"{recipe.name} has no jobs in a queue")
        return
    for chain in chains:
        cancel_chain(settings, chain)
        click.echo(f"cancelled the jobs of {recipe.name}: {', '.join(job.step for job in chain.jobs)}")
