"""Quantize a checkpoint: `python -m orchestrator.payloads.quantize --checkpoint DIR --output DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.payloads import _main
from orchestrator.payloads._report import Reporter
from orchestrator.quantization import onepass
from orchestrator.quantization.writer import SHARD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and quantize."""
    options = _parser().parse_args(arguments)
    onepass.quantize_checkpoint(
        options.checkpoint,
        options.output,
        number_format=options.format,
        exclude=options.exclude,
        observer=Reporter(),
        shard_bytes=options.shard_bytes,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.payloads.quantize", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="an unquantized checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write the quantized one")
    parser.add_argument("--format", choices=onepass.FORMATS, default=onepass.FORMATS[0], help="default: %(default)s")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules to leave as they are, such as 'model.layers.0.*'; can be given several times",
    )
    parser.add_argument(
        "--shard-bytes", type=int, default=SHARD_BYTES, metavar="N", help="largest weights file (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(main))
