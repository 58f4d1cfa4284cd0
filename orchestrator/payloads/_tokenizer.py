"""Trains a small byte-level BPE tokenizer on a few sentences with the `tokenizers` library."""

from __future__ import annotations

import json
from typing import Any

_TEXT = """
A recipe names a model, a number format and a machine. The plan turns it into steps, and each step leaves files behind.
First the weights are fetched and checked, one file after another. Then every matrix is read in small pieces and written
again with fewer bits for each number. Sixteen numbers in a row share one scale, and the whole matrix shares another.
When this is done, the result is compared with what it was made from, and the difference is told in decibels.
Only then is a server started and asked a question. What is the capital of France? Who wrote this sentence, and why?
The answer of a small model is nonsense, but it must come soon, and it must come every time the question is asked.
The same recipe on the same machine gives the same files, today and next year, here and on the other side of the world.
def add(first, second): return first + second    # 0 1 2 3 4 5 6 7 8 9 10 11 12 100 1000 2024 2025 2026
"""

_BEGIN, _END, _HEADER, _HEADER_END, _TURN_END = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
_SPECIAL = (_BEGIN, _END, _HEADER, _HEADER_END, _TURN_END)
BOS = _SPECIAL.index(_BEGIN)
EOS = _SPECIAL.index(_TURN_END)

_CHAT_TEMPLATE = (
    "{{ '" + _BEGIN + "' }}"
    "{% for message in messages %}"
    "{{ '" + _HEADER + "' + message['role'] + '" + _HEADER_END + "' + '\n\n' }}"
    "{{ message['content'] | trim }}{{ '" + _TURN_END + "' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + _HEADER + "assistant" + _HEADER_END + "' + '\n\n' }}{% endif %}"
)

SMALLEST = len(_SPECIAL) + 256
"""The fewest tokens a vocabulary can have: the special ones and one for each byte."""


def files(vocabulary: int, longest: int) -> dict[str, dict[str, Any]]:
    """Return the tokenizer's files by name.

    The same bytes for the same version of the library: its trainer breaks ties between equally frequent pairs by
    their order, not by chance.

    Args:
        vocabulary: The most tokens it may have; at least `SMALLEST`.
        longest: The largest number of tokens that the model supports at once.
    """
    if vocabulary < SMALLEST:
        message = f"a byte-level vocabulary has at least {SMALLEST} tokens, not {vocabulary}"
        raise ValueError(message)
    return {
        "tokenizer.json": _train(vocabulary),
        "tokenizer_config.json": _config(longest),
        "special_tokens_map.json": {"bos_token": _BEGIN, "eos_token": _TURN_END, "pad_token": _END},
    }


def _train(vocabulary: int) -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 - on the host only

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,  # once is no pattern
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(keepends=True), trainer)
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    return document


def _special(number: int, token: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _config(longest: int) -> dict[str, Any]:
    return {
        "added_tokens_decoder": {
            str(number): {key: value for key, value in _special(number, token).items() if key != "id"}
            for number, token in enumerate(_SPECIAL)
        },
        "bos_token": _BEGIN,
        "eos_token": _TURN_END,
        "pad_token": _END,
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
