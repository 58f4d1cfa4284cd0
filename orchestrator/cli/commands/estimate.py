"""Estimates the memory and speed of any model from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator.app.configs import an_object, declared_beside, declared_inside, read_object
from orchestrator.app.settings import Settings
from orchestrator.catalog.models import find_model
from orchestrator.cli.options import json_option
from orchestrator.cli.text import print_json, print_table, print_text
from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from orchestrator.planner.constants import RUNTIMES
from orchestrator.planner.figures import Figure, requests
from orchestrator.planner.preparation import Preparation, one_pass_peak, resident_peak
from orchestrator.planner.scheme import (
    FORMATS,
    GGUF_FORMATS,
    Algorithm,
    KvDtype,
    Scheme,
    scheme_of,
    scheme_of_quant_config,
)
from orchestrator.planner.serving import Serving
from orchestrator.planner.serving_figures import ServingFigures, serving_figures, to_document
from orchestrator.planner.speed import Band
from orchestrator.quantization.format_names import SINGLE_FORMATS
from orchestrator.quantization.refused import REASONS
from orchestrator.recipe.model import Calibration
from orchestrator.units import in_bytes


@click.command("estimate")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="The model's config.json, or a checkpoint's folder: then its headers are read as well.",
)
@click.option("--repo", metavar="OWNER/NAME", help="A model of the Hub instead, as the catalogue knows it.")
@click.option("--online", is_flag=True, help="Read its configurations and the headers of its weights from the Hub.")
@click.option("--revision", default="main", show_default=True, help="With --online: branch, tag or commit.")
@click.option(
    "--quant-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The checkpoint's hf_quant_config.json.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice([*FORMATS, *GGUF_FORMATS], case_sensitive=False),
    help="What the weights are stored as; else what the configuration declares, else bf16.",
)
@click.option("--target", default="dgx-spark", show_default=True, help="The machine.")
@click.option("--engine", type=click.Choice(RUNTIMES), default="trtllm", show_default=True, help="What serves.")
@click.option("--batch", type=click.IntRange(1, 65536), default=1, show_default=True, help="Concurrent requests.")
@click.option(
    "--context", type=click.IntRange(1, 2**31), default=4096, show_default=True, help="Tokens of each request."
)
@click.option("--gpus", type=click.IntRange(1, 1024), help="GPUs that share the model; all of the target's.")
@click.option("--kv-cache", type=click.Choice(["bf16", "fp8", "nvfp4"]), help="Else what the checkpoint declares.")
@click.option(
    "--method", type=click.Choice(["onepass", "modelopt", "none"]), help="What quantizes; none: published so."
)
@click.option("--build-engine", is_flag=True, help="Count converting and building a TensorRT engine as well.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    config_file: Path | None,
    repo: str | None,
    online: bool,
    revision: str,
    quant_config: Path | None,
    format_name: str | None,
    target: str,
    engine: str,
    batch: int,
    context: int,
    gpus: int | None,
    kv_cache: KvDtype | None,
    method: str | None,
    build_engine: bool,
    as_json: bool,
) -> None:
    """Estimate a model's memory, fit and speed. Exit status 0 whether or not it fits.

    Memory is that of one GPU. Nothing is downloaded. Without --online, the network is not used.
    """
    settings: Settings = ctx.obj
    if (config_file is None) == (repo is None):
        message = "give either --config or --repo"
        raise click.UsageError(message, ctx)
    if config_file is not None:
        subject = _of_file(config_file, quant_config)
    else:
        subject = _of_hub(repo or "", revision) if online else _of_catalog(repo or "")
    declared = subject.declared if quant_config is None else _declared_by(quant_config)
    scheme, published = _choose(declared, format_name, given=subject.given or quant_config is not None)
    shape = shape_of(subject.config, subject.where)
    if method is not None:
        published = method == "none"
    serving = Serving(
        shape=shape,
        scheme=scheme,
        kv_dtype=kv_cache or scheme.kv_cache,
        target=settings.catalog.target(target),
        target_name=target,
        runtime=engine,
        batch=batch,
        context=context,
        gpus=gpus,
        stored_bytes=subject.stored_bytes if published else None,
    )
    quantizing = None if published else _quantizing(method, scheme, shape)
    found = serving_figures(serving, Preparation(quantizing, builds_engine=build_engine))
    if as_json:
        print_json(to_document(found))
    else:
        _show(serving, found)


@dataclass(frozen=True)
class _Subject:
    """A model's configuration files, from any source."""

    config: Mapping[str, Any]
    where: str
    declared: Scheme | None = None
    """Its quantization settings."""
    given: bool = False
    """The quantization has a file of its own, so no other format can be asked for."""
    stored_bytes: int | None = None
    """Bytes of its tensors, if its headers were read."""


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
        message = f"{repo}: its sizes are not in the catalogue"
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
        message = f"{declared.name} says {declared.algorithm}, but --format is {format_name}"
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


def _show(serving: Serving, found: ServingFigures) -> None:
    verdict = ("fits, with limits" if found.limits else "fits") if found.fits else "does not fit"
    click.echo(f"{serving.shape.architecture} as {serving.scheme.label} on {serving.target_name}: {verdict}")
    for limit in found.limits:
        print_text(f"  · {limit}", hanging=4)
    rows = [
        ("weights", in_bytes(found.weights_bytes)),
        ("read per token", in_bytes(found.active_bytes_per_token)),
        ("cache per token", in_bytes(found.kv_bytes_per_token)),
        *((f"peak: {phase.replace('_', ' ')}", in_bytes(peak)) for phase, peak in found.peak_memory_bytes.items()),
        ("available memory", in_bytes(found.available_bytes)),
        ("longest context", f"{found.max_context:,} tokens"),
        (f"requests of {serving.context:,} tokens", f"{found.max_batch:,}"),
        (f"decode, {requests(serving.batch)} at {serving.context:,} tokens", _band(found.decode)),
        (f"prefill, 1 prompt of {serving.context:,} tokens", _band(found.prefill)),
    ]
    click.echo()
    print_table(("what", "predicted"), rows, right=(1,))
    click.echo()
    for line in found.basis:
        print_text(f"- {line}")


def _band(band: Band | None) -> str:
    return f"{band.expected:,.1f} tok/s ({band.low:,.1f} to {band.high:,.1f})" if band else "none"
