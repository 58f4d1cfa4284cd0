"""Reads options of the runtime, from the recipe, variables and the command line. Later ones win."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from .documents import Serve, ServeOption
from .errors import UsageError


@dataclass(frozen=True)
class SetOption:
    """An option with its value and origin."""

    option: ServeOption
    words: tuple[str, ...]
    origin: str

    @property
    def name(self) -> str:
        """Its first spelling."""
        return self.option.flags[0]

    @property
    def value(self) -> str:
        """Its value; a flag is its own."""
        return self.words[-1]


@dataclass
class MergedOptions:
    """Options of several origins. A later origin replaces an option of an earlier one."""

    options: dict[str, tuple[SetOption, ...]] = field(default_factory=dict)

    def add(self, given: Sequence[SetOption]) -> None:
        """Add the options of the next origin."""
        fresh: dict[str, tuple[SetOption, ...]] = {}
        for each in given:
            fresh[each.name] = (*fresh.get(each.name, ()), each)
        self.options |= fresh

    def last(self, name: str) -> SetOption | None:
        """Return an option as it was set last."""
        found = self.options.get(name)
        return found[-1] if found else None

    @property
    def words(self) -> Iterator[str]:
        """Every option as words of a command line."""
        return (word for given in self.options.values() for each in given for word in each.words)


class OptionTable:
    """The options of this version's server.

    Args:
        serve: The recipe's settings with every option.
        program: The server's name.
        own: Options that the gateway sets itself, and what to do instead.
        gone: Options of older versions, and what to write instead.
    """

    def __init__(self, serve: Serve, program: str, own: Mapping[str, str], gone: Mapping[str, str]) -> None:
        self._version = serve.version
        self._program = program
        self._own = own
        self._gone = gone
        self._options = {flag: option for option in serve.options for flag in option.flags}

    def has(self, flag: str) -> bool:
        """Tell whether this version has an option."""
        return flag in self._options

    def parse(self, words: Sequence[str], origin: str, *, from_user: bool = False) -> tuple[SetOption, ...]:
        """Read options. A user may not give those that the server sets itself."""
        return tuple(self._parse(words, origin, from_user=from_user))

    def _parse(self, words: Sequence[str], origin: str, *, from_user: bool) -> Iterator[SetOption]:
        rest = list(words)
        while rest:
            flag, equals, value = rest.pop(0).partition("=")
            option = self._find(flag, origin)
            self._check_settable(option, flag, origin, from_user=from_user)
            if option.type == "flag":
                if equals:
                    self._refuse(f"{flag} takes no value", origin)
                yield SetOption(option, (flag,), origin)
                continue
            if not equals:
                if not rest:
                    self._refuse(f"{flag} needs a value", origin)
                value = rest.pop(0)
            self._check_value(option, flag, value, origin)
            yield SetOption(option, (flag, value), origin)

    def _find(self, flag: str, origin: str) -> ServeOption:
        if flag in self._options:
            return self._options[flag]
        if not flag.startswith("--"):
            self._refuse(f"expected an option of {self._program}, found {flag!r}", origin)
        if flag in self._gone:
            self._refuse(f"{self._program} {self._version} has no option {flag} any more: {self._gone[flag]}", origin)
        near = difflib.get_close_matches(flag, self._options, 1) or difflib.get_close_matches(
            flag.replace("-", "_").replace("__", "--", 1), self._options, 1
        )
        hint = f"; did you mean {near[0]}?" if near else ""
        return self._refuse(f"{self._program} {self._version} has no option {flag}{hint}", origin)

    def _check_settable(self, option: ServeOption, flag: str, origin: str, *, from_user: bool) -> None:
        for flag_of_server, instead in self._own.items():
            if from_user and flag_of_server in option.flags:
                self._refuse(f"{flag} is set by the server: {instead}", origin)

    def _check_value(self, option: ServeOption, flag: str, value: str, origin: str) -> None:
        kinds = {"int": int, "float": float}
        try:
            kinds.get(option.type, str)(value)
        except ValueError:
            self._refuse(f"{flag} {value}: expected a value of type {option.type}", origin)
        if option.choices and value not in option.choices:
            self._refuse(f"{flag} {value}: expected one of {', '.join(option.choices)}", origin)

    @staticmethod
    def _refuse(problem: str, origin: str) -> NoReturn:
        message = f"{origin}: {problem}"
        raise UsageError(message)
