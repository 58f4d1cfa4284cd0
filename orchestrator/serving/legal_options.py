"""Checks a value against an option of a tool, for the rules of a plan."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from orchestrator.catalog.load import Option
from orchestrator.errors import Refusal
from orchestrator.recipe.model import OptionValue


def legal(where: str, option: Option, value: OptionValue) -> Iterator[Refusal]:
    """Refuse a value that an option does not take.

    Args:
        where: The value's key path in the recipe.
        option: The option.
        value: The value.
    """
    if not _has_type(option, value):
        expected = {"flag": "true or false", "int": "a whole number", "float": "a number", "str": "text"}[option.type]
        yield Refusal("OPTION_VALUE", f"{where} is {value!r}", f"{option.flags[0]} takes {expected}")
    elif option.choices and str(value) not in option.choices:
        close = difflib.get_close_matches(str(value), option.choices, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"one of {', '.join(option.choices)}"
        yield Refusal("OPTION_VALUE", f"{where} is {value!r}, which {option.flags[0]} does not take", hint)


def near(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest of the known names, else all of them."""
    names = [found.lstrip("-") for found in known]
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(names))}"


def _has_type(option: Option, value: OptionValue) -> bool:
    match option.type:
        case "flag":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "str":
            return not isinstance(value, bool)
