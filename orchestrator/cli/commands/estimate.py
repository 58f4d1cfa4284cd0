"""Say what any model takes and how fast it will be, from its config.json: for programs and for the curious."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import in_bytes, print_json, print_table
from orchestrator.errors import ConfigInvalidError
from orchestrator.planner.outlook import Outlook, Quantizer, Question, outlook
from orchestrator.planner.scheme import (
    FORMATS,
    GGUF_FORMATS,
    Algorithm,
    KvDtype,
    Scheme,
    scheme_of,
    scheme_of_quant_config,
)
from orchestrator.planner.shapes import shape_of
from orchestrator.planner.speed import Band

_LARGEST = 64_000_000
"""Bytes; no config.json is nearly as long, not even with a list of all experts."""
_ENGINES = ("trtllm", "vllm", "llama.cpp", "sglang")


@click.command("estimate")
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="The model's config.json, or a checkpoint's folder: then its headers are read as well.",
)
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
@click.option("--engine", type=click.Choice(_ENGINES), default="trtllm", show_default=True, help="What serves.")
@click.option("--batch", type=click.IntRange(1, 65536), default=1, show_default=True, help="Texts at once.")
@click.option("--context", type=click.IntRange(1, 2**31), default=4096, show_default=True, help="Tokens of each text.")
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
    config_file: Path,
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
    """Say what a model takes, whether it fits and how fast it will be; exit status 0 whether or not it fits.

    Memory is that of one GPU. Nothing is downloaded.
    """
    settings: Settings = ctx.obj
    folder = config_file if config_file.is_dir() else None
    config_path = folder / "config.json" if folder else config_file
    config = _read(config_path)
    beside = folder / "hf_quant_config.json" if folder else None
    if quant_config is None and beside is not None and beside.is_file():
        quant_config = beside
    declared = _declared(config, config_path, quant_config)
    scheme, published = _choose(declared, format_name, given=quant_config is not None)
    shape = shape_of(config, str(config_path))
    if method is not None:
        published = method == "none"
    question = Question(
        shape=shape,
        scheme=scheme,
        published=published,
        kv_dtype=kv_cache or scheme.kv_cache,
        target=settings.catalog.target(target),
        target_name=target,
        engine=engine,
        batch=batch,
        context=context,
        gpus=gpus,
        quantizer=_quantizer(method, scheme, shape.architecture) if not published else "modelopt",
        builds_engine=build_engine,
        stored_bytes=_headers(folder) if folder and published else None,
    )
    found = outlook(question)
    if as_json:
        print_json(_document(found))
    else:
        _show(question, found)


def _quantizer(method: str | None, scheme: Scheme, architecture: str) -> Quantizer:
    """Choose what quantizes where nobody does: our own quantizer, which needs the least memory, if it can."""
    if method in ("onepass", "modelopt"):
        return "onepass" if method == "onepass" else "modelopt"
    from orchestrator.quantization.layout import ARCHITECTURES  # noqa: PLC0415 - brings NumPy
    from orchestrator.quantization.schemes import SCHEMES  # noqa: PLC0415 - brings NumPy

    return "onepass" if scheme.name in SCHEMES and architecture in ARCHITECTURES else "modelopt"


def _read(file: Path) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        ConfigInvalidError: There is none in it.
    """
    try:
        if file.stat().st_size > _LARGEST:
            message = f"{file}: found {file.stat().st_size} bytes, expected a configuration of at most {_LARGEST}"
            raise ConfigInvalidError(message)
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        message = f"{file}: not JSON: {error}"
        raise ConfigInvalidError(message) from None
    except FileNotFoundError:
        message = f"{file} is missing"
        raise ConfigInvalidError(message, hint="give a config.json, or a folder that has one") from None
    if not isinstance(document, dict):
        message = f"{file}: found a {type(document).__name__}, expected an object"
        raise ConfigInvalidError(message)
    return document


def _declared(config: Mapping[str, Any], config_file: Path, quant_config: Path | None) -> Scheme | None:
    """Read how a checkpoint says that it is quantized; None where it does not say so."""
    if quant_config is not None:
        return scheme_of_quant_config(_read(quant_config), str(quant_config))
    inside = config.get("quantization_config")
    if inside is None:
        return None
    if not isinstance(inside, dict):
        message = f"{config_file}: quantization_config: found {inside!r:.60}, expected an object"
        raise ConfigInvalidError(message)
    return scheme_of_quant_config(inside, f"quantization_config of {config_file}")


def _choose(declared: Scheme | None, format_name: str | None, *, given: bool) -> tuple[Scheme, bool]:
    """Choose how the weights are stored, and say whether they come so.

    Raises:
        ConfigInvalidError: The quantization's own file says something else than the format that is asked for.
    """
    if format_name is None:
        return declared or scheme_of("bf16"), True
    asked = scheme_of(format_name)
    if declared is not None and _alike(asked, declared):
        return declared, True
    if declared is not None and given:
        message = f"{declared.name} says {declared.algorithm}, but --format is {format_name}"
        raise ConfigInvalidError(message, hint="leave one of them out")
    return asked, asked.algorithm == "BF16"  # a GGUF file is made by others, as a rule


def _alike(asked: Scheme, declared: Scheme) -> bool:
    if asked.gguf is not None:
        return False
    both: tuple[Algorithm, ...] = ("FP8", "FP8_BLOCK")
    return asked.algorithm == declared.algorithm or (asked.algorithm in both and declared.algorithm in both)


def _headers(folder: Path) -> int | None:
    """Add up the tensors of a folder's safetensors files; None where it has none."""
    if not any(folder.glob("*.safetensors")):
        return None
    from orchestrator.quantization.checkpoint import Checkpoint  # noqa: PLC0415 - brings NumPy

    return sum(tensor.size for tensor in Checkpoint.open(folder).tensors.values())


def _document(found: Outlook) -> dict[str, Any]:
    return {
        "weights_bytes": found.weights_bytes,
        "active_bytes_per_token": found.active_bytes_per_token,
        "kv_bytes_per_token": round(found.kv_bytes_per_token),
        "fits": found.fits,
        "peak_memory_bytes": found.peak_memory_bytes,
        "max_context": found.max_context,
        "max_batch": found.max_batch,
        "decode_tokens_per_s": asdict(found.decode) if found.decode else None,
        "prefill_tokens_per_s": asdict(found.prefill) if found.prefill else None,
        "basis": list(found.basis),
        "limits": list(found.limits),
    }


def _show(question: Question, found: Outlook) -> None:
    verdict = ("fits, with limits" if found.limits else "fits") if found.fits else "does not fit"
    click.echo(f"{question.shape.architecture} as {question.scheme.algorithm} on {question.target_name}: {verdict}")
    for limit in found.limits:
        click.echo(f"  · {limit}")
    rows = [
        ("weights", in_bytes(found.weights_bytes)),
        ("read per token", in_bytes(found.active_bytes_per_token)),
        ("cache per token", in_bytes(found.kv_bytes_per_token)),
        *((f"peak: {phase.replace('_', ' ')}", in_bytes(peak)) for phase, peak in found.peak_memory_bytes.items()),
        ("room", in_bytes(found.room_bytes)),
        ("longest text", f"{found.max_context:,} tokens"),
        ("most texts", f"{found.max_batch:,}"),
        ("decode", _band(found.decode)),
        ("prefill", _band(found.prefill)),
    ]
    click.echo()
    print_table(("what", "predicted"), rows, right=(1,))
    click.echo()
    for line in found.basis:
        click.echo(f"- {line}")


def _band(band: Band | None) -> str:
    return f"{band.expected:,.1f} tok/s ({band.low:,.1f} to {band.high:,.1f})" if band else "none"
