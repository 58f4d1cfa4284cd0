"""Makes the vocabulary that servers of gpt-oss need besides its tokenizer.

openai-harmony, which TensorRT-LLM and vLLM use for its conversations, downloads o200k_base.tiktoken from OpenAI, unless
a variable names a folder with it. The file follows from tokenizer.json: each token in Base64, and its number.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
FILE = "o200k_base.tiktoken"
DIGEST = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Its SHA-256, which openai-harmony 0.0.8 requires and tiktoken's `openai_public.py` lists."""
_TOKENS = 199_998
_ARCHITECTURE = "GptOssForCausalLM"


class VocabularyError(ValueError):
    """The vocabulary does not follow from tokenizer.json."""


def write_vocabulary(model: Path, make_folder: Callable[[], Path], environment: Mapping[str, str]) -> dict[str, str]:
    """Write the vocabulary of a model that needs it, unless the user names a folder.

    Args:
        model: The checkpoint.
        make_folder: Makes a folder for it, if it is needed.
        environment: The variables of the server.

    Returns:
        Further variables of the server; none for other models.

    Raises:
        VocabularyError: The model's tokens are others, so the server may try to download the vocabulary.
        OSError: The folder cannot be written.
    """
    if environment.get(VARIABLE) or not _is_gpt_oss(model):
        return {}
    content = vocabulary_of(model / "tokenizer.json")
    if (found := hashlib.sha256(content).hexdigest()) != DIGEST:
        message = (
            f"{model / 'tokenizer.json'} has other tokens than {FILE} (SHA-256 {found}), which the server may try to"
            f" download; put it in a folder that the server sees, and name the folder in {VARIABLE}"
        )
        raise VocabularyError(message)
    folder = make_folder()
    (folder / FILE).write_bytes(content)
    return {VARIABLE: str(folder)}


def vocabulary_of(tokenizer: Path) -> bytes:
    """Return the vocabulary of a tokenizer.json in tiktoken's form, without special tokens.

    Raises:
        VocabularyError: It cannot be read.
    """
    try:
        numbers = json.loads(tokenizer.read_bytes())["model"]["vocab"]
        tokens = sorted((number, token) for token, number in numbers.items() if number < _TOKENS)
        lines = (f"{base64.b64encode(_bytes_of(token)).decode()} {number}\n" for number, token in tokens)
        return "".join(lines).encode()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{tokenizer}: expected the vocabulary of gpt-oss, so that {FILE} follows from it: {error!r:.200}"
        raise VocabularyError(message) from error


def _bytes_of(token: str) -> bytes:
    return bytes(_BYTES[character] for character in token)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of a byte-level tokenizer (transformers, `bytes_to_unicode`)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()


def _is_gpt_oss(model: Path) -> bool:
    try:
        declared = json.loads((model / "config.json").read_bytes()).get("architectures")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    return bool(declared == [_ARCHITECTURE])
