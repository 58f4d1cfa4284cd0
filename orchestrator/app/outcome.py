"""Decides whether a step succeeded: by its exit status and its outputs, never by a log line."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.errors import (
    CheckpointError,
    OutputMissingError,
    PlanRefusedError,
    StepFailedError,
    StepKilledError,
    StepOutOfMemoryError,
    by_code,
    machine_faults,
)
from orchestrator.events import Failure
from orchestrator.executors.job import Outcome
from orchestrator.steps.step import Output, Step

_TAIL = 12
"""Lines of a failed command's log in its error."""


def check_exit(step: Step, outcome: Outcome, failure: Failure | None, log: Path) -> None:
    """Raise if a command failed.

    Args:
        step: The step.
        outcome: How its command ended.
        failure: The error that the command reported, if any.
        log: Its log, for the last lines.

    Raises:
        OrchestratorError: The reported error, or one that describes the exit status.
    """
    if outcome.exit_status == 0:
        return
    if failure:
        kind = by_code(failure.code) or StepFailedError
        if issubclass(kind, PlanRefusedError):  # only the planner refuses plans, never a payload
            kind = StepFailedError
        message = f"{step.name}: {failure.message}"
        raise kind(message, hint=failure.hint)
    tail = tail_of(log)
    if outcome.out_of_memory:
        message = f"{step.name} was killed for memory (exit status {outcome.exit_status}){tail}"
        raise StepOutOfMemoryError(
            message, hint="free memory (drop the page cache, stop servers), or choose a smaller batch"
        )
    if outcome.killed:
        message = f"{step.name} was ended from outside (exit status {outcome.exit_status}){tail}"
        raise StepKilledError(message, hint="run the same command again; finished steps are kept")
    message = f"{step.name} ended with exit status {outcome.exit_status}{tail}"
    raise StepFailedError(message, hint="`orchestrator logs` shows the whole log")


def tail_of(log: Path) -> str:
    """Return the last lines of a log, for an error's message."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 8192))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-_TAIL:])


def check_outputs(step: Step, out: Path) -> None:
    """Check that a step left every declared output, and that each is valid.

    Raises:
        OutputMissingError: Names the first output that is missing or not valid.
    """
    with machine_faults(f"checking the result of {step.name}"):
        for output in step.outputs:
            found = sorted(out.glob(output.pattern))
            if not found:
                message = f"{step.name} ended with exit status 0, but left no {output.pattern}"
                raise OutputMissingError(message, hint="`orchestrator logs` shows the whole log")
            for path in found:
                _check_output(step, output, path)


def _check_output(step: Step, output: Output, path: Path) -> None:
    where = f"{step.name} left {path.name}, but"
    if output.kind == "folder":
        if not any(path.iterdir()):
            message = f"{where} the folder is empty"
            raise OutputMissingError(message)
        return
    if path.stat().st_size == 0:
        message = f"{where} it is empty"
        raise OutputMissingError(message)
    if output.kind == "json":
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            message = f"{where} it is not JSON: {error}"
            raise OutputMissingError(message) from error
    elif output.kind == "safetensors":
        from orchestrator.quantization import header  # noqa: PLC0415 - loads NumPy, which a plan does not need

        try:
            header.read(path)
        except CheckpointError as error:
            message = f"{where} it does not parse: {error.message}"
            raise OutputMissingError(message) from error
