"""What a plan will take, in figures that carry their basis."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.catalog.target import Target
from orchestrator.planner.disk import disk_of_steps
from orchestrator.planner.figures import Figure
from orchestrator.planner.known import known_model
from orchestrator.planner.memory import (
    engine_memory,
    load_memory,
    longest_text,
    most_texts,
    quantize_memory,
    serve_memory,
)
from orchestrator.planner.serving import gpus_of
from orchestrator.planner.speed import speed
from orchestrator.planner.weights import decode_ceiling, served_weights, source_weights
from orchestrator.recipe.model import Benchmark, Recipe


@dataclass(frozen=True)
class Estimate:
    """The cost of one recipe on its target, before anything has been downloaded."""

    download: Figure
    """The weights as they come: bytes to fetch, or to make or read where the model is local."""
    weights: Figure
    """The weights as they are served."""
    disk: Figure
    """Room for everything that the steps leave."""
    quantize_memory: Figure | None
    """Peak of the quantize step; None where the checkpoint comes quantized."""
    engine_memory: Figure | None
    """Peak of convert and build; None without an engine."""
    load_memory: Figure | None
    """Peak while the weights load; None where the model's sizes are not known, or an engine is loaded."""
    serve_memory: Figure
    """The least that serving takes."""
    longest_text: Figure | None
    """Tokens of one text that there is room for; None where the model's sizes are not known."""
    most_texts: Figure | None
    """Texts of usual length at once; None where the model's sizes are not known."""
    decode: Figure | None
    """Tokens per second of one stream; None where the model's sizes are not known, or without a GPU."""
    prefill: Figure | None
    """Tokens per second of reading a prompt; None as for `decode`."""
    decode_ceiling: Figure | None
    """Tokens per second that one stream cannot pass; None without a GPU."""


def estimate(recipe: Recipe, target: Target) -> Estimate:
    """Reckon what a recipe takes on a target."""
    download, weights = source_weights(recipe), served_weights(recipe)
    decode, prefill = _speeds(recipe, target)
    return Estimate(
        download=download,
        weights=weights,
        disk=_disk(recipe),
        quantize_memory=quantize_memory(recipe),
        engine_memory=engine_memory(recipe),
        load_memory=load_memory(recipe, target),
        serve_memory=serve_memory(recipe),
        longest_text=longest_text(recipe, target),
        most_texts=most_texts(recipe, target),
        decode=decode,
        prefill=prefill,
        decode_ceiling=decode_ceiling(recipe, target),
    )


def _disk(recipe: Recipe) -> Figure:
    parts = disk_of_steps(recipe)
    return Figure(sum(part.left.value for part in parts), "B", " + ".join(part.what for part in parts))


def _speeds(recipe: Recipe, target: Target) -> tuple[Figure | None, Figure | None]:
    """Predict one stream's decode and prefill, as the benchmark would measure them; drafts are not counted in."""
    known = known_model(recipe)
    gpus = recipe.serve.tensor_parallel_size
    if known is None or target.gpu is None or gpus > gpus_of(target):
        return None, None
    lengths = recipe.benchmark or Benchmark()
    context = lengths.input_tokens + lengths.output_tokens // 2
    found = speed(
        known.shape,
        format=known.served,
        kv_dtype=known.kv_dtype,
        target=target,
        engine="trtllm",
        context=context,
        gpus=gpus,
    )
    about = f"one stream after {context} tokens, without drafts; {found.basis[0]}"
    decode = Figure(found.decode.expected, "tok/s", about, (found.decode.low, found.decode.high))
    prefill = Figure(
        found.prefill.expected, "tok/s", f"a prompt of {context} tokens", (found.prefill.low, found.prefill.high)
    )
    return decode, prefill
