"""The reference of the command line: what `--help` says, command by command."""

from __future__ import annotations

import click

from docs.generate.markdown import block, code, page, table
from orchestrator.cli.main import cli

_WIDTH = 100

_INTRODUCTION = """\
Results go to standard output, progress and errors to standard error. Progress bars appear on a terminal only;
`NO_COLOR` is respected. With `--json` a command prints one document for a program.

RECIPE is a recipe's name or the path of its file: what has a slash or ends in `.yaml` is a path. [Which files of yours
count, and where results lie](../how-to/install.md#your-project-lies-over-the-tools-files)."""

_COMPLETION = """\
`make` targets take `RECIPE=name` and `ARGS='…'`; `make` alone lists them. For completion in the shell:

```sh
eval "$(orchestrator completion bash)"
```"""

_ENVIRONMENT = (
    ("ORCHESTRATOR_PROJECT", "as `--project`"),
    ("ORCHESTRATOR_STORE", "as `--store`"),
    ("ORCHESTRATOR_DIST", "as `--dist`"),
    ("XDG_DATA_HOME", "the store is `orchestrator/` in it; `~/.local/share` unless set"),
    ("HF_TOKEN", "a token of the Hugging Face Hub; given to download steps alone"),
    ("HF_ENDPOINT, HF_HOME", "as the Hub's own client reads them: a mirror, another place for its cache"),
    ("ORCHESTRATOR_KEY_PASSWORD", "the password of the key of `bundle --sign`"),
    ("SIGSTORE_ID_TOKEN, SIGSTORE_ID_TOKEN_FILE", "an identity token for `bundle --sign keyless`, or its file"),
    ("ORCHESTRATOR_TRUST_CONFIG", "as `--trust-config`"),
    ("ORCHESTRATOR_TRUSTED_KEY", "as `deploy --key`"),
    ("ORCHESTRATOR_TRUSTED_IDENTITY, ORCHESTRATOR_TRUSTED_ISSUER", "as `deploy --identity` and `--issuer`"),
    ("DOCKER_HOST", "as Docker reads it: another Docker, or Podman's socket"),
    ("COLUMNS", "how wide a table may be; else the terminal decides"),
    ("NO_COLOR", "no colours"),
)


def reference() -> str:
    """Write the page of the commands."""
    root = _root()
    parts = [f"## orchestrator {name}\n\n{block(_help(root, name))}" for name in cli.list_commands(root)]
    environment = table(("variable", "meaning"), [(code(name), words) for name, words in _ENVIRONMENT])
    return page(
        "Commands",
        _INTRODUCTION,
        _index(root),
        _COMPLETION,
        f"## orchestrator\n\n{block(cli.get_help(root))}",
        *parts,
        f"## Environment\n\n{environment}",
    )


def _root() -> click.Context:
    settings = {**cli.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    return click.Context(cli, info_name="orchestrator", **settings)


def _help(root: click.Context, name: str) -> str:
    command = cli.get_command(root, name)
    if command is None:
        message = f"`{name}` is listed and cannot be found"
        raise LookupError(message)
    return command.get_help(click.Context(command, info_name=name, parent=root))


def _index(root: click.Context) -> str:
    found = ((name, cli.get_command(root, name)) for name in cli.list_commands(root))
    rows = [
        (code(f"orchestrator {name}"), command.get_short_help_str(_WIDTH) if command else "") for name, command in found
    ]
    return table(("command", "what it does"), rows)
