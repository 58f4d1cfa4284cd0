"""Estimates the memory and speed of any model from its config.json."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from orchestrator.app.estimating import EstimateInput, estimate_model
from orchestrator.app.settings import Settings
from orchestrator.cli.options import json_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text
from orchestrator.cli.users_view import show_users
from orchestrator.cli.workload_options import AskedWorkload, drafted_workload_options
from orchestrator.planner.constants import RUNTIMES
from orchestrator.planner.figures import workload_words
from orchestrator.planner.scheme import FORMATS, GGUF_FORMATS, KvDtype
from orchestrator.planner.serving import Kernels, Serving
from orchestrator.planner.serving_figures import ServingFigures, to_document
from orchestrator.planner.speed import Band
from orchestrator.planner.users import Users, users_document
from orchestrator.units import in_bytes


@click.command("estimate")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="The model's config.json, or a checkpoint's folder, whose headers are read as well.",
)
@click.option("--repo", metavar="OWNER/NAME", help="A model of the Hub, as the catalogue describes it.")
@click.option(
    "--online", is_flag=True, help="With --repo: read the configuration and the headers of the weights from the Hub."
)
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
    help="The format of the weights. Default: that of the configuration, else bf16.",
)
@click.option("--target", default="dgx-spark", show_default=True, help="The machine.")
@click.option("--engine", type=click.Choice(RUNTIMES), default="trtllm", show_default=True, help="The runtime.")
@drafted_workload_options
@click.option(
    "--gpus", type=click.IntRange(1, 1024), help="The number of GPUs that share the model. Default: all of the target."
)
@click.option(
    "--kv-cache",
    type=click.Choice(["bf16", "fp8", "nvfp4"]),
    help="The format of the KV cache. Default: that of the checkpoint.",
)
@click.option(
    "--kernels",
    type=click.Choice(get_args(Kernels)),
    default="auto",
    show_default=True,
    help="How quantized weights are multiplied; marlin: unpacked, in 16 bits.",
)
@click.option(
    "--method",
    type=click.Choice(["onepass", "modelopt", "none"]),
    help="The quantizer; none: the weights are published in this format.",
)
@click.option("--build-engine", is_flag=True, help="Include the conversion and the build of a TensorRT engine.")
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
    asked: AskedWorkload,
    gpus: int | None,
    kv_cache: KvDtype | None,
    kernels: Kernels,
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
    serving, found, users = estimate_model(
        settings,
        EstimateInput(
            config_file=config_file,
            repo=repo,
            online=online,
            revision=revision,
            quant_config=quant_config,
            format_name=format_name,
            method=method,
        ),
        target_name=target,
        runtime=engine,
        workload=asked.workload,
        targets=asked.targets,
        drafter=asked.drafter,
        kernels=kernels,
        gpus=gpus,
        kv_cache=kv_cache,
        builds_engine=build_engine,
    )
    if as_json:
        print_json({**to_document(found), **(users_document(users) if users else {})})
    else:
        _show(serving, found, users)


def _show(serving: Serving, found: ServingFigures, users: Users | None) -> None:
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
        (
            f"decode, {workload_words(serving.batch, serving.context, serving.output_tokens)}",
            _band(found.decode),
        ),
        (f"prefill, 1 prompt of {serving.context - serving.output_tokens:,} tokens", _band(found.prefill)),
    ]
    click.echo()
    print_table(("what", "predicted"), rows, right=(1,))
    click.echo()
    if users:
        show_users(users)
    for line in found.basis:
        print_text(f"- {line}")


def _band(band: Band | None) -> str:
    return f"{band.expected:,.1f} tok/s ({band.low:,.1f} to {band.high:,.1f})" if band else "none"
