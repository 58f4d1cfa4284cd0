"""Holds what the files of a model say without its weights: configurations and headers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property

from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from orchestrator.models.behaviour import require_loadable
from orchestrator.models.headers import Stored
from orchestrator.models.shape import Tensor
from orchestrator.models.stored import originals_of
from orchestrator.values import frozen

CONFIG, QUANT_CONFIG = "config.json", "hf_quant_config.json"


@frozen(eq=False)
class ModelFiles:
    """The configurations of a model, and what its checkpoint holds."""

    where: str
    """The folder, the file or the repository in messages."""
    config: Mapping[str, object]
    """The content of config.json."""
    quantization: Mapping[str, object] | None = None
    """The content of hf_quant_config.json; None if there is none."""
    weights: tuple[Tensor, ...] | None = None
    """The tensors by the headers of its files; None if no header was read."""
    commit: str | None = None
    """Of a repository on the Hub."""
    is_excerpt: bool = False
    """`config` may have those fields alone that decide sizes: the catalogue's, or those of a file by itself."""

    @classmethod
    def of(
        cls,
        where: str,
        config: Mapping[str, object],
        quantization: Mapping[str, object] | None,
        headers: Mapping[str, Stored] | None,
        commit: str | None = None,
    ) -> ModelFiles:
        """Join configurations and headers.

        Raises:
            CheckpointError: A packed tensor cannot be unpacked.
        """
        declared = config.get("quantization_config")
        inside = declared if isinstance(declared, Mapping) else None
        weights = None if headers is None else originals_of(headers, inside)
        return cls(where, config, quantization, weights, commit)

    @cached_property
    def shape(self) -> ModelShape:
        """The model's shape: tensors by headers if there are any, else by arithmetic.

        Raises:
            ArchitectureUnknownError: Its class is not that of a language model.
            ConfigInvalidError: A field is missing, impossible, contradicts another, or is not understood.
        """
        found = shape_of(self.config, self.where, self.weights)
        require_loadable(self.config, self.where, is_excerpt=self.is_excerpt)
        return found

    @property
    def brings_code(self) -> bool:
        """Whether config.json names Python files of the repository."""
        return "auto_map" in self.config

    def to_document(self) -> dict[str, object]:
        """Convert it to JSON, for `from_document`."""
        weights = self.weights and [(t.name, t.shape, t.count, t.dtype, t.stacked, t.stored) for t in self.weights]
        return {"config": self.config, "quantization": self.quantization, "weights": weights}

    @classmethod
    def from_document(cls, document: object, where: str, commit: str) -> ModelFiles | None:
        """Read what `to_document` wrote; None if it is damaged."""
        match document:
            case {"config": dict(config), "quantization": dict() | None as quantization, "weights": None}:
                return cls(where, config, quantization, commit=commit)
            case {"config": dict(config), "quantization": dict() | None as quantization, "weights": [*rows]}:
                weights = tuple(_tensors(rows))
                return cls(where, config, quantization, weights, commit) if len(weights) == len(rows) else None
            case _:
                return None


def _tensors(rows: Iterable[object]) -> Iterable[Tensor]:
    """Read the rows that describe a tensor; it ends at one that does not."""
    for row in rows:
        match row:
            case [str(name), [*shape], int(count), "BF16" | "F32" as dtype, bool(stacked), int(stored)]:
                sizes = tuple(size for size in shape if isinstance(size, int))
                yield Tensor(name, sizes, count=count, dtype=dtype, stacked=stacked, stored=stored)
            case _:
                return


def an_object(found: object, where: str) -> dict[str, object]:
    """Check that a JSON value is an object of readable text.

    Raises:
        ConfigInvalidError: It is something else.
    """
    if not isinstance(found, dict):
        message = f"{where}: found a {type(found).__name__}, expected an object"
        raise ConfigInvalidError(message)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = f"{where}: found {error.object[error.start]!a} in a name or value, which is half of a character"
        raise ConfigInvalidError(message) from None
    return found
