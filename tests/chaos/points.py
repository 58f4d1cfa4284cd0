"""How a function is made to end its process when it is called for the n-th time; the program knows nothing of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Place = tuple[Any, str]


def wrap(place: Place, die: Callable[[], None], count: int, *, first: bool) -> None:
    """Put something around a function.

    Args:
        place: Its owner and its name there.
        die: What ends the process.
        count: At which call.
        first: Before the call, not after it.
    """
    left = [count]

    def pass_by() -> None:
        left[0] -= 1
        if left[0] <= 0:
            die()

    owner, name = place
    setattr(owner, name, _wrapped(getattr(owner, name), pass_by, first=first))


def _wrapped(function: Callable[..., Any], pass_by: Callable[[], None], *, first: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the function takes
        if first:
            pass_by()
        result = function(*arguments, **options)
        if not first:
            pass_by()
        return result

    return wrapped
