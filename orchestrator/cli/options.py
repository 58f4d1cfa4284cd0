"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from orchestrator.cli.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])


class RecipeName(click.ParamType[str]):
    """A recipe's name, completed in the shell."""

    name = "recipe"

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[click.shell_completion.CompletionItem]:
        """Offer the names that begin like this."""
        settings: Settings | None = ctx.find_root().obj
        if settings is None:
            from orchestrator.cli.settings import Settings as Fresh  # noqa: PLC0415 - completion only

            settings = Fresh(None, None, None)
        return [
            click.shell_completion.CompletionItem(name) for name in settings.book.names if name.startswith(incomplete)
        ]


recipe_argument = click.argument("recipe", type=RecipeName())
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for a program.")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value, e.g. quantization.format=fp8."
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show every line that the steps write.")
executor_option = click.option(
    "--executor",
    type=click.Choice(["process", "docker"]),
    help="Where to run the steps that can run in more than one place.",
)
profile_option = click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="With these services too: `monitoring` (Prometheus and Grafana), `chat` (Open WebUI).",
)
