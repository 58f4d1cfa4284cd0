"""Checks that the ids of tokens are rows of the model's embedding, and that a token ends an answer."""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckFailedError, DependencyMissingError
from orchestrator.quantization import configs, structure
from orchestrator.quantization.chat_template import TOKENIZER_CONFIG, special_tokens
from orchestrator.quantization.files import read_json
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"

_GENERATION = "generation_config.json"
_END = "eos_token_id"
_FIELDS = ("bos_token_id", _END, "pad_token_id")
_WORD = "hello"
_BEGINS = "\u0120\u2581#"
"""Marks of tokens that begin a word, or continue one."""
_TOKENS = ("bos_token", "eos_token", "pad_token")
_HINT = "Correct it, or take the tokenizer and the configuration of the model that this one was made from."
_NO_PADDING = -1
"""How old configurations write that there is no padding."""
_MEDIA = re.compile(r"image|img|audio|video|vision|speech", re.IGNORECASE)
"""Names of tokens that stand for pictures or sound. A model without towers inherits them and never sees them."""


@frozen
class Vocabulary:
    """The tokens of a tokenizer."""

    ids: Mapping[str, int] = field(default_factory=dict)
    """By token. Of equal tokens the added one counts."""
    complete: bool = True
    """False: `tokenizer.json` is missing, so only added tokens are known."""

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read `tokenizer.json`, and the added tokens of `tokenizer_config.json`.

        Raises:
            CheckFailedError: A token has no id, or two tokens have the same one.
            CheckpointError: A file is not JSON.
        """
        complete = (folder / TOKENIZER).is_file()
        document = read_json(folder / TOKENIZER) if complete else {}
        ids = dict(_model_tokens(document))
        added = document.get("added_tokens") or []
        by_id: dict[int, str] = {}
        for token, number in [
            *_added(f"{folder / TOKENIZER}: added_tokens", added),
            *_decoder(folder / TOKENIZER_CONFIG),
        ]:
            if by_id.setdefault(number, token) != token:
                message = f"{folder}: found the added tokens {by_id[number]!a} and {token!a} with the id {number}"
                raise CheckFailedError(message, hint=_HINT)
            ids[token] = number
        return cls(ids, complete)


def _model_tokens(document: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the tokens of the tokenizer's model: an object, or a list of tokens with scores."""
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from ((token, number) for token, number in vocabulary.items() if type(number) is int)
    if isinstance(vocabulary, list):
        named = ((piece, number) for number, piece in enumerate(vocabulary) if isinstance(piece, list) and piece)
        yield from ((str(piece[0]), number) for piece, number in named)


def _added(where: str, entries: object) -> Iterator[tuple[str, int]]:
    for entry in entries if isinstance(entries, list) else [entries]:
        match entry:
            case {"id": int(number), "content": str(token)} if type(number) is int and number >= 0:
                yield token, number
            case _:
                message = f"{where}: found {entry!a:.80}, expected an object with id and content"
                raise CheckFailedError(message)


def _decoder(path: Path) -> Iterator[tuple[str, int]]:
    where = f"{path}: added_tokens_decoder"
    entries = (read_json(path).get("added_tokens_decoder") if path.is_file() else None) or {}
    if not isinstance(entries, dict):
        message = f"{where}: found {entries!a:.80}, expected an object"
        raise CheckFailedError(message)
    for number, entry in entries.items():
        known = {"id": int(number) if number.isascii() and number.isdecimal() else number}
        yield from _added(where, [{**entry, **known} if isinstance(entry, dict) else entry])


def load(folder: Path) -> Tokenizer:
    """Load `tokenizer.json` with the library that runtimes load it with.

    Raises:
        CheckFailedError: The library cannot load it, or a word is lost in it.
        DependencyMissingError: The library is not installed here.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - images may lack it
    except ImportError as error:
        message = f"the library tokenizers is not installed here: {error}"
        raise DependencyMissingError(message) from error
    file, doing = folder / TOKENIZER, "load"
    try:
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()  # as transformers does before each text
        tokenizer.no_padding()
        doing = "use"
        numbers = tokenizer.encode(_WORD, add_special_tokens=False).ids
        found = tokenizer.decode(numbers, skip_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - it raises Exception, and another class for its own defects
        message = f"{file}: the library tokenizers cannot {doing} it: {error!s:.200}"
        raise CheckFailedError(message, hint=_HINT) from None
    if _has_letters(tokenizer) and _WORD not in "".join(filter(str.isalpha, found)).lower():
        message = f"{file}: {_WORD!r} becomes {len(numbers)} tokens, which mean {found!a:.60}"
        raise CheckFailedError(message, hint=_HINT)
    return tokenizer


def _has_letters(tokenizer: Tokenizer) -> bool:
    """Tell whether a vocabulary has the letters of the word, unlike one for proteins, or is wrongly empty."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return not vocabulary or {token.strip(_BEGINS).lower() for token in vocabulary} >= set(_WORD)


def check(
    folder: Path, config: Mapping[str, Any], rows: int, conversation: Sequence[int] = (), ending: str | None = None
) -> str:
    """Check the ids of a checkpoint, and return what was found.

    Args:
        folder: The checkpoint.
        config: Its `config.json`.
        rows: Of the embedding, which are the ids that the model has.
        conversation: The tokens of a message in the chat template.
        ending: The token by which the chat template ends an answer. The result cautions if no file says that it ends
            one: base models whose template was never trained have that, and others never stop.

    Raises:
        CheckFailedError: An id is missing, is no row, or belongs to no token.
        CheckpointError: A file is not JSON.
    """
    vocabulary, named = Vocabulary.read(folder), special_tokens(folder)
    declared = list(_declared(folder, config))
    for where, numbers in declared:
        _require_rows(where, numbers, rows)
    _require_rows(f"{folder}: a message in the chat template", conversation, rows)
    for token, number in vocabulary.ids.items():
        if number >= rows and not _MEDIA.search(token):
            _require_rows(f"{folder}: token {token!a:.80}", [number], rows)
    for name in _TOKENS if vocabulary.complete else ():
        if named.get(name, "") not in {"", *vocabulary.ids}:
            message = f"{folder}: {name}: found {named[name]!a:.80}, which {TOKENIZER} does not have"
            raise CheckFailedError(message, hint=_HINT)
    ends = [number for where, found in declared if where.endswith(_END) for number in found]
    _require_end(folder, ends, named, vocabulary)
    found = f"all ids of {len(vocabulary.ids)} tokens and of the configuration are among the {rows} of the embedding"
    if ending is None or ending == named.get("eos_token") or vocabulary.ids.get(ending) in ends:
        return found
    return (
        f"{found}; caution: the chat template ends an answer with {ending!a:.80}, which is not among {_END} {ends}:"
        f" answers may go on until their limit; add {vocabulary.ids.get(ending)} to {_END} in {_GENERATION}"
    )


def first_special(tokenizer: Tokenizer, text: str) -> str | None:
    """Return the first special token of a text, such as `<|im_end|>`; None if it has none."""
    special = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    numbers = tokenizer.encode(text, add_special_tokens=False).ids
    return next((special[number] for number in numbers if number in special), None)


def _declared(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Yield each field with the ids of special tokens, and the ids."""
    path = folder / _GENERATION
    text = structure.text_config(config)
    parts = {configs.CONFIG: config, _GENERATION: read_json(path) if path.is_file() else {}}
    if text is not config:
        parts[f"{configs.CONFIG}: text_config"] = text
    for part, document in parts.items():
        for name in _FIELDS:
            value = document.get(name)
            values = value if isinstance(value, list) else [value]
            numbers = [number for number in values if type(number) is int]
            where = f"{folder / part}: {name}"
            if value is None or (value == _NO_PADDING and name == _FIELDS[-1]):
                continue
            if not numbers or len(numbers) != len(values):
                message = f"{where}: found {value!a:.80}, expected a whole number or a list of them"
                raise CheckFailedError(message)
            yield where, numbers


def _require_rows(where: str, numbers: Sequence[int], rows: int) -> None:
    for number in numbers:
        if not 0 <= number < rows:
            message = f"{where}: found the id {number}, but the embedding has {rows} rows: expected 0 to {rows - 1}"
            raise CheckFailedError(message, hint=_HINT)


def _require_end(folder: Path, ends: list[int], named: Mapping[str, str], vocabulary: Vocabulary) -> None:
    """Check that some token ends an answer."""
    if not ends and "eos_token" not in named:
        message = f"{folder}: no file says which token ends an answer: {_END} and eos_token are missing"
        raise CheckFailedError(message, hint=f"Set {_END} in {_GENERATION}.")
    known = set(vocabulary.ids.values())
    if vocabulary.complete and ends and known.isdisjoint(ends):
        message = f"{folder}: {_END}: found {ends}, and {TOKENIZER} has no token with such an id, so no answer ends"
        raise CheckFailedError(message, hint=_HINT)
