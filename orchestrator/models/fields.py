"""Reads a config.json field by field, and reports missing or impossible fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from orchestrator.errors import ConfigInvalidError

_LIMITS: Mapping[str, int] = {
    "num_hidden_layers": 2048,
    "num_experts": 2**14,
    "num_local_experts": 2**14,
    "n_routed_experts": 2**14,
    "max_position_embeddings": 2**31,
    "vocab_size": 2**24,
}
_LIMIT = 2**22
"""More than ten times the largest dimension of any published model. A larger number is an error."""


@dataclass(frozen=True)
class Fields:
    """The fields of one config.json, or of a part of it."""

    data: Mapping[str, object]
    where: str = "config.json"
    """For messages: the file and the path of this part."""

    def has(self, name: str) -> bool:
        """Tell whether a field is there and not null."""
        return self.data.get(name) is not None

    def size(self, *names: str) -> int:
        """Read a whole number from 1, under the first of its names that is present.

        Raises:
            ConfigInvalidError: None is present, or the number is invalid.
        """
        found = next((name for name in names if self.has(name)), None)
        if found is None:
            self.missing(*names)
        return self._number(found, 1)

    def size_or(self, name: str, default: int) -> int:
        """Read a whole number from 1, or the default of the architecture's own code."""
        return self._number(name, 1) if self.has(name) else default

    def count(self, name: str) -> int:
        """Read a whole number from 0."""
        if not self.has(name):
            self.missing(name)
        return self._number(name, 0)

    def count_or(self, name: str, default: int) -> int:
        """Read a whole number from 0, or take the default."""
        return self._number(name, 0) if self.has(name) else default

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false, or take the default."""
        if not self.has(name):
            return default
        value = self.data[name]
        if not isinstance(value, bool):
            self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """Read a string."""
        if not self.has(name):
            self.missing(name)
        value = self.data[name]
        if not isinstance(value, str):
            self.wrong(name, "a text")
        return value

    def part(self, name: str) -> Fields:
        """Read a nested object."""
        if not self.has(name):
            self.missing(name)
        value = self.data[name]
        if not isinstance(value, Mapping):
            self.wrong(name, "an object")
        return Fields(value, f"{self.where}: {name}")

    def items(self, name: str, length: int | None = None) -> list[object]:
        """Read a list, with a given length if another field determines it."""
        if not self.has(name):
            self.missing(name)
        value = self.data[name]
        if not isinstance(value, list | tuple):
            self.wrong(name, "a list")
        if length is not None and len(value) != length:
            message = f"{self.where}: {name} has {len(value)} entries, expected {length} as num_hidden_layers says"
            raise ConfigInvalidError(message)
        return list(value)

    def missing(self, *names: str) -> NoReturn:
        """Raise for a missing field."""
        message = f"{self.where}: {' or '.join(names)} is missing, and no size follows without it"
        raise ConfigInvalidError(message, hint="take the config.json of the model itself, complete")

    def wrong(self, name: str, expected: str) -> NoReturn:
        """Raise for a field with an impossible value."""
        message = f"{self.where}: {name}: found {self.data.get(name)!r:.80}, expected {expected}"
        raise ConfigInvalidError(message)

    def _number(self, name: str, least: int) -> int:
        value = self.data[name]
        most = _LIMITS.get(name, _LIMIT)
        if type(value) is not int or not least <= value <= most:
            self.wrong(name, f"a whole number from {least} to {most}")
        return value
