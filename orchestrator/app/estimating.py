"""Estimates the memory and speed of any model from its config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.app.model_files import hub_files, local_files, read_object
from orchestrator.app.settings import Settings
from orchestrator.catalog.models import find_model
from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape
from orchestrator.models.files import ModelFiles
from orchestrator.planner.drafting import Drafting
from orchestrator.planner.figures import Figure
from orchestrator.planner.preparation import Preparation, one_pass_peak, resident_peak
from orchestrator.planner.queueing import Targets, at_rate
from orchestrator.planner.scheme import (
    Algorithm,
    KvDtype,
    Scheme,
    as_published,
    scheme_of,
    scheme_of_files,
    scheme_of_quant_config,
)
from orchestrator.planner.serving import RUNTIME, Kernels, Serving
from orchestrator.planner.serving_figures import ServingFigures, serving_figures
from orchestrator.planner.users import Users, users_of
from orchestrator.quantization.format_names import SINGLE_FORMATS
from orchestrator.quantization.refused import reason
from orchestrator.recipe.model import Calibration, Workload
from orchestrator.values import frozen


@frozen
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
    workload: Workload,
    targets: Targets | None = None,
    drafter: Drafting | None = None,
    kernels: Kernels = "auto",
    gpus: int | None = None,
    kv_cache: KvDtype | None = None,
    builds_engine: bool = False,
) -> tuple[Serving, ServingFigures, Users | None]:
    """Estimate a model's memory, fit and speed.

    Args:
        settings: The environment and the folders.
        given: The model.
        target_name: The machine.
        runtime: The runtime.
        workload: What users send.
        targets: The times that they accept.
        drafter: Drafts tokens; None: plain decoding.
        kernels: How quantized weights are multiplied.
        gpus: The number of GPUs that share the model; None: all of the target's.
        kv_cache: The format of the KV cache; None: that of the checkpoint.
        builds_engine: Include the conversion and the build of a TensorRT engine.

    Raises:
        ConfigInvalidError: A configuration is missing or not valid, or contradicts the format.
        ArchitectureUnknownError: The architecture is not supported.
        HubError: The Hub does not answer, or has no such model.
    """
    files, declared = _find_files(settings, given)
    if given.quant_config is not None:
        files, declared = replace(files, quantization=read_object(given.quant_config)), None
    declared = declared or scheme_of_files(files)
    shape, stored = files.shape, files.weights is not None
    scheme, published = _choose(declared, given.format_name, given=files.quantization is not None, stored=stored)
    if runtime != RUNTIME and given.method is None and declared is None:
        scheme = as_published(scheme)
    if given.method is not None:
        published = given.method == "none"
    workload = workload.within(shape.max_position)
    serving = Serving(
        shape=shape,
        scheme=scheme,
        kv_dtype=kv_cache or scheme.kv_cache,
        target=settings.catalog.target(target_name),
        target_name=target_name,
        runtime=runtime,
        batch=workload.concurrency or 1,
        context=workload.context,
        output_tokens=workload.output_tokens,
        gpus=gpus,
        drafter=drafter,
        kernels=kernels,
    )
    if workload.rate is not None and serving.target.gpu:
        serving = at_rate(serving, workload.rate)
    quantizing = None if published else _quantizing(given.method, scheme, shape)
    found = serving_figures(serving, Preparation(quantizing, builds_engine=builds_engine))
    return serving, found, users_of(serving, found.max_batch, targets)


def _find_files(settings: Settings, given: EstimateInput) -> tuple[ModelFiles, Scheme | None]:
    """Find a model's files, and the format that only the catalogue knows."""
    if given.config_file is not None:
        return local_files(given.config_file), None
    repo = given.repo or ""
    return (hub_files(settings, repo, given.revision), None) if given.online else _of_catalog(repo)


def _of_catalog(repo: str) -> tuple[ModelFiles, Scheme | None]:
    """Look a repository up in the catalogue.

    Raises:
        ConfigInvalidError: It is not there.
    """
    entry = find_model(repo)
    if entry is None:
        message = f"{repo}: the catalogue does not list this model"
        raise ConfigInvalidError(message, hint="add --online to read them from the Hub, or give its --config")
    files, quantization = ModelFiles(repo, entry.config, is_excerpt=True), entry.quantization
    if quantization is None:
        return files, scheme_of(entry.format) if entry.format else None
    wrapped = quantization if "quant_method" in quantization else {"quantization": quantization}
    return files, scheme_of_quant_config(wrapped, f"the catalogue's entry of {repo}")


def _quantizing(method: str | None, scheme: Scheme, shape: ModelShape) -> Figure:
    """Calculate the peak memory of quantizing with our own quantizer, which needs the least, or the named one."""
    if method is None:
        runs_model = scheme.name != SINGLE_FORMATS[0]
        refused = reason(shape.architecture, shape.model_type, scheme.name, runs_model=runs_model)
        ours = scheme.name in SINGLE_FORMATS and refused is None
        method = "onepass" if ours else "modelopt"
    return one_pass_peak(shape, scheme, Calibration()) if method == "onepass" else resident_peak(shape)


def _choose(declared: Scheme | None, format_name: str | None, *, given: bool, stored: bool) -> tuple[Scheme, bool]:
    """Choose the format of the weights, and tell whether they are published in it.

    Raises:
        ConfigInvalidError: The quantization's own file contradicts the requested format.
    """
    if format_name is None:
        return declared or replace(scheme_of("bf16"), as_stored=stored), True
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
