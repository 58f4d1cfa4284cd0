"""Decides how trtllm-serve is started: the recipe's options, changed by variables and by the command line.

Later ones win: the recipe, NIM_* variables, NIM_PASSTHROUGH_ARGS, the command line. In older versions the configuration
file wins over the command line. So an option that the file has too is changed there, in a copy.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from .documents import Serve, ServeOption
from .errors import ContradictionError, DocumentError, MachineError, UsageError
from .settings import Settings
from .variables import Environment

Key: TypeAlias = tuple[str, ...]
"""A path in the configuration file: `("kv_cache_config", "dtype")`."""
Scalar: TypeAlias = bool | int | float | str | None

_SET_BY_SERVER = {
    "--host": "trtllm-serve listens on 127.0.0.1; NIM_GATEWAY_HOST is the address for clients",
    "--port": "NIM_SERVER_PORT is the port for clients, NIM_GATEWAY_RUNTIME_PORT that of trtllm-serve",
    "--config": "change trtllm_config.yaml",
    "--tokenizer": "the tokenizer is in the model's folder",
    "--served_model_name": "set NIM_SERVED_MODEL_NAME",
    "--grpc": "the gateway speaks HTTP",
}
"""Options that the server sets itself, and what to do instead."""

_FILE_KEYS: Mapping[str, Key] = {
    "--free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
    "--kv_cache_dtype": ("kv_cache_config", "dtype"),
    "--enable_chunked_prefill": ("enable_chunked_prefill",),
}
"""Options that also have a key in the configuration file."""

_GUIDED: Key = ("guided_decoding_backend",)
_DRAFT: Key = ("speculative_config", "speculative_model_dir")
_LEVELS = {"DEFAULT": "info", "CRITICAL": "error"}


@dataclass(frozen=True)
class Launch:
    """The command and the configuration that start trtllm-serve."""

    argv: tuple[str, ...]
    """Without the configuration file."""
    model: Path
    config: Path
    """The bundle's configuration file."""
    config_flag: str
    """The option with which this version reads it."""
    changes: Mapping[Key, Scalar]
    """The changes for a copy of it."""
    max_model_len: int | None
    """Tokens of prompt and answer together; None if not known or not limited."""
    guided: bool
    """trtllm-serve can force an answer into a format: `guided_decoding_backend` is set."""
    max_batch_size: int | None
    """Requests that are answered at once; None: trtllm-serve's own default."""

    def command(self, config: Path) -> tuple[str, ...]:
        """Return the whole command line with a configuration file."""
        return (*self.argv, self.config_flag, str(config))


@dataclass(frozen=True)
class _SetOption:
    """An option with its value and origin."""

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
class _MergedOptions:
    """Options of several origins. A later origin replaces an option of an earlier one."""

    options: dict[str, tuple[_SetOption, ...]] = field(default_factory=dict)

    def add(self, given: Sequence[_SetOption]) -> None:
        fresh: dict[str, tuple[_SetOption, ...]] = {}
        for each in given:
            fresh[each.name] = (*fresh.get(each.name, ()), each)
        self.options |= fresh

    def last(self, name: str) -> _SetOption | None:
        found = self.options.get(name)
        return found[-1] if found else None


def decide_launch(serve: Serve, settings: Settings, environment: Environment, arguments: Sequence[str]) -> Launch:
    """Decide the command line of trtllm-serve.

    Args:
        serve: The recipe's settings.
        settings: The gateway's settings.
        environment: The variables.
        arguments: Options of trtllm-serve on the command line.

    Raises:
        UsageError: An option that this version does not have, or a value of another type.
        ContradictionError: The requested settings cannot be served.
        DocumentError: The model is missing.
    """
    table = _OptionTable(serve)
    merged = _merge(table, serve, environment, arguments)
    _check_profile(serve, environment)
    _check_limits(serve, merged)
    model = _model(serve, environment)
    config = Path(serve.config)
    changes = dict(_changes(serve, environment)) | _move_into_file(merged, config) | _move_draft(serve, model)
    argv = [*_words(environment, "NIM_GATEWAY_LAUNCHER"), *serve.command]
    argv += [str(model / serve.engine if serve.engine else model)]
    if serve.engine:
        argv += ["--tokenizer", str(model)]
    argv += ["--host", "127.0.0.1", "--port", str(settings.runtime_port)]
    argv += [word for given in merged.options.values() for each in given for word in each.words]
    if table.has("--served_model_name"):
        argv += ["--served_model_name", settings.names[0]]
    config_flag = "--config" if table.has("--config") else "--extra_llm_api_options"
    length = merged.last("--max_seq_len")
    longest = int(length.value) if length else serve.limits.max_seq_len
    batch = merged.last("--max_batch_size")
    most = int(batch.value) if batch else serve.limits.max_batch_size
    guided = bool(changes.get(_GUIDED) or _read_config(config).get("guided_decoding_backend"))
    return Launch(tuple(argv), model, config, config_flag, changes, longest, guided, most)


def _merge(table: _OptionTable, serve: Serve, environment: Environment, arguments: Sequence[str]) -> _MergedOptions:
    merged = _MergedOptions()
    merged.add(table.parse(serve.arguments, "serve.json"))
    for origin, words in _from_variables(environment):
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
            if place.get(part) is None:  # an empty section is null
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


class _OptionTable:
    """The options of this version's trtllm-serve."""

    def __init__(self, serve: Serve) -> None:
        self._version = serve.tensorrt_llm
        self._options = {flag: option for option in serve.options for flag in option.flags}

    def has(self, flag: str) -> bool:
        return flag in self._options

    def parse(self, words: Sequence[str], origin: str, *, from_user: bool = False) -> tuple[_SetOption, ...]:
        """Read options. A user may not give those that the server sets itself."""
        return tuple(self._parse(words, origin, from_user=from_user))

    def _parse(self, words: Sequence[str], origin: str, *, from_user: bool) -> Iterator[_SetOption]:
        rest = list(words)
        while rest:
            flag, equals, value = rest.pop(0).partition("=")
            option = self._find(flag, origin)
            self._check_settable(option, flag, origin, from_user=from_user)
            if option.type == "flag":
                if equals:
                    self._refuse(f"{flag} takes no value", origin)
                yield _SetOption(option, (flag,), origin)
                continue
            if not equals:
                if not rest:
                    self._refuse(f"{flag} needs a value", origin)
                value = rest.pop(0)
            self._check_value(option, flag, value, origin)
            yield _SetOption(option, (flag, value), origin)

    def _find(self, flag: str, origin: str) -> ServeOption:
        if flag in self._options:
            return self._options[flag]
        if not flag.startswith("--"):
            self._refuse(f"expected an option of trtllm-serve, found {flag!r}", origin)
        near = difflib.get_close_matches(flag.replace("-", "_").replace("__", "--", 1), self._options, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return self._refuse(f"trtllm-serve {self._version} has no option {flag}{hint}", origin)

    def _check_settable(self, option: ServeOption, flag: str, origin: str, *, from_user: bool) -> None:
        for flag_of_server, instead in _SET_BY_SERVER.items():
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


def _from_variables(environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
    counts = {
        "NIM_TENSOR_PARALLEL_SIZE": "--tensor_parallel_size",
        "NIM_PIPELINE_PARALLEL_SIZE": "--pipeline_parallel_size",
        "NIM_MAX_MODEL_LEN": "--max_seq_len",
    }
    for name, flag in counts.items():
        number = environment.integer(name, minimum=1)
        if number is not None:
            yield f"{name}={number}", (flag, str(number))
    if environment.switch("NIM_TRUST_CUSTOM_CODE"):
        yield "NIM_TRUST_CUSTOM_CODE", ("--trust_remote_code",)
    level = environment.text("NIM_LOG_LEVEL")
    if level:
        yield f"NIM_LOG_LEVEL={level}", ("--log_level", _LEVELS.get(level, level.lower()))


def _changes(serve: Serve, environment: Environment) -> Iterator[tuple[Key, Scalar]]:
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
        yield _GUIDED, guided
    metrics = environment.switch("NIM_PER_REQ_METRICS_ENABLE")
    if metrics is not None:
        yield ("return_perf_metrics",), metrics
        if serve.backend == "pytorch":  # a TensorRT engine always has them
            yield ("enable_iter_perf_stats",), metrics


def _share(value: float) -> float:
    """Read a share that may be written in per cent: NIM 1.x accepted 0.8, but the name suggests 80."""
    share = value / 100 if value > 1 else value
    if not 0 < share <= 1:
        message = f"NIM_KVCACHE_PERCENT={value:g}: expected a share such as 0.8, or per cent such as 80"
        raise ContradictionError(message)
    return share


def _move_into_file(merged: _MergedOptions, config: Path) -> dict[Key, Scalar]:
    """Move options that are set in the file from the command line into the file."""
    moved: dict[Key, Scalar] = {}
    present = [(name, key) for name, key in _FILE_KEYS.items() if name in merged.options]
    document = _read_config(config) if present else {}
    for name, key in present:
        place: Any = document
        for part in key:
            place = place.get(part) if isinstance(place, dict) else None
        if place is not None:
            (given,) = merged.options.pop(name)[-1:]
            moved[key] = _typed(given)
    return moved


def _move_draft(serve: Serve, model: Path) -> dict[Key, Scalar]:
    """Change the draft model's path in the file, which is written for the image's own model folder."""
    if serve.draft is None or model == Path(serve.model):
        return {}
    return {_DRAFT: str(model / serve.draft)}


def _typed(given: _SetOption) -> Scalar:
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
    profile, name = serve.profile, environment.text("NIM_MODEL_PROFILE")
    if name and name not in {profile.id, profile.name, "default", "tensorrt_llm"}:
        message = f"NIM_MODEL_PROFILE={name}: this server has the profile {profile.id} ({profile.name}) only"
        raise ContradictionError(message)


def _check_limits(serve: Serve, merged: _MergedOptions) -> None:
    limits = serve.limits
    exact = {
        "--tensor_parallel_size": limits.tensor_parallel_size,
        "--pipeline_parallel_size": limits.pipeline_parallel_size,
    }
    for name, built in exact.items():
        given = merged.last(name)
        if built is not None and given is not None and int(given.value) != built:
            what = f"the TensorRT engine was built for {built}: build another one"
            message = f"{given.origin} asks for {name} {given.value}, but {what}"
            raise ContradictionError(message)
    for name, limit in (("--max_seq_len", limits.max_seq_len), ("--max_batch_size", limits.max_batch_size)):
        given = merged.last(name)
        if limit is not None and given is not None and int(given.value) > limit:
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
