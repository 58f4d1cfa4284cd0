"""Checks a value against an option of a tool, for the rules of a plan."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.catalog.load import Option
from orchestrator.errors import RecipeInvalidError, Refusal
from orchestrator.recipe.model import OptionValue
from orchestrator.serving.server import Server


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


def flag_of(name: str) -> str:
    """Return the option that a recipe names with dashes or underscores."""
    return f"--{name.replace('_', '-')}"


def further_options(server: Server, own: Mapping[str, str], program: str) -> Iterator[str]:
    """Write `serve.options` of a server whose options have dashes.

    Args:
        server: The recipe and the server's options.
        own: Options that a recipe sets elsewhere, and where.
        program: The server's name.

    Raises:
        RecipeInvalidError: The server has no such option, or it is set elsewhere.
    """
    for name, value in server.recipe.serve.options.items():
        flag = flag_of(name)
        option = server.options.get(flag)
        if option is None or option.flags[0] in own:
            message = f"{server.recipe.name}: serve.options.{name}: not an option of {program} {server.image.version}"
            raise RecipeInvalidError(message, hint=own.get(flag, near(flag, server.options)))
        if option.type == "flag":
            yield flag if value is True else f"--no-{flag.removeprefix('--')}"
        else:
            yield from (flag, value if isinstance(value, str) else json.dumps(value))


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
