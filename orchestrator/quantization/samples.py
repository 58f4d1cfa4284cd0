"""Makes the calibration batches: tokens from text or from a seed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CalibrationTextError
from orchestrator.quantization.conversations import messages_of
from orchestrator.quantization.tensors import DTYPES
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.tensors import TensorSpec
    from orchestrator.quantization.torch_types import Tokenizer


@frozen
class Batch:
    """Samples that run together, padded to one length."""

    tokens: NDArray[np.int64]
    """Shape [samples, length]."""
    mask: NDArray[np.int64]
    """1 for a token, 0 for padding; of the same shape."""


def used_tokens(batches: Sequence[Batch]) -> NDArray[np.int64]:
    """Return the tokens in use, in ascending order. Only these rows of an embedding are needed."""
    return np.unique(np.concatenate([batch.tokens.reshape(-1) for batch in batches]))


def picked(runs: Iterable[tuple[int, NDArray[Any]]], numbers: NDArray[np.int64], matrix: TensorSpec) -> NDArray[Any]:
    """Select rows of a matrix that is read in runs of rows.

    Args:
        runs: The first row of each run, and its rows.
        numbers: The rows to select, in ascending order.
        matrix: The matrix.
    """
    found = np.empty((len(numbers), *matrix.shape[1:]), DTYPES[matrix.dtype])
    for first, rows in runs:
        begin, end = np.searchsorted(numbers, (first, first + len(rows)))
        found[begin:end] = rows[numbers[begin:end] - first]
    return found


def random_batches(vocabulary: int, samples: int, length: int, batch_size: int = 1, seed: int = 0) -> list[Batch]:
    """Draw tokens from a seed, independent of library versions, for models without a language."""
    source = np.random.PCG64([seed, vocabulary])
    drawn = (source.random_raw(samples * length) % np.uint64(vocabulary)).astype(np.int64).reshape(samples, length)
    return [Batch(rows, np.ones_like(rows)) for rows in _cut(drawn, batch_size)]


def text_batches(file: Path, tokenizer: Tokenizer, samples: int, length: int, batch_size: int) -> list[Batch]:
    """Tokenize text as ModelOpt does: each sample has at most `length` tokens, and all are padded to the longest.

    Args:
        file: JSON Lines with one `text` each, or `messages`, which the model's chat template makes text of. Such text
            is treated like any other: tokenizers with a start token add it before the template's own.
        tokenizer: The model's, as transformers loads it.
        samples: How many to take, from the start.
        length: Most tokens of a sample.
        batch_size: Samples that run together.

    Raises:
        CalibrationTextError: The file is not JSON Lines of `text` or `messages`, has too few, or there is no template.
    """
    lines = _read_samples(file, tokenizer)[:samples]
    if len(lines) < samples:
        message = f"{file}: {samples} samples are needed, found {len(lines)}"
        raise CalibrationTextError(message, hint="lower quantization.calibration.samples, or add text")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"  # generation would continue after the last token of each sample
    encoded = tokenizer(lines, padding=True, truncation=True, max_length=length)
    tokens = np.array(encoded["input_ids"], np.int64)
    mask = np.array(encoded["attention_mask"], np.int64)
    return [Batch(*rows) for rows in zip(_cut(tokens, batch_size), _cut(mask, batch_size), strict=True)]


def _cut(rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]


def _read_samples(file: Path, tokenizer: Tokenizer) -> list[str]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        message = f"{file}: expected JSON Lines with `text` or `messages`: {error}"
        raise CalibrationTextError(message) from error
    return [_text(row, f"{file}:{number}", tokenizer) for number, row in enumerate(rows, start=1)]


def _text(row: object, where: str, tokenizer: Tokenizer) -> str:
    if isinstance(row, dict) and "messages" in row:
        try:
            return str(tokenizer.apply_chat_template(messages_of(row["messages"], where), tokenize=False))
        except ValueError as error:  # the tokenizer has no template
            message = f"{where}: the model's tokenizer cannot write a conversation: {error}"
            hint = "set quantization.calibration.chat_template: false, or calibrate the model that chats"
            raise CalibrationTextError(message, hint=hint) from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        message = f"{where}: expected an object with the text `text`, or with `messages`"
        raise CalibrationTextError(message)
    return text
