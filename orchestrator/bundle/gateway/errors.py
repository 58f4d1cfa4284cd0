"""Errors that end the program: one message, one exit status, no traceback.

| status | meaning |
|---|---|
| 0 | done, or stopped by a signal |
| 2 | wrong usage of the command line |
| 3 | a document of the bundle, a key file or a certificate is missing or invalid |
| 4 | refused: variables contradict each other or the model |
| 5 | the runtime ended |
| 6 | a port is in use, or a library is missing |
| 7 | the runtime hung |
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """A failure that the operator can act on.

    Args:
        message: One line.
        last_lines: The last lines of the runtime, if they may say why.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.last_lines = last_lines


class UsageError(GatewayError):
    """An action or argument that does not exist."""

    exit_status = 2


class DocumentError(GatewayError):
    """A file that cannot be read or has invalid content."""

    exit_status = 3


class ContradictionError(GatewayError):
    """Contradictory settings."""

    exit_status = 4


class RuntimeEndedError(GatewayError):
    """The runtime's process ended by itself."""

    exit_status = 5


class MachineError(GatewayError):
    """A port, a file system or a library."""

    exit_status = 6


class RuntimeHungError(GatewayError):
    """The runtime's process runs, but has given no sign for too long."""

    exit_status = 7
