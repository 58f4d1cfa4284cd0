"""Makes a model's batches from text or from a seed, and defines options that several payloads share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from orchestrator.errors import CheckpointError, GpuRuntimeMissingError
from orchestrator.quantization import configs, samples
from orchestrator.quantization.files import read_json
from orchestrator.quantization.libraries import library, load_torch
from orchestrator.quantization.walk import WalkSettings


def add_options(group: argparse._ArgumentGroup, *, samples: int, seed: int = 0) -> None:
    """Add the size of the samples, and the device."""
    group.add_argument("--samples", type=positive, default=samples, metavar="N", help="default: %(default)s")
    group.add_argument("--sequence-length", type=positive, default=512, metavar="N", help="tokens a sample at most")
    group.add_argument("--batch-size", type=positive, default=1, metavar="N", help="samples that run together")
    group.add_argument("--seed", type=int, default=seed, metavar="N", help="of the tokens if there is no text")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the model runs")


def add_held_out(parser: argparse.ArgumentParser, *, seed: int) -> None:
    """Add the held-out text of a comparison, and the resources of its walk over layers."""
    group = parser.add_argument_group("held-out text", "which was not used for calibration")
    group.add_argument("--text", type=Path, metavar="FILE", help="JSON Lines of `text`; else tokens from a seed")
    add_options(group, samples=64, seed=seed)
    add_threads(parser)
    add_resources(parser.add_argument_group("resources", "none of which changes the result"))


def add_resources(group: argparse._ArgumentGroup) -> None:
    """Add the resources of a pass over layers and the folder of its saved state. None of them changes a byte."""
    group.add_argument(
        "--memory",
        type=positive,
        default=os.environ.get("ORCHESTRATOR_MEMORY"),
        metavar="BYTES",
        help="of memory to use; by default the available memory",
    )
    group.add_argument(
        "--spill",
        action="store_true",
        default="ORCHESTRATOR_SPILL" in os.environ,
        help="always keep the hidden states in a file",
    )
    group.add_argument("--scratch", type=Path, metavar="DIR", help="folder of the saved state, to continue from there")
    group.add_argument(
        "--note-seconds", type=float, default=60, metavar="S", help="time between two saved states (%(default)s)"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the number of threads."""
    parser.add_argument(
        "--threads",
        type=positive,
        default=os.environ.get("ORCHESTRATOR_THREADS"),
        metavar="N",
        help="that compute; by default as many as this process may use",
    )


def walk_settings(options: argparse.Namespace) -> WalkSettings:
    """Choose the device, set the number of threads, and return the settings of a pass over layers.

    Args:
        options: Those of `add_options`, `add_resources` and `add_threads`.

    Raises:
        GpuRuntimeMissingError: See `device`.
    """
    chosen = device(options.device)
    if options.threads is not None:
        load_torch().set_num_threads(options.threads)
    return WalkSettings(chosen, options.memory, options.spill, options.scratch, options.note_seconds)


def device(wanted: str) -> str:
    """Choose the device that runs the model, as torch names it.

    Raises:
        GpuRuntimeMissingError: A GPU is wanted and torch finds none.
    """
    there = load_torch().cuda.is_available()
    if wanted == "cuda" and not there:
        message = "the options name a GPU, and torch finds none here"
        raise GpuRuntimeMissingError(message, hint="use device auto, or run the step on a machine with a GPU")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def batches(checkpoint: Path, text: Path | None, options: argparse.Namespace) -> list[samples.Batch]:
    """Cut a text into tokens, or draw them from the seed if there is none.

    Args:
        checkpoint: The model, for its tokenizer and vocabulary.
        text: JSON Lines of `text`.
        options: Those of `add_options`.

    Raises:
        CheckpointError: There is no tokenizer, or the vocabulary has no size.
        CalibrationTextError: The file is not JSON Lines of `text`, or has too few.
    """
    if text is None:
        vocabulary = read_json(checkpoint / configs.CONFIG).get("vocab_size")
        if type(vocabulary) is not int or vocabulary < 1:
            message = f"{checkpoint}: config.json: vocab_size: found {vocabulary!r}, expected a whole number"
            raise CheckpointError(message)
        return samples.random_batches(
            vocabulary, options.samples, options.sequence_length, options.batch_size, options.seed
        )
    tokenizers: Any = library("transformers").AutoTokenizer
    try:
        tokenizer = tokenizers.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        message = f"{checkpoint}: the tokenizer cannot be read: {error}"
        raise CheckpointError(message) from error
    return samples.text_batches(text, tokenizer, options.samples, options.sequence_length, options.batch_size)


def positive(text: str) -> int:
    """Parse a count of at least 1."""
    value = int(text)
    if value < 1:
        message = f"{value} is too few"
        raise argparse.ArgumentTypeError(message)
    return value
