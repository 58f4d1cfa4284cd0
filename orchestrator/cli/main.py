"""Runs the command `orchestrator`. It ends in success, a known error, or a defect with a crash report."""

from __future__ import annotations

import atexit
import difflib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from orchestrator.cli.error_view import show_error
from orchestrator.errors import OrchestratorError, from_os_error

gc.set_threshold(100_000)  # Start-up creates tens of thousands of objects that stay. Skip 40 useless collections.
atexit.register(gc.freeze)  # Skip garbage collection at interpreter shutdown.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # Skip pydantic's search for plugins.

_COMMANDS = {
    "recipes": "List the recipes.",
    "recommend": "Recommend recipes for a purpose, a number of users and a time.",
    "new": "Write a recipe for a model of the Hub, a folder or a config.json.",
    "show": "Show a recipe with the source of each value.",
    "validate": "Check recipes without building them.",
    "plan": "Show whether a recipe fits, what it costs and what it does.",
    "estimate": "Estimate the memory and speed of any model from its config.json.",
    "compare": "Compare the formats of a model.",
    "build": "Build a recipe: download, quantize, check, measure, bundle.",
    "verify": "Build a recipe up to its checks and show the results.",
    "quality": "Compare searches for NVFP4's scales on a recipe's model.",
    "bench": "Measure a recipe's speed and keep the result.",
    "tune": "Find faster options for a recipe on this machine.",
    "measurements": "Show, export and import what was measured.",
    "bundle": "Write dist/ again from finished steps.",
    "verify-bundle": "Check a bundle's files and its signature.",
    "deploy": "Start the server of a built recipe and ask it one question.",
    "undeploy": "Stop and remove the server of a recipe.",
    "attach": "Follow a build that runs in another process.",
    "cancel": "Remove the jobs of a build from the queue of a cluster.",
    "status": "Show the newest builds and the deployments.",
    "logs": "Show the log of a step or of a server.",
    "lock": "Resolve a recipe's revisions to commits and write its lock.",
    "gc": "Remove results that are no longer used.",
    "calibrate": "Fit the planner to the benchmarks of this machine.",
    "doctor": "Check this machine.",
    "schema": "Print or check the JSON Schema of recipes.",
    "completion": "Print a script for command completion in a shell.",
}

EXIT_STATUSES = """\b
Exit statuses:
  0    done
  1    a defect of this program; it writes a report
  2    wrong usage of the command line
  3    bad input: a recipe, a lock, a catalogue file, a checkpoint
  4    refused: the plan cannot work on this target or image
  5    a step failed
  6    this machine: no Docker, disk space, permission or network
  7    a check failed: quality, integrity, drift
  130  interrupted (143: terminated)"""


class _ReaderLeftError(Exception):
    """The reader of our output has closed it, as `head` does after ten lines."""


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Raise a broken pipe under another name, because click would turn it into exit status 1."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        raise _ReaderLeftError from error


class _LazyGroup(click.Group):
    """Loads a command's module when it is called, so that `--help` is quick."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Read the command line, which may print help."""
        with _reader_may_leave():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        with _reader_may_leave():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"orchestrator.cli.commands.{cmd_name.replace('-', '_')}")
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
    help="Your folder with recipes/, docker/images.yaml or targets/. Default: the nearest above the working folder.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ORCHESTRATOR_STORE",
    help="The folder of results. Default: orchestrator/ in XDG_DATA_HOME; in a checkout, .orchestrator/.",
)
@click.option(
    "--dist",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ORCHESTRATOR_DIST",
    help="The folder of deployments. Default: dist/ in the project folder or in the working folder.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show versions."
)
@click.pass_context
def cli(ctx: click.Context, project: Path | None, store: Path | None, dist: Path | None) -> None:
    """From a recipe to a quantized, checked, measured TensorRT-LLM deployment."""
    from orchestrator.cli.session import open_session  # noqa: PLC0415 - loads what `--help` does not need

    open_session(ctx, project, store, dist)


class _Terminated(KeyboardInterrupt):
    """SIGTERM stops as cleanly as the first Ctrl-C."""


def _on_terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    raise _Terminated


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _on_terminate)
    _open_what_is_closed()
    try:
        sys.exit(cli.main(standalone_mode=False))  # the status that a command passed to `ctx.exit`, else None
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OrchestratorError as error:
        show_error(error)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort) as error:
        _end_interrupted(terminated=isinstance(error.__cause__ or error, _Terminated))  # click raises Abort from it
    except _ReaderLeftError:  # the reader may stop at any time
        _drop_output()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last handler: a known system error, or a defect
        _end_unexpected(error)


def _open_what_is_closed() -> None:
    """Open closed standard streams, as `>&-` leaves them, so that no file of ours gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def _drop_output() -> None:
    """Write the rest of standard output nowhere, because Python fails at its end if it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_interrupted(*, terminated: bool) -> None:
    word = "terminated" if terminated else "interrupted"
    click.echo(f"{word}; finished steps are kept, and the same command continues", err=True)
    sys.exit(143 if terminated else 130)


def _end_unexpected(error: Exception) -> None:
    known = from_os_error(error, "working") if isinstance(error, OSError) else None
    if known:
        show_error(known)
        _drop_output()
        sys.exit(known.exit_status)
    from orchestrator.cli.crash_report import without_secrets, write_report  # noqa: PLC0415 - only for a defect

    click.echo(without_secrets(f"error[DEFECT]: {type(error).__name__}: {error}"), err=True)
    click.echo(f"  this is a defect of this program; please report it with {write_report(error)}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
