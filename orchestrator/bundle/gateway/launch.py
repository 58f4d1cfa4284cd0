"""Decides how trtllm-serve is started: the recipe's options, changed by variables and by the command line.

Later ones win: the recipe, NIM_* variables, NIM_PASSTHROUGH_ARGS, the command line. Older versions let the
configuration file win over the command line, so what stands in the file is changed there, in a copy.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from .documents import Serve, ServeOption
from .errors import ContradictionError, DocumentError, MachineError, UsageError
from .settings import Settings
from .variables import Environment

Key: TypeAlias = tuple[str, ...]
"""A place in the configuration file: `("kv_cache_config", "dtype")`."""
Scalar: TypeAlias = bool | int | float | str | None

_OURS = {
    "--host": "trtllm-serve listens on 127.0.0.1, and the gateway in front of it",
    "--port": "NIM_SERVER_PORT is the port of clients, NIM_GATEWAY_ENGINE_PORT that of trtllm-serve",
    "--config": "change trtllm_config.yaml",
    "--tokenizer": "the tokenizer lies in the model's folder",
    "--served_model_name": "set NIM_SERVED_MODEL_NAME",
    "--grpc": "the gateway speaks HTTP",
}
"""Options that the server sets itself, and what to do instead of giving them."""

_IN_FILE: Mapping[str, Key] = {
    "--free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
    "--kv_cache_dtype": ("kv_cache_config", "dtype"),
    "--enable_chunked_prefill": ("enable_chunked_prefill",),
}
"""Options that the configuration file has a key for as well."""

_DRAFT: Key = ("speculative_config", "speculative_model_dir")
_LEVELS = {"DEFAULT": "info", "CRITICAL": "error"}
_WHOLE = 100
"""Per cent."""


@dataclass(frozen=True)
class Launch:
    """A decided start of trtllm-serve."""

    argv: tuple[str, ...]
    """Without the configuration file."""
    model: Path
    config: Path
    """The bundle's configuration file."""
    config_flag: str
    """The option by which this version takes it."""
    changes: Mapping[Key, Scalar]
    """What to change in a copy of it."""
    max_model_len: int | None
    """Tokens of prompt and answer together, as far as they are limited and known."""

    def command(self, config: Path) -> tuple[str, ...]:
        """Give the whole command line with a configuration file."""
        return (*self.argv, self.config_flag, str(config))


@dataclass(frozen=True)
class _Given:
    """An option with its value, and who gave it."""

    option: ServeOption
    words: tuple[str, ...]
    origin: str

    @property
    def name(self) -> str:
        return self.option.flags[0]

    @property
    def value(self) -> str:
        return self.words[-1]


@dataclass
class _Merge:
    """Options of several origins; a later origin replaces what an earlier one gave."""

    options: dict[str, tuple[_Given, ...]] = field(default_factory=dict)

    def add(self, given: Sequence[_Given]) -> None:
        fresh: dict[str, tuple[_Given, ...]] = {}
        for each in given:
            fresh[each.name] = (*fresh.get(each.name, ()), each)
        self.options |= fresh

    def last(self, name: str) -> _Given | None:
        found = self.options.get(name)
        return found[-1] if found else None


def decide(serve: Serve, settings: Settings, environment: Environment, arguments: Sequence[str]) -> Launch:
    """Decide the command line of trtllm-serve.

    Args:
        serve: What the recipe says.
        settings: The gateway's settings.
        environment: The variables.
        arguments: Options of trtllm-serve on the command line.

    Raises:
        UsageError: An option that this version does not have, or a value of another type.
        ContradictionError: The requested settings cannot be served.
        DocumentError: The model is missing.
    """
    table = _Table(serve)
    merged = _merge(table, serve, environment, arguments)
    _check_profile(serve, environment)
    _check_limits(serve, merged)
    model = _model(serve, environment)
    config = Path(serve.config)
    changes = dict(_changes(environment)) | _move_into_file(merged, config) | _move_draft(serve, model)
    argv = [*_words(environment, "NIM_GATEWAY_LAUNCHER"), *serve.command]
    argv += [str(model / serve.engine if serve.engine else model)]
    if serve.engine:
        argv += ["--tokenizer", str(model)]
    argv += ["--host", "127.0.0.1", "--port", str(settings.engine_port)]
    argv += [word for given in merged.options.values() for each in given for word in each.words]
    if table.has("--served_model_name"):
        argv += ["--served_model_name", settings.names[0]]
    config_flag = "--config" if table.has("--config") else "--extra_llm_api_options"
    length = merged.last("--max_seq_len")
    longest = int(length.value) if length else serve.limits.max_seq_len
    return Launch(tuple(argv), model, config, config_flag, changes, longest)


def _merge(table: _Table, serve: Serve, environment: Environment, arguments: Sequence[str]) -> _Merge:
    merged = _Merge()
    merged.add(table.parse(serve.arguments, "serve.json"))
    for origin, words in _from_variables(environment):
        merged.add(table.parse(words, origin))
    passed = _words(environment, "NIM_PASSTHROUGH_ARGS")
    merged.add(table.parse(passed, "NIM_PASSTHROUGH_ARGS", foreign=True))
    merged.add(table.parse(arguments, "the command line", foreign=True))
    return merged


def _words(environment: Environment, name: str) -> list[str]:
    """Split a variable as a shell would."""
    try:
        return shlex.split(environment.text(name) or "")
    except ValueError as error:
        message = f"{name} cannot be split into words: {error}"
        raise UsageError(message) from error


def write_config(launch: Launch, folder: Path) -> Path:
    """Write the configuration file with its changes into a folder; without changes the bundle's own is used.

    Raises:
        DocumentError: The file cannot be read.
        MachineError: PyYAML is missing.
    """
    if not launch.changes:
        return launch.config
    document = _read_config(launch.config)
    for key, value in launch.changes.items():
        place = document
        for part in key[:-1]:
            if place.get(part) is None:  # a section without a line is null
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                message = f"{launch.config}: {part}: expected a mapping"
                raise DocumentError(message)
        place[key[-1]] = value
    changed = folder / launch.config.name
    changed.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
    return changed


def _read_config(file: Path) -> dict[str, Any]:
    try:
        import yaml  # noqa: PLC0415 - trtllm-serve's image has it; needed for changes only
    except ImportError as error:
        message = f"PyYAML is missing, which is needed to change {file}: change the file instead"
        raise MachineError(message) from error
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        message = f"cannot read {file}: {error}"
        raise DocumentError(message) from error
    if not isinstance(found, dict):
        message = f"{file}: expected a mapping"
        raise DocumentError(message)
    return found


class _Table:
    """The options of this version's trtllm-serve."""

    def __init__(self, serve: Serve) -> None:
        self._version = serve.tensorrt_llm
        self._options = {flag: option for option in serve.options for flag in option.flags}

    def has(self, flag: str) -> bool:
        return flag in self._options

    def parse(self, words: Sequence[str], origin: str, *, foreign: bool = False) -> tuple[_Given, ...]:
        """Read options; foreign ones may not be those that the server sets itself."""
        return tuple(self._parse(words, origin, foreign=foreign))

    def _parse(self, words: Sequence[str], origin: str, *, foreign: bool) -> Iterator[_Given]:
        rest = list(words)
        while rest:
            flag, equals, value = rest.pop(0).partition("=")
            option = self._find(flag, origin)
            self._check_ours(option, flag, origin, foreign=foreign)
            if option.type == "flag":
                if equals:
                    self._refuse(f"{flag} takes no value", origin)
                yield _Given(option, (flag,), origin)
                continue
            if not equals:
                if not rest:
                    self._refuse(f"{flag} needs a value", origin)
                value = rest.pop(0)
            self._check_value(option, flag, value, origin)
            yield _Given(option, (flag, value), origin)

    def _find(self, flag: str, origin: str) -> ServeOption:
        if flag in self._options:
            return self._options[flag]
        if not flag.startswith("--"):
            self._refuse(f"expected an option of trtllm-serve, found {flag!r}", origin)
        near = difflib.get_close_matches(flag.replace("-", "_").replace("__", "--", 1), self._options, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self._refuse(f"trtllm-serve {self._version} has no option {flag}{hint}", origin)
        raise AssertionError  # refused above

    def _check_ours(self, option: ServeOption, flag: str, origin: str, *, foreign: bool) -> None:
        for ours, instead in _OURS.items():
            if foreign and ours in option.flags:
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
    def _refuse(told: str, origin: str) -> None:
        message = f"{origin}: {told}"
        raise UsageError(message)


def _from_variables(environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
    counts = {
        "NIM_TENSOR_PARALLEL_SIZE": "--tensor_parallel_size",
        "NIM_PIPELINE_PARALLEL_SIZE": "--pipeline_parallel_size",
        "NIM_MAX_MODEL_LEN": "--max_seq_len",
    }
    for name, flag in counts.items():
        number = environment.integer(name, least=1)
        if number is not None:
            yield f"{name}={number}", (flag, str(number))
    if environment.switch("NIM_TRUST_CUSTOM_CODE"):
        yield "NIM_TRUST_CUSTOM_CODE", ("--trust_remote_code",)
    level = environment.text("NIM_LOG_LEVEL")
    if level:
        yield f"NIM_LOG_LEVEL={level}", ("--log_level", _LEVELS.get(level, level.lower()))


def _changes(environment: Environment) -> Iterator[tuple[Key, Scalar]]:
    share = environment.number("NIM_KVCACHE_PERCENT")
    if share is not None:
        yield ("kv_cache_config", "free_gpu_memory_fraction"), _share(share)
    reuse = environment.switch("NIM_ENABLE_KV_CACHE_REUSE")
    if reuse is not None:
        yield ("kv_cache_config", "enable_block_reuse"), reuse
    if environment.switch("NIM_DISABLE_CUDA_GRAPH"):
        yield ("cuda_graph_config",), None
    guided = environment.text("NIM_GUIDED_DECODING_BACKEND")
    if guided:
        yield ("guided_decoding_backend",), guided
    metrics = environment.switch("NIM_PER_REQ_METRICS_ENABLE")
    if metrics is not None:
        yield ("return_perf_metrics",), metrics


def _share(value: float) -> float:
    """Read a share that may be written as per cent: NIM 1.x took 0.8, its name says 80."""
    share = value / _WHOLE if value > 1 else value
    if not 0 < share <= 1:
        message = f"NIM_KVCACHE_PERCENT={value:g}: expected a share such as 0.8, or per cent such as 80"
        raise ContradictionError(message)
    return share


def _move_into_file(merged: _Merge, config: Path) -> dict[Key, Scalar]:
    """Take options that the file decides off the command line, and into the file."""
    moved: dict[Key, Scalar] = {}
    asked = [(name, key) for name, key in _IN_FILE.items() if name in merged.options]
    document = _read_config(config) if asked else {}
    for name, key in asked:
        place: Any = document
        for part in key:
            place = place.get(part) if isinstance(place, dict) else None
        if place is not None:
            (given,) = merged.options.pop(name)[-1:]
            moved[key] = _typed(given)
    return moved


def _move_draft(serve: Serve, model: Path) -> dict[Key, Scalar]:
    """Let the file name the draft model where the model is: it was written for the image's own folder."""
    if serve.draft is None or model == Path(serve.model):
        return {}
    return {_DRAFT: str(model / serve.draft)}


def _typed(given: _Given) -> Scalar:
    match given.option.type:
        case "flag":
            return True
        case "int":
            return int(given.value)
        case "float":
            return float(given.value)
        case _:
            return given.value


def _check_profile(serve: Serve, environment: Environment) -> None:
    profile, asked = serve.profile, environment.text("NIM_MODEL_PROFILE")
    if asked and asked not in {profile.id, profile.name, "default", "tensorrt_llm"}:
        message = f"NIM_MODEL_PROFILE={asked}: this server has the profile {profile.id} ({profile.name}) only"
        raise ContradictionError(message)


def _check_limits(serve: Serve, merged: _Merge) -> None:
    limits = serve.limits
    exact = {
        "--tensor_parallel_size": limits.tensor_parallel_size,
        "--pipeline_parallel_size": limits.pipeline_parallel_size,
    }
    for name, built in exact.items():
        given = merged.last(name)
        if built is not None and given is not None and int(given.value) != built:
            message = (
                f"{given.origin} asks for {name} {given.value}, but the engine was built for {built}: build another one"
            )
            raise ContradictionError(message)
    for name, most in (("--max_seq_len", limits.max_seq_len), ("--max_batch_size", limits.max_batch_size)):
        given = merged.last(name)
        if most is not None and given is not None and int(given.value) > most:
            what = "the engine was built for" if serve.engine else "the model allows"
            message = f"{given.origin} asks for {name} {given.value}, but {what} {most} at most"
            raise ContradictionError(message)


def _model(serve: Serve, environment: Environment) -> Path:
    asked = environment.text("NIM_MODEL_PATH")
    if asked and "://" in asked:
        message = f"NIM_MODEL_PATH={asked}: nothing is downloaded here; name a folder of this machine"
        raise ContradictionError(message)
    model = Path(asked or serve.model)
    folders = [model, *(model / part for part in (serve.engine, serve.draft) if part)]
    for file in (folder / "config.json" for folder in folders):
        if not file.is_file():
            origin = f"NIM_MODEL_PATH={asked}" if asked else "the bundle's model"
            message = f"{origin}: {file} is missing: mount the model's folder, or name it with NIM_MODEL_PATH"
            raise DocumentError(message)
    return model
