"""A small byte-level BPE tokenizer, trained here on a few sentences: the same bytes on every machine.

Written as `tokenizer.json` by hand, since a library's trainer may order equally frequent pairs differently from one
version to the next.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
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

# A piece of text that is never joined with its neighbours: a run of letters, digits or signs with the space before it.
_PIECE = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")


def files(vocabulary: int, longest: int) -> dict[str, dict[str, Any]]:
    """Return the tokenizer's files by name.

    Args:
        vocabulary: The most tokens it may have; at least `SMALLEST`.
        longest: The most tokens that the model takes at once.
    """
    if vocabulary < SMALLEST:
        message = f"a byte-level vocabulary has at least {SMALLEST} tokens, not {vocabulary}"
        raise ValueError(message)
    letters = [_letter(byte) for byte in range(256)]
    merges = _train(vocabulary - SMALLEST)
    tokens = [*_SPECIAL, *letters, *(left + right for left, right in merges)]
    return {
        "tokenizer.json": _tokenizer(tokens, merges),
        "tokenizer_config.json": _config(longest),
        "special_tokens_map.json": {"bos_token": _BEGIN, "eos_token": _TURN_END, "pad_token": _END},
    }


def _letter(byte: int) -> str:
    """Return the printable letter that stands for a byte in byte-level BPE.

    Printable bytes of Latin-1 stand for themselves; the others, counted from 0, are the letters from U+0100 on.
    """
    return chr(byte) if _is_printable(byte) else chr(256 + sum(not _is_printable(other) for other in range(byte)))


def _is_printable(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF  # noqa: PLR2004 - rows of Latin-1


def _train(most: int) -> list[tuple[str, str]]:
    """Join the most frequent pair again and again, the first in order of text among equals, while one occurs twice."""
    words = Counter(tuple(_letter(byte) for byte in piece.encode()) for piece in _PIECE.findall(_TEXT))
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:  # noqa: PLR2004 - once is no pattern
            break
        merges.append(best)
        words = _joined(words, best)
    return merges


def _joined(words: Counter[tuple[str, ...]], pair: tuple[str, str]) -> Counter[tuple[str, ...]]:
    joined: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        joined[_join(word, pair)] += count
    return joined


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def _tokenizer(tokens: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """Return `tokenizer.json` as the tokenizers library reads it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(number, token) for number, token in enumerate(_SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(merge) for merge in merges],
        },
    }


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
