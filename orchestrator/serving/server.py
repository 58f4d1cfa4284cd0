"""Defines a runtime: how it is started, configured and measured, and what it refuses in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any, Protocol

from orchestrator.catalog.image import Image
from orchestrator.catalog.load import Option
from orchestrator.catalog.target import Target
from orchestrator.errors import Refusal
from orchestrator.executors.job import Argument
from orchestrator.recipe.model import Benchmark, Recipe
from orchestrator.values import frozen

DRAFT = "/draft"
"""The draft model's folder in a step's container."""

Command = tuple[Argument, ...]
Options = Mapping[str, Option]
"""The options of an image's server by every spelling, with dashes."""
Able = Callable[[Callable[[Image, Options], bool]], tuple[str, ...]]
"""Names the images of the same runtime that run on the target's processor and fulfil a condition."""


@frozen
class CacheMemory:
    """The memory of one GPU that a server may give its KV cache, as the plan calculates it."""

    cache: int
    """Bytes of the KV cache."""
    share: float
    """Share of the GPU's memory that is in use if the cache is full."""


@frozen
class Server:
    """A recipe that is served by an image on a target."""

    recipe: Recipe
    image: Image
    target: Target
    options: Options
    memory: Callable[[], CacheMemory]
    """Calculates the memory for the KV cache."""


@frozen
class Places:
    """The places of files and the address, for one command line."""

    checkpoint: Argument
    """The checkpoint, or what is left of it beside an engine that holds the weights."""
    host: str
    """The address to listen on: 0.0.0.0 if the port is published."""
    port: int
    engine: Argument | None = None
    """The folder of the TensorRT engine; None: the checkpoint is served."""
    file: Callable[[str], Argument] = str
    """Finds a configuration file of the runtime by its name."""
    draft: str = DRAFT


@frozen
class Run:
    """A benchmark to make commands for."""

    settings: Benchmark
    model: str
    """The model's name in reports."""
    output: Callable[[str], Argument]
    """Finds a file of the result by its name."""


@frozen
class EngineLimits:
    """What a TensorRT engine was built for; None if it does not tell."""

    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    max_seq_len: int | None = None
    max_batch_size: int | None = None


@frozen
class Measurement:
    """How a runtime is measured."""

    payload: str
    """Our payload that measures."""
    commands: tuple[Command, ...]
    """The commands that it runs in turn."""
    options: Command = ()
    """Further options of the payload."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Configuration files by name."""


class Runtime(Protocol):
    """One runtime. Its module has these names."""

    @property
    def LABEL(self) -> str:  # noqa: N802 - a constant of a module
        """Its name in sentences: `TensorRT-LLM`."""

    @property
    def COSTS(self) -> str:  # noqa: N802
        """Its name in the planner's constants."""

    @property
    def HUB_LIBRARY(self) -> str:  # noqa: N802
        """Its name on the Hub: a model card's `library_name`."""

    @property
    def SERVER(self) -> str:  # noqa: N802
        """Its server's name in sentences."""

    @property
    def MEASURED_BY(self) -> str:  # noqa: N802
        """What measures its speed, in sentences."""

    @property
    def CONTROL(self) -> str:  # noqa: N802
        """A route of its server that clients must not reach, as an example."""

    @property
    def HAS_BACKENDS(self) -> bool:  # noqa: N802
        """Whether a recipe chooses its backend."""

    @property
    def RESERVES_CACHE(self) -> bool:  # noqa: N802
        """Whether it takes the cache of all requests at their full length when it starts."""

    @property
    def CONVERTS(self) -> bool:  # noqa: N802
        """Whether the checkpoint is converted to another layout before an engine is built of it."""

    @property
    def ENGINE_FOLDER(self) -> str | None:  # noqa: N802
        """The folder of an engine beside the model's files in a bundle; None: it has no engines."""

    @property
    def ENGINE_HOLDS_WEIGHTS(self) -> bool:  # noqa: N802
        """Whether an engine is served without the checkpoint's weights."""

    @property
    def BUILD_OWN(self) -> Mapping[str, str]:  # noqa: N802
        """Options of its builder that `engine.build` must not have, and what they belong to."""

    @property
    def SPREADS_OVER_NODES(self) -> bool:  # noqa: N802
        """Whether a bundle serves one model from several machines with it."""

    @property
    def CONFIG(self) -> str | None:  # noqa: N802
        """The configuration file's name in a bundle; None: everything is on the command line."""

    @property
    def EAGLE3(self) -> frozenset[str]:  # noqa: N802
        """The architectures that it runs an EAGLE-3 head for."""

    @property
    def MTP(self) -> frozenset[str]:  # noqa: N802
        """The architectures whose own layers propose tokens in it."""

    @property
    def ALLOWS_LONGER(self) -> str:  # noqa: N802
        """The variable that lets it serve sequences that are longer than the model's trained length."""

    @property
    def LOADS_ONE_BY_ONE(self) -> str | None:  # noqa: N802
        """The variable without which it may pin all weights at once while it loads; None: it never does."""

    @property
    def KERNELS(self) -> tuple[str, ...]:  # noqa: N802
        """Patterns of its log lines that name a kernel, which is their first group."""

    def adopted(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add to the fields of a recipe of another runtime what this one must be told, for a comparison."""

    def command(self, server: Server, places: Places) -> Command:
        """Make the server's command line."""

    def arguments(self, server: Server, draft: str) -> tuple[str, ...]:
        """Make the recipe's own part of it, for a bundle: without model, names and address."""

    def starting(self, places: Places) -> Command:
        """Return options for our payloads that start the server in a step."""

    def files(self, server: Server) -> Mapping[str, str]:
        """Write the configuration files of a step by name."""

    def config(self, server: Server, draft: str) -> str:
        """Write the configuration file of a bundle; empty if there is none."""

    def environment(self, server: Server) -> Mapping[str, str]:
        """Return the variables of the server, those of the recipe among them."""

    def engine_limits(self, engine_config: Mapping[str, Any]) -> EngineLimits:
        """Read what an engine was built for from its config.json."""

    def measurement(self, server: Server, places: Places, run: Run) -> Measurement | None:
        """Say how it is measured; None if the image has no tool for it."""

    def kernels(self, server: Server) -> Mapping[str, tuple[str, ...]]:
        """Name the kernels to try: values by key path, as far as the image has them and the model uses them."""

    def refusals(self, server: Server, able: Able) -> Iterator[Refusal]:
        """List what the recipe asks for and this runtime or image does not have."""
