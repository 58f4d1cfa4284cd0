"""Draws lines that stay in place on a terminal with rich, and prints others above them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

_FRAMES = 4
"""Refreshes a second."""


class Screen:
    """The display of a running step."""

    def __init__(self, lines: Callable[[int], Iterable[str]]) -> None:
        """Start to draw.

        Args:
            lines: Returns the display's lines for a number of columns.
        """
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
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
        """Draw at once, so that no old display follows the next output."""
        self._live.refresh()

    def say(self, line: str) -> None:
        """Print a line that stays, above the display."""
        self._console.print(escape(line))

    def close(self) -> None:
        """Restore the terminal."""
        self._live.stop()

    def _picture(self) -> Group:
        lines = self._lines(self._console.width)
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))
