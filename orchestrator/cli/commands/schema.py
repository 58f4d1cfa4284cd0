"""Prints or checks the JSON Schemas of the files that people write."""

from __future__ import annotations

import click

from orchestrator.app.settings import Settings
from orchestrator.catalog.cluster import cluster_schema_text
from orchestrator.documents.schema import is_current
from orchestrator.errors import CheckFailedError
from orchestrator.recipe.schema import schema_text

_SCHEMAS = {"recipe": schema_text, "cluster": cluster_schema_text}
"""A function for each kind of file that writes its schema."""


@click.command("schema")
@click.argument("kind", type=click.Choice(list(_SCHEMAS)), default="recipe")
@click.option("--check", is_flag=True, help="Fail if recipes/*.schema.json are not current.")
@click.option("--write", is_flag=True, help="Write recipes/*.schema.json.")
@click.pass_obj
def command(settings: Settings, kind: str, check: bool, write: bool) -> None:
    """Print the JSON Schema of recipes or of cluster.yaml, for editors."""
    if not (check or write):
        click.echo(_SCHEMAS[kind](), nl=False)
        return
    for name, text in _SCHEMAS.items():
        file = settings.project.recipes / f"{name}.schema.json"
        if write:
            file.write_text(text(), encoding="utf-8")
            click.echo(f"wrote {file}")
        elif not is_current(file, text()):
            message = f"{file} differs from the types of the program"
            raise CheckFailedError(message, hint="run: orchestrator schema --write")
        else:
            click.echo(f"{file} is current")
