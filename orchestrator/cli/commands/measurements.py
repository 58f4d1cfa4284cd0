"""Lists, exports and imports measurements."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.app.measurements import add_rows, export_rows, read_rows, rows_in
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.measured_view import HEADS, row_cells
from orchestrator.cli.options import PageFile, json_option, optional_recipe_argument
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text, program


@click.command("measurements")
@optional_recipe_argument
@click.option("--export", "exported", type=PageFile(), metavar="FILE", help="Write the rows to a file of JSON lines.")
@click.option(
    "--import", "imported", type=click.Path(path_type=Path), metavar="FILE",
    help="Add the rows of a file that are not there yet.",
)  # fmt: skip
@json_option
@click.pass_context
def command(
    ctx: click.Context, recipe: RecipeName | None, exported: Path | None, imported: Path | None, as_json: bool
) -> None:
    """Show what `bench` measured, of RECIPE or of all: predicted beside measured, the oldest first.

    Rows of other machines count in `calibrate` if their GPU has the target's compute capability: import only what you
    trust.
    """
    settings: Settings = ctx.obj
    if imported:
        rows = read_rows(imported)  # all of them, before one is added
        added = add_rows(settings, rows)
        click.echo(f"{added} of {len(rows)} rows added to {settings.measurements}", err=True)
    found = list(rows_in(settings, recipe.name if recipe else None))
    if exported:
        export_rows(found, exported)
        click.echo(f"{len(found)} rows written to {exported}", err=True)
    if as_json:
        print_json({"rows": [row.document() for row in found]})
    elif found:
        cells = [cells for row in found for cells in row_cells(row)]
        print_table(("date", "recipe", "target", "in", "out", *HEADS), cells, right=range(3, 11), least=(10, 9, 2))
    else:
        print_text(f"no measurements in {settings.measurements}; measure with: {program()} bench RECIPE")
