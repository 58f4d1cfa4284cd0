"""A few lines that stay in place on a terminal, with what is said above them; drawn by rich on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

_FRAMES = 4
"""Pictures a second."""


class Screen:
    """The picture of a step that runs."""

    def __init__(self, lines: Callable[[int], Iterable[str]]) -> None:
        """Begin to draw.

        Args:
            lines: Gives the picture's lines for a terminal of so many columns.
        """
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._lines = lines
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=_FRAMES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def draw(self) -> None:
        """Draw at once: what is printed next must not be followed by an old picture."""
        self._live.refresh()

    def say(self, line: str) -> None:
        """Print a line that stays, above the picture."""
        self._console.print(escape(line))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def _picture(self) -> Group:
        lines = self._lines(self._console.width)
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))
