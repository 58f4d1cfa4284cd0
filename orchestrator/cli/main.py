"""Runs the command `orchestrator`. It ends in success, a known error, or a defect with a crash report."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from orchestrator.app.settings import Settings
from orchestrator.errors import OrchestratorError, from_os_error

gc.set_threshold(100_000)  # Start-up creates tens of thousands of objects that stay. Skip 40 useless collections.
atexit.register(gc.freeze)  # Skip garbage collection at interpreter shutdown.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # Skip pydantic's search for plugins.

_COMMANDS = {
    "recipes": "List the recipes.",
    "new": "Write a recipe for a model of the Hub, a folder or a config.json.",
    "show": "Show a recipe with where each value came from.",
    "validate": "Check recipes without building them.",
    "plan": "Say whether a recipe will fit, what it costs and what it does.",
    "estimate": "Say what any model takes and how fast it will be, from its config.json.",
    "compare": "Put the formats of a model side by side.",
    "build": "Build a recipe: download, quantize, check, measure, bundle.",
    "verify": "Build as far as the checks and show them.",
    "bench": "Build as far as the benchmark and show it.",
    "bundle": "Write dist/ again from what is built.",
    "deploy": "Bring the server of a built recipe up, and ask it something.",
    "undeploy": "Take the server of a recipe down.",
    "attach": "Follow a build that runs elsewhere.",
    "status": "Show what the newest builds did, and what is deployed.",
    "logs": "Show the log of a step, or of a server.",
    "lock": "Resolve a recipe's revisions to commits and write its lock.",
    "gc": "Remove what nobody needs any more.",
    "calibrate": "Fit the planner to what this machine's benchmarks measured.",
    "doctor": "Look at this machine.",
    "schema": "Print or check the JSON Schema of recipes.",
    "completion": "Print the script that completes commands in a shell.",
}

EXIT_STATUSES = """\b
Exit statuses:
  0    done
  1    a defect of ours; a log for its report is named
  2    wrong usage of the command line
  3    bad input: a recipe, a lock, a catalogue file, a checkpoint
  4    refused: the plan cannot work on this target or image
  5    a step failed
  6    this machine: no Docker, no disk space, no permission, no network
  7    a check failed: quality, integrity, drift
  130  interrupted (143: terminated)"""


class _ReaderLeftError(Exception):
    """The reader of our output has closed it, as `head` does after ten lines."""


class _LazyGroup(click.Group):
    """Loads a command's module when it is called, so that `--help` is quick."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. A broken pipe is raised under another name, because click would turn it into exit status 1."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError as error:
            raise _ReaderLeftError from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"orchestrator.cli.commands.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)  # noqa: S101 - every module of the package has one
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            import difflib  # noqa: PLC0415 - only for an unknown command

            close = difflib.get_close_matches(name, _COMMANDS, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            message = f"no such command: {name}.{hint}"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click's signature
    if value and not ctx.resilient_parsing:
        from orchestrator.cli.versions import version_text  # noqa: PLC0415 - loads what `--help` does not need

        click.echo(version_text())
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_STATUSES,
)
@click.option(
    "--project",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="ORCHESTRATOR_PROJECT",
    help="The folder with recipes/, docker/images.yaml or targets/ of yours; the nearest at or above where you are.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ORCHESTRATOR_STORE",
    help="Where results are kept: orchestrator/ in XDG_DATA_HOME, in a checkout .orchestrator/.",
)
@click.option(
    "--dist",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ORCHESTRATOR_DIST",
    help="Where deployments are written: dist/ in the project folder, or where you are.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show versions."
)
@click.pass_context
def cli(ctx: click.Context, project: Path | None, store: Path | None, dist: Path | None) -> None:
    """From a recipe to a quantized, checked, measured TensorRT-LLM deployment."""
    from orchestrator.planner.constants import calibrations_of  # noqa: PLC0415 - `--help` does not need it

    settings = ctx.obj = Settings(project, store, dist)
    _tell_of_leftovers(settings)
    ctx.with_resource(calibrations_of(lambda: click.get_current_context().obj.store.root))


def _tell_of_leftovers(settings: Settings) -> None:
    from orchestrator.app.leftovers import leftovers  # noqa: PLC0415 - `--help` does not need it

    for left in leftovers(settings):
        click.echo(f"note: an earlier version left {left.what} in {left.folder}. To move them:", err=True)
        for command in left.commands:
            click.echo(f"  {command}", err=True)


class _Terminated(KeyboardInterrupt):
    """SIGTERM stops as cleanly as the first Ctrl-C."""


def _on_terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    raise _Terminated


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        sys.exit(cli.main(standalone_mode=False))  # the status that a command passed to `ctx.exit`, else None
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OrchestratorError as error:
        _show(error)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort) as error:
        _end_interrupted(terminated=isinstance(error.__cause__ or error, _Terminated))  # click raises Abort from it
    except _ReaderLeftError:  # the reader may stop at any time
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last handler: a known system error, or a defect
        _end_unexpected(error)


def _end_interrupted(*, terminated: bool) -> None:
    word = "terminated" if terminated else "interrupted"
    click.echo(f"{word}; what finished is kept, the same command goes on from there", err=True)
    sys.exit(143 if terminated else 130)


def _end_unexpected(error: Exception) -> None:
    known = from_os_error(error, "working") if isinstance(error, OSError) else None
    if known:
        _show(known)
        sys.exit(known.exit_status)
    from orchestrator.cli.crash import without_secrets, write_report  # noqa: PLC0415 - only for a defect

    click.echo(without_secrets(f"error[DEFECT]: {type(error).__name__}: {error}"), err=True)
    click.echo(f"  this is a defect of ours; {write_report(error)} has what a report needs", err=True)
    sys.exit(1)


def _show(error: OrchestratorError) -> None:
    from orchestrator.cli.failure import show_error  # noqa: PLC0415 - only for an error

    show_error(error)


if __name__ == "__main__":
    main()
