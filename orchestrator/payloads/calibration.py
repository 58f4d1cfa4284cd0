"""Write text for calibration as JSON Lines with one `text` each: the form that every quantizer reads.

`python3 -m orchestrator.payloads.calibration --source FILE --samples N --output FILE` reads Parquet (with the
image's pyarrow), JSON Lines, or plain text whose samples are separated by empty lines. Plain text with fewer samples
than are wanted is cut into pieces of at most 2,000 characters, at the ends of words.

With `--conversations` each line has `messages`: those of JSON Lines that have them, else the text as a user's message.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import textwrap
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CalibrationTextError
from orchestrator.events import Progress
from orchestrator.payloads import _main
from orchestrator.payloads._report import Reporter
from orchestrator.quantization.conversations import Messages, messages_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

_TEXT = ".txt"
_ROWS_AT_A_TIME = 256
_PIECE = 2000
"""Characters: about 500 tokens of English, the default length of a sequence."""
_LONG = 500
"""Characters: text of this length that is in two samples is no accident."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and write the text."""
    options = _parser().parse_args(arguments)
    taken = {_content(sample) for sample in _samples(options.without)} if options.without else set()
    read = partial(_samples, options.source, options.column, conversations=options.conversations)
    if options.source.suffix == _TEXT:
        samples = list(islice(_besides_parts(taken, read(), cut=False), options.samples))
        if len(samples) < options.samples:
            samples = list(islice(_besides_parts(taken, read(cut=True), cut=True), options.samples))
    else:
        samples = list(islice((sample for sample in read() if _content(sample) not in taken), options.samples))
    if len(samples) < options.samples:
        besides = " besides those of the calibration" if taken else ""
        message = f"{options.source}: {options.samples} samples are needed, found {len(samples)}{besides}"
        raise CalibrationTextError(message, hint="lower the number of samples in the recipe, or add text")
    rows = ({"text": sample} if isinstance(sample, str) else {"messages": sample} for sample in samples)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(lines), encoding="utf-8")
    Reporter()(Progress(len(samples), len(samples), "samples"))


def _besides_parts(taken: Collection[str], samples: Iterable[str | Messages], *, cut: bool) -> Iterator[str | Messages]:
    """Yield the samples that are neither taken, nor a piece of what is taken, nor have such a piece in them.

    A short one may be in a long one by accident, unless it was cut.
    """
    long = [one for one in taken if len(one) >= _LONG]
    for sample in samples:
        content = _content(sample)
        is_piece = cut or len(content) >= _LONG
        if content not in taken and not any(one in content or (is_piece and content in one) for one in long):
            yield sample


def _samples(
    source: Path, column: str = "text", *, conversations: bool | None = None, cut: bool = False
) -> Iterator[str | Messages]:
    """Yield the samples that are not empty.

    Args:
        source: The file.
        column: Where the text is in Parquet and JSON Lines.
        conversations: True: text becomes a user's message. False: there must be text. None: either.
        cut: Cut plain text into pieces.
    """
    readers = {".parquet": _parquet, ".jsonl": _json_lines, _TEXT: _pieces if cut else _paragraphs}
    if source.suffix not in readers:
        message = f"{source}: expected a file that ends in {', '.join(readers)}"
        raise CalibrationTextError(message)
    for where, sample in readers[source.suffix](source, column):
        if conversations is False and not isinstance(sample, str):
            message = f"{where}: expected a JSON object with `{column}`; found a conversation"
            hint = "set quantization.calibration.chat_template: true, or write the text out"
            raise CalibrationTextError(message, hint=hint)
        if _content(sample):
            yield [{"role": "user", "content": sample}] if conversations and isinstance(sample, str) else sample


def _content(sample: str | Messages) -> str:
    """Return the text by which two samples are compared."""
    return (sample if isinstance(sample, str) else "\n".join(turn["content"] for turn in sample)).strip()


def _parquet(source: Path, column: str) -> Iterator[tuple[str, str | Messages]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        message = f"{source}: reading Parquet needs pyarrow, which is not installed"
        raise CalibrationTextError(message, hint="run the step in the quantizer's image") from error
    for batch in parquet.ParquetFile(source).iter_batches(_ROWS_AT_A_TIME, columns=[column]):
        yield from ((str(source), text) for text in batch.column(0).to_pylist() if isinstance(text, str))


def _json_lines(source: Path, column: str) -> Iterator[tuple[str, str | Messages]]:
    with source.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{source}:{number}", _sample(line, column, f"{source}:{number}")


def _sample(line: str, column: str, where: str) -> str | Messages:
    try:
        row = json.loads(line)
    except ValueError as error:
        message = f"{where}: expected a JSON object with `{column}`: {error}"
        raise CalibrationTextError(message) from error
    if isinstance(row, dict) and column not in row and "messages" in row:
        return messages_of(row["messages"], where)
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        message = f"{where}: expected a JSON object with the text `{column}`, or with `messages`"
        raise CalibrationTextError(message)
    return text


def _paragraphs(source: Path, _column: str) -> Iterator[tuple[str, str]]:
    paragraph: list[str] = []
    with source.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield str(source), "".join(paragraph).strip()
                paragraph = []
    if paragraph:
        yield str(source), "".join(paragraph).strip()


def _pieces(source: Path, column: str) -> Iterator[tuple[str, str]]:
    """Yield paragraphs in pieces, which are the same however many are wanted."""
    for where, paragraph in _paragraphs(source, column):
        yield from (
            (where, piece)
            for piece in textwrap.wrap(
                paragraph, _PIECE, replace_whitespace=False, expand_tabs=False, break_on_hyphens=False
            )
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m orchestrator.payloads.calibration", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help="where the text is")
    parser.add_argument("--column", default="text", metavar="NAME", help="of Parquet and JSON Lines (%(default)s)")
    parser.add_argument("--conversations", action="store_true", help="write messages, for the model's chat template")
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="how many to take, from the start")
    parser.add_argument("--without", type=Path, metavar="FILE", help="JSON Lines of text that must not be in it")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to write JSON Lines")
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
