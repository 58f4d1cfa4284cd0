"""Defines what the gateway must know of a runtime. `trtllm.py` is one such module; `runtimes.py` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from .documents import Serve
    from .options import MergedOptions, OptionTable
    from .routes import Route
    from .variables import Environment

Key: TypeAlias = tuple[str, ...]
"""A path in the configuration file: `("kv_cache_config", "dtype")`."""
Scalar: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class OptionNames:
    """A runtime's names of the options that the gateway sets or reads."""

    length: str
    """Tokens of prompt and answer together."""
    batch: str
    """Requests that are answered at once."""
    tensor_parallel: str | None
    """None: it has no such option, as of the next two."""
    pipeline_parallel: str | None
    trust: str | None
    """Runs Python code that is beside the model."""
    model_name: str


@dataclass(frozen=True)
class ConfigChanges:
    """A configuration file of the bundle."""

    file: Path
    flag: str
    """The option with which this version reads it."""
    changes: Mapping[Key, Scalar]
    """The changes for a copy of it."""


@dataclass(frozen=True)
class Links:
    """Links to the files of a read-only folder, for a server that writes beside them."""

    source: Path
    folder: Path
    place: str
    """Of the files within the folder."""


@dataclass(frozen=True)
class Prepared:
    """A runtime's own part of the start."""

    config: ConfigChanges | None = None
    """None: it has no configuration file."""
    guided: bool = True
    """It can force an answer into a format."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables."""
    words: tuple[str, ...] = ()
    """Further options."""
    links: Links | None = None
    """None: it reads the model where it is."""


class RuntimeKind(Protocol):
    """One runtime. Its module has these names."""

    @property
    def LABEL(self) -> str:  # noqa: N802 - a constant of a module
        """Its name in sentences."""

    @property
    def PROGRAM(self) -> str:  # noqa: N802
        """Its server's name in sentences."""

    @property
    def OPTIONS(self) -> OptionNames:  # noqa: N802
        """Its names of options."""

    @property
    def OWN_OPTIONS(self) -> Mapping[str, str]:  # noqa: N802
        """Options that the gateway sets itself, and what to do instead."""

    @property
    def GONE_OPTIONS(self) -> Mapping[str, str]:  # noqa: N802
        """Options of older versions, and what to write instead."""

    @property
    def GONE_VARIABLES(self) -> Mapping[str, str]:  # noqa: N802
        """Variables that it does not read any more or must not have, and what to do instead."""

    @property
    def MEANINGS(self) -> Mapping[str, str]:  # noqa: N802
        """What variables mean here, if it is not what they mean for TensorRT-LLM."""

    @property
    def METRICS_PATH(self) -> str | None:  # noqa: N802
        """The route of its metrics; None: it has none, and the gateway counts."""

    @property
    def METRICS(self) -> Mapping[str, str]:  # noqa: N802
        """NIM's name of each of its metrics."""

    @property
    def DEAD(self) -> frozenset[int]:  # noqa: N802
        """Statuses of its health check after which only a restart helps."""

    @property
    def KERNELS(self) -> tuple[str, ...]:  # noqa: N802
        """Patterns of its log lines that name a kernel, which is their first group."""

    @property
    def FIELDS(self) -> Mapping[str, frozenset[str]]:  # noqa: N802
        """The fields of a request, by route. It has no other routes for the model."""

    @property
    def IGNORED_FORMATS(self) -> frozenset[tuple[str, str]]:  # noqa: N802
        """Routes and formats of answers that a request may name and that it ignores without a word."""

    @property
    def STORED(self) -> tuple[Route, ...]:  # noqa: N802
        """The routes with the id of an answer in their path that it has."""

    def model_words(self, model: Path, engine: str | None) -> tuple[str, ...]:
        """Name the model, and the engine within its folder, on the command line."""

    def options_of(self, environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the options that variables set, besides those that every runtime has, with their origin."""

    def prepare(
        self, serve: Serve, environment: Environment, merged: MergedOptions, table: OptionTable, model: Path
    ) -> Prepared:
        """Decide what is specific to the runtime. Options may be changed in `merged`."""
