"""Decides how the runtime is started: the recipe's options, changed by variables and by the command line.

Later ones win: the recipe, NIM_* variables, NIM_PASSTHROUGH_ARGS, the command line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .documents import Serve
from .errors import ContradictionError, DocumentError, UsageError
from .options import MergedOptions, OptionTable
from .runtimes import RUNTIMES
from .settings import Settings
from .starting import ConfigChanges, Links, OptionNames, RuntimeKind
from .variables import Environment


@dataclass(frozen=True)
class Launch:
    """The command and the configuration that start the runtime."""

    kind: RuntimeKind
    argv: tuple[str, ...]
    """Without the configuration file."""
    model: Path
    config: ConfigChanges | None
    """The bundle's configuration file, if the runtime has one."""
    max_model_len: int | None
    """Tokens of prompt and answer together; None if not known or not limited."""
    guided: bool
    """The runtime can force an answer into a format."""
    max_batch_size: int | None
    """Requests that are answered at once; None: the runtime's own default."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the runtime."""
    links: Links | None = None
    """Made before the runtime starts."""

    def command(self, config: Path | None = None) -> tuple[str, ...]:
        """Return the whole command line, with the bundle's configuration file or another one."""
        if self.config is None:
            return self.argv
        return (*self.argv, self.config.flag, str(config or self.config.file))


def decide_launch(serve: Serve, settings: Settings, environment: Environment, arguments: Sequence[str]) -> Launch:
    """Decide the command line of the runtime.

    Args:
        serve: The recipe's settings.
        settings: The gateway's settings.
        environment: The variables.
        arguments: Options of the runtime on the command line.

    Raises:
        UsageError: An option that this version does not have, or a value of another type.
        ContradictionError: The requested settings cannot be served.
        DocumentError: The model is missing.
    """
    kind = RUNTIMES[serve.runtime]
    table = OptionTable(serve, kind.PROGRAM, kind.OWN_OPTIONS, kind.GONE_OPTIONS)
    _check_variables(kind, environment)
    merged = _merge(table, kind, serve, environment, arguments)
    _check_profile(serve, environment)
    _check_limits(serve, kind.OPTIONS, merged)
    model = _model(serve, environment)
    prepared = kind.prepare(serve, environment, merged, table, model)
    argv = [*_words(environment, "NIM_GATEWAY_LAUNCHER"), *serve.command]
    argv += [*kind.model_words(model, serve.engine), "--host", "127.0.0.1", "--port", str(settings.runtime_port)]
    argv += [*merged.words, *prepared.words]
    if table.has(kind.OPTIONS.model_name):
        argv += [kind.OPTIONS.model_name, settings.names[0]]
    length, batch = merged.last(kind.OPTIONS.length), merged.last(kind.OPTIONS.batch)
    return Launch(
        kind=kind,
        argv=tuple(argv),
        model=model,
        config=prepared.config,
        max_model_len=_count(length.value) if length else serve.limits.max_seq_len,
        guided=prepared.guided,
        max_batch_size=_count(batch.value) if batch else serve.limits.max_batch_size,
        environment=prepared.environment,
        links=prepared.links,
    )


def _count(value: str) -> int | None:
    """Read a number; None for a word such as `auto`."""
    return int(value) if value.isdecimal() else None


def _check_variables(kind: RuntimeKind, environment: Environment) -> None:
    for name, instead in kind.GONE_VARIABLES.items():
        if environment.other(name):
            message = f"{name} is not for {kind.PROGRAM}: {instead}"
            raise ContradictionError(message)


def _merge(
    table: OptionTable, kind: RuntimeKind, serve: Serve, environment: Environment, arguments: Sequence[str]
) -> MergedOptions:
    merged = MergedOptions()
    merged.add(table.parse(serve.arguments, "serve.json"))
    for origin, words in _from_variables(kind, environment):
        merged.add(table.parse(words, origin))
    passed = _words(environment, "NIM_PASSTHROUGH_ARGS")
    merged.add(table.parse(passed, "NIM_PASSTHROUGH_ARGS", from_user=True))
    merged.add(table.parse(arguments, "the command line", from_user=True))
    return merged


def _words(environment: Environment, name: str) -> list[str]:
    """Split a variable as a shell would."""
    try:
        return shlex.split(environment.text(name) or "")
    except ValueError as error:
        message = f"{name} cannot be split into words: {error}"
        raise UsageError(message) from error


def _from_variables(kind: RuntimeKind, environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
    counts = {
        "NIM_TENSOR_PARALLEL_SIZE": kind.OPTIONS.tensor_parallel,
        "NIM_PIPELINE_PARALLEL_SIZE": kind.OPTIONS.pipeline_parallel,
        "NIM_MAX_MODEL_LEN": kind.OPTIONS.length,
    }
    for name, flag in counts.items():
        number = environment.integer(name, minimum=1)
        if number is not None:
            yield f"{name}={number}", (_had(kind, flag, name), str(number))
    if environment.switch("NIM_TRUST_CUSTOM_CODE"):
        yield "NIM_TRUST_CUSTOM_CODE", (_had(kind, kind.OPTIONS.trust, "NIM_TRUST_CUSTOM_CODE"),)
    yield from kind.options_of(environment)


def _had(kind: RuntimeKind, flag: str | None, name: str) -> str:
    if flag is None:
        message = f"{name}: {kind.PROGRAM} has no such setting"
        raise ContradictionError(message)
    return flag


def _check_profile(serve: Serve, environment: Environment) -> None:
    profile, name = serve.profile, environment.text("NIM_MODEL_PROFILE")
    if name and name not in {profile.id, profile.name, "default", serve.runtime}:
        message = f"NIM_MODEL_PROFILE={name}: this server has the profile {profile.id} ({profile.name}) only"
        raise ContradictionError(message)


def _check_limits(serve: Serve, names: OptionNames, merged: MergedOptions) -> None:
    limits = serve.limits
    exact = {
        names.tensor_parallel: limits.tensor_parallel_size,
        names.pipeline_parallel: limits.pipeline_parallel_size,
    }
    for name, built in exact.items():
        given = merged.last(name) if name else None
        if built is not None and given is not None and int(given.value) != built:
            what = f"the TensorRT engine was built for {built}: build another one"
            message = f"{given.origin} asks for {name} {given.value}, but {what}"
            raise ContradictionError(message)
    for name, limit in ((names.length, limits.max_seq_len), (names.batch, limits.max_batch_size)):
        given = merged.last(name)
        if limit is not None and given is not None and (_count(given.value) or 0) > limit:
            what = "the TensorRT engine was built for" if serve.engine else "the model allows"
            message = f"{given.origin} asks for {name} {given.value}, but {what} {limit} at most"
            raise ContradictionError(message)


def _model(serve: Serve, environment: Environment) -> Path:
    given = environment.text("NIM_MODEL_PATH")
    if given and "://" in given:
        message = f"NIM_MODEL_PATH={given}: nothing is downloaded; set it to a local folder"
        raise ContradictionError(message)
    model = Path(given or serve.model)
    folders = [model, *(model / part for part in (serve.engine, serve.draft) if part)]
    for file in (folder / "config.json" for folder in folders):
        if not file.is_file():
            origin = f"NIM_MODEL_PATH={given}" if given else "the bundle's model"
            message = f"{origin}: {file} is missing: mount the model's folder, or name it with NIM_MODEL_PATH"
            raise DocumentError(message)
    return model
