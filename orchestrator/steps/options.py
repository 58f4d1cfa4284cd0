"""Turns a recipe's `options` tables into arguments of another tool, checked against the tool's options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from orchestrator.catalog.load import Option
from orchestrator.errors import RecipeInvalidError
from orchestrator.executors.job import Argument
from orchestrator.recipe.model import OptionValue
from orchestrator.values import frozen


@frozen
class OptionTable:
    """The options that a recipe gives for one tool."""

    where: str
    """The recipe and the key path of the table, for messages."""
    given: Mapping[str, OptionValue]
    """By name without dashes."""
    known: Mapping[str, Option]
    """Every option of the tool by every spelling."""

    def merged(
        self, own: Mapping[str, Argument], defaults: Mapping[str, OptionValue] | None = None
    ) -> tuple[Argument, ...]:
        """Put the step's own options first, then the defaults that the recipe does not replace, then the recipe's.

        Args:
            own: Options of the step. A recipe must not set them.
            defaults: What the recipe may replace.

        Raises:
            RecipeInvalidError: The tool does not have an option, its type is wrong, or it is the step's own.
        """
        for name, value in self.given.items():
            self._check(name, value, own)
        spelled = {self._flag(name) for name in self.given}
        kept = {name: value for name, value in (defaults or {}).items() if not self._same(name) & spelled}
        arguments: list[Argument] = [argument for name, value in own.items() for argument in (f"--{name}", value)]
        for name, value in (kept | dict(self.given)).items():
            arguments += self._render(name, value)
        return tuple(arguments)

    def _flag(self, name: str) -> str:
        return f"--{name}"

    def _same(self, name: str) -> frozenset[str]:
        """Every spelling of one option."""
        option = self.known.get(self._flag(name))
        return frozenset(option.flags) if option else frozenset({self._flag(name)})

    def _check(self, name: str, value: OptionValue, own: Mapping[str, Argument]) -> None:
        option = self.known.get(self._flag(name))
        if option is None:
            names = [flag.lstrip("-") for flag in self.known]
            close = difflib.get_close_matches(name, names, n=1)
            message = f"{self.where}.{name}: the image's tool has no option --{name}"
            raise RecipeInvalidError(message, hint=f"did you mean `{close[0]}`?" if close else "")
        if any(f"--{mine}" in option.flags for mine in own):
            message = f"{self.where}.{name}: --{name} is decided by the step"
            raise RecipeInvalidError(message, hint="remove it, and set the field of the recipe that it belongs to")
        problem = mismatch(option, value)
        if problem:
            message = f"{self.where}.{name}: {problem}; found {value!r}"
            raise RecipeInvalidError(message)

    def _render(self, name: str, value: OptionValue) -> list[Argument]:
        flag = self._flag(name)
        if self.known[flag].type != "flag":
            return [flag, spelled(value)]
        if value:
            return [flag]
        opposite = f"--no-{name}"
        return [opposite] if opposite in self.known else []


def spelled(value: OptionValue) -> str:
    """Write a value as the tools' own parsers read it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def mismatch(option: Option, value: OptionValue) -> str | None:
    """Describe what an option expects, for a wrong value."""
    if option.choices:
        return None if spelled(value) in option.choices else f"expected one of {', '.join(option.choices)}"
    fits = {
        "flag": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "str": not isinstance(value, bool),
    }
    expected = {"flag": "true or false", "int": "a whole number", "float": "a number", "str": "a string"}
    return None if fits[option.type] else f"expected {expected[option.type]}"
