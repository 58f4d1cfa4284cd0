"""Estimates the memory and speed of any model from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.app.model_config import an_object, declared_beside, declared_inside, read_object
from orchestrator.app.settings import Settings
from orchestrator.catalog.models import find_model
from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from orchestrator.planner.figures import Figure
from orchestrator.planner.preparation import Preparation, one_pass_peak, resident_peak
from orchestrator.planner.scheme import Algorithm, KvDtype, Scheme, scheme_of, scheme_of_quant_config
from orchestrator.planner.serving import Serving
from orchestrator.planner.serving_figures import ServingFigures, serving_figures
from orchestrator.quantization.format_names import SINGLE_FORMATS
from orchestrator.quantization.refused import REASONS
from orchestrator.recipe.model import Calibration


@dataclass(frozen=True)
class EstimateInput:
    """The model to estimate. Either `config_file` or `repo` is set."""

    config_file: Path | None = None
    """Its config.json, or the folder of a checkpoint."""
    repo: str | None = None
    online: bool = False
    """Read the repository on the Hub, not in the catalogue."""
    revision: str = "main"
    quant_config: Path | None = None
    """The checkpoint's hf_quant_config.json."""
    format_name: str | None = None
    """The format of the weights; None: that of the configuration, else bf16."""
    method: str | None = None
    """The quantizer; `none`: the weights are published in the format."""


def estimate_model(
    settings: Settings,
    given: EstimateInput,
    *,
    target_name: str,
    runtime: str,
    batch: int,
    context: int,
    gpus: int | None = None,
    kv_cache: KvDtype | None = None,
    builds_engine: bool = False,
) -> tuple[Serving, ServingFigures]:
    """Estimate a model's memory, fit and speed.

    Args:
        settings: The environment and the folders.
        given: The model.
        target_name: The machine.
        runtime: The runtime.
        batch: The number of concurrent requests.
        context: Tokens of each request.
        gpus: The number of GPUs that share the model; None: all of the target's.
        kv_cache: The format of the KV cache; None: that of the checkpoint.
        builds_engine: Include the conversion and the build of a TensorRT engine.

    Raises:
        ConfigInvalidError: A configuration is missing or not valid, or contradicts the format.
        ArchitectureUnknownError: The architecture is not supported.
        HubError: The Hub does not answer, or has no such model.
    """
    subject = _find_subject(given)
    declared = subject.declared if given.quant_config is None else _declared_by(given.quant_config)
    scheme, published = _choose(declared, given.format_name, given=subject.given or given.quant_config is not None)
    shape = shape_of(subject.config, subject.where)
    if given.method is not None:
        published = given.method == "none"
    serving = Serving(
        shape=shape,
        scheme=scheme,
        kv_dtype=kv_cache or scheme.kv_cache,
        target=settings.catalog.target(target_name),
        target_name=target_name,
        runtime=runtime,
        batch=batch,
        context=context,
        gpus=gpus,
        stored_bytes=subject.stored_bytes if published else None,
    )
    quantizing = None if published else _quantizing(given.method, scheme, shape)
    return serving, serving_figures(serving, Preparation(quantizing, builds_engine=builds_engine))


@dataclass(frozen=True)
class _Subject:
    """A model's configuration files, from any source."""

    config: Mapping[str, Any]
    where: str
    declared: Scheme | None = None
    """Its quantization settings."""
    given: bool = False
    """The quantization has a file of its own, so no other format can be requested."""
    stored_bytes: int | None = None
    """Bytes of its tensors, if its headers were read."""


def _find_subject(given: EstimateInput) -> _Subject:
    if given.config_file is not None:
        return _of_file(given.config_file, given.quant_config)
    repo = given.repo or ""
    return _of_hub(repo, given.revision) if given.online else _of_catalog(repo)


def _of_file(file: Path, quant_config: Path | None) -> _Subject:
    """Read a config.json, or a checkpoint's folder."""
    if not file.is_dir():
        config = read_object(file)
        return _Subject(config, str(file), declared_inside(config, str(file)) if quant_config is None else None)
    config, where = read_object(file / "config.json"), str(file / "config.json")
    beside = declared_beside(file)
    if beside is not None:
        return _Subject(config, where, beside, given=True, stored_bytes=_headers(file))
    return _Subject(config, where, declared_inside(config, where), stored_bytes=_headers(file))


def _declared_by(file: Path) -> Scheme:
    return scheme_of_quant_config(read_object(file), str(file))


def _of_catalog(repo: str) -> _Subject:
    """Look a repository up in the catalogue.

    Raises:
        ConfigInvalidError: It is not there.
    """
    entry = find_model(repo)
    if entry is None:
        message = f"{repo}: the catalogue does not list this model"
        raise ConfigInvalidError(message, hint="add --online to read them from the Hub, or give its --config")
    quantization = entry.quantization
    if quantization is None:
        return _Subject(entry.config, repo, scheme_of(entry.format) if entry.format else None)
    wrapped = quantization if "quant_method" in quantization else {"quantization": quantization}
    return _Subject(entry.config, repo, scheme_of_quant_config(wrapped, f"the catalogue's entry of {repo}"))


def _of_hub(repo: str, revision: str) -> _Subject:
    """Look at a repository on the Hub."""
    from orchestrator.hub.headers import look_at  # noqa: PLC0415 - loads the Hub's client

    found = look_at(repo, revision)
    where = f"{repo}@{found.commit[:12]}"
    config = an_object(found.config, f"{where}: config.json")
    if isinstance(found.quantization, dict):
        declared = scheme_of_quant_config(found.quantization, f"hf_quant_config.json of {where}")
        return _Subject(config, where, declared, given=True, stored_bytes=found.tensor_bytes)
    return _Subject(config, where, declared_inside(config, where), stored_bytes=found.tensor_bytes)


def _quantizing(method: str | None, scheme: Scheme, shape: ModelShape) -> Figure:
    """Calculate the peak memory of quantizing with our own quantizer, which needs the least, or the named one."""
    if method is None:
        ours = scheme.name in SINGLE_FORMATS and shape.architecture not in REASONS
        method = "onepass" if ours else "modelopt"
    return one_pass_peak(shape, scheme, Calibration()) if method == "onepass" else resident_peak(shape)


def _choose(declared: Scheme | None, format_name: str | None, *, given: bool) -> tuple[Scheme, bool]:
    """Choose the format of the weights, and tell whether they are published in it.

    Raises:
        ConfigInvalidError: The quantization's own file contradicts the requested format.
    """
    if format_name is None:
        return declared or scheme_of("bf16"), True
    asked = scheme_of(format_name)
    if declared is not None and _alike(asked, declared):
        return declared, True
    if declared is not None and given:
        message = f"{declared.name} declares {declared.algorithm}, but --format is {format_name}"
        raise ConfigInvalidError(message, hint="leave one of them out")
    return asked, asked.algorithm == "BF16"  # a GGUF file is usually published by others


def _alike(asked: Scheme, declared: Scheme) -> bool:
    if asked.gguf is not None:
        return False
    both: tuple[Algorithm, ...] = ("FP8", "FP8_BLOCK")
    return asked.algorithm == declared.algorithm or (asked.algorithm in both and declared.algorithm in both)


def _headers(folder: Path) -> int | None:
    """Add up the tensors of a folder's safetensors files; None if it has none."""
    if not any(folder.glob("*.safetensors")):
        return None
    from orchestrator.quantization.checkpoint import Checkpoint  # noqa: PLC0415 - loads NumPy

    return sum(tensor.size for tensor in Checkpoint.open(folder).tensors.values())
