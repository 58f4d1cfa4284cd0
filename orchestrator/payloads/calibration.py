"""Write text for calibration as JSON Lines with one `text` each: the form that every quantizer reads.

`python3 -m orchestrator.payloads.calibration --source FILE --samples N --output FILE` reads Parquet (with the
image's pyarrow), JSON Lines, or plain text whose samples are separated by empty lines.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CalibrationTextError
from orchestrator.events import Progress, to_line
from orchestrator.payloads import _main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ROWS_AT_A_TIME = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and write the text."""
    options = _parser().parse_args(arguments)
    taken = {text.strip() for text in _json_lines(options.without, "text")} if options.without else set()
    wanted = (text for text in _texts(options.source, options.column) if text.strip() and text.strip() not in taken)
    samples = list(islice(wanted, options.samples))
    if len(samples) < options.samples:
        besides = " besides those that calibration takes" if taken else ""
        message = f"{options.source}: {options.samples} samples are wanted, it has {len(samples)}{besides}"
        raise CalibrationTextError(message, hint="lower the number of samples in the recipe, or add text")
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in samples)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(lines), encoding="utf-8")
    print(to_line(Progress(len(samples), len(samples), "samples")), flush=True)


def _texts(source: Path, column: str) -> Iterator[str]:
    readers = {".parquet": _parquet, ".jsonl": _json_lines, ".txt": _paragraphs}
    if source.suffix not in readers:
        message = f"{source}: expected a file that ends in {', '.join(readers)}"
        raise CalibrationTextError(message)
    return readers[source.suffix](source, column)


def _parquet(source: Path, column: str) -> Iterator[str]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        message = f"{source}: reading Parquet needs pyarrow, which is not here"
        raise CalibrationTextError(message, hint="run the step in the quantizer's image") from error
    for batch in parquet.ParquetFile(source).iter_batches(_ROWS_AT_A_TIME, columns=[column]):
        yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))


def _json_lines(source: Path, column: str) -> Iterator[str]:
    with source.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _field(line, column, f"{source}:{number}")


def _field(line: str, column: str, where: str) -> str:
    try:
        text = json.loads(line)[column]
    except (ValueError, KeyError, TypeError) as error:
        message = f"{where}: expected a JSON object with `{column}`: {error}"
        raise CalibrationTextError(message) from error
    if not isinstance(text, str):
        message = f"{where}: `{column}`: expected a text; found {type(text).__name__}"
        raise CalibrationTextError(message)
    return text


def _paragraphs(source: Path, _column: str) -> Iterator[str]:
    paragraph: list[str] = []
    with source.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield "".join(paragraph).strip()
                paragraph = []
    if paragraph:
        yield "".join(paragraph).strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m orchestrator.payloads.calibration", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help="where the text is")
    parser.add_argument("--column", default="text", metavar="NAME", help="of Parquet and JSON Lines (%(default)s)")
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="how many to take, from the start")
    parser.add_argument("--without", type=Path, metavar="FILE", help="JSON Lines of text that must not be in it")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to write JSON Lines")
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
