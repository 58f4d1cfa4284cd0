"""Prints or checks the JSON Schema of recipes."""

from __future__ import annotations

import click

from orchestrator.app.settings import Settings
from orchestrator.errors import CheckFailedError
from orchestrator.recipe.schema import is_current, schema_text


@click.command("schema")
@click.option("--check", is_flag=True, help="Fail if recipes/recipe.schema.json is not current.")
@click.option("--write", is_flag=True, help="Write recipes/recipe.schema.json.")
@click.pass_obj
def command(settings: Settings, check: bool, write: bool) -> None:
    """Print the JSON Schema of recipes, for editors."""
    file = settings.project.recipes / "recipe.schema.json"
    if write:
        file.write_text(schema_text(), encoding="utf-8")
        click.echo(f"wrote {file}")
    elif check:
        if not is_current(file):
            message = f"{file} differs from the types of recipes"
            raise CheckFailedError(message, hint="run: orchestrator schema --write")
        click.echo(f"{file} is current")
    else:
        click.echo(schema_text(), nl=False)
