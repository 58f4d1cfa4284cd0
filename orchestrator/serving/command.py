"""Makes the command line of trtllm-serve."""

from __future__ import annotations

from typing import TypeVar

from orchestrator.catalog.image import Image
from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Inside
from orchestrator.recipe.model import Recipe

Place = TypeVar("Place", str, Inside, str | Inside)
"""A file in a command: a path, or a path in a job's mounts."""


def serve_command(
    recipe: Recipe,
    image: Image,
    catalog: Catalog,
    *,
    model: Place,
    tokenizer: Place | None = None,
    config: Place,
    host: str,
    port: int,
) -> tuple[str | Place, ...]:
    """Make the command line of trtllm-serve, without what the configuration file contains (`llm_api_config`).

    Args:
        recipe: The recipe.
        image: The image that serves. It must have trtllm-serve.
        catalog: The source of the options of the image's trtllm-serve.
        model: The checkpoint, or the TensorRT engine's folder.
        tokenizer: The folder of the tokenizer. A TensorRT engine has none of its own, a checkpoint does.
        config: The configuration file.
        host: The address to listen on: 0.0.0.0 if the port is published. The default is reachable only locally.
        port: The port to listen on.
    """
    serve, known = recipe.serve, catalog.options(image, "trtllm-serve")
    command: list[str | Place] = [*image.tools["trtllm-serve"].command, model]
    if tokenizer is not None:
        command += ["--tokenizer", tokenizer]
    command += ["--host", host, "--port", str(port), *_sizes(recipe), "--config", config, *_parsers(recipe)]
    if serve.served_model_name is not None and "--served_model_name" in known:
        command += ["--served_model_name", serve.served_model_name]
    return tuple(command + list(_silence(image, catalog)))


def serve_options(recipe: Recipe, image: Image, catalog: Catalog) -> tuple[str, ...]:
    """Make the recipe's own part of it, without model, names and address."""
    return (*_sizes(recipe), *_parsers(recipe), *_silence(image, catalog))


def _sizes(recipe: Recipe) -> tuple[str, ...]:
    serve = recipe.serve
    options = ["--backend", recipe.backend]
    options += ["--max_batch_size", str(serve.max_batch_size), "--max_num_tokens", str(serve.max_num_tokens)]
    if serve.max_seq_len is not None:
        options += ["--max_seq_len", str(serve.max_seq_len)]
    return (*options, "--tensor_parallel_size", str(serve.tensor_parallel_size))


def _parsers(recipe: Recipe) -> tuple[str, ...]:
    options = {"--reasoning_parser": recipe.serve.reasoning_parser, "--tool_parser": recipe.serve.tool_parser}
    return tuple(word for option, value in options.items() if value is not None for word in (option, value))


def _silence(image: Image, catalog: Catalog) -> tuple[str, ...]:
    """Telemetry is on by default if it exists, and reports the model to third parties."""
    return ("--no-telemetry",) if "--no-telemetry" in catalog.options(image, "trtllm-serve") else ()
