"""Quantize a checkpoint: `python -m orchestrator.payloads.quantize --checkpoint DIR --output DIR --format NAME`.

`w4a16_nvfp4` looks at the weights only. The other formats run the model, layer by layer, over calibration text, or over
tokens from a seed where no text is given, which need torch and transformers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError
from orchestrator.payloads import _main
from orchestrator.payloads._report import Reporter
from orchestrator.quantization import calibrated, configs, onepass, report, samples
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import kernels
from orchestrator.quantization.model import library
from orchestrator.quantization.schemes import SCHEMES
from orchestrator.quantization.writer import SHARD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and quantize."""
    options = _parser().parse_args(arguments)
    if SCHEMES[options.format].calibrated or options.kv_cache != "none":
        _calibrate(options)
        return
    onepass.quantize_checkpoint(
        options.checkpoint,
        options.output,
        number_format=options.format,
        exclude=options.exclude,
        observer=Reporter(),
        shard_bytes=options.shard_bytes,
    )


def _calibrate(options: argparse.Namespace) -> None:
    device = _device(options.device)
    settings = calibrated.Settings(
        device=device,
        ahead=device != "cpu",
        scratch=options.scratch,
        seconds_between_notes=options.note_seconds,
        shard_bytes=options.shard_bytes,
    )
    found = calibrated.quantize_calibrated(
        options.checkpoint,
        options.output,
        _batches(options),
        number_format=options.format,
        kv_cache=options.kv_cache,
        exclude=options.exclude,
        shared_scales=options.shared_scales,
        settings=settings,
        observer=Reporter(),
    )
    write_json(options.output / report.FILE, found.document())
    print(found.summary(), flush=True)


def _device(wanted: str) -> str:
    torch = library("torch")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _batches(options: argparse.Namespace) -> list[samples.Batch]:
    if options.calibration is None:
        vocabulary = read_json(options.checkpoint / configs.CONFIG).get("vocab_size")
        if type(vocabulary) is not int or vocabulary < 1:
            message = f"{options.checkpoint}: config.json: vocab_size: found {vocabulary!r}, expected a whole number"
            raise CheckpointError(message)
        return samples.random_batches(
            vocabulary, options.samples, options.sequence_length, options.batch_size, options.seed
        )
    tokenizers: Any = library("transformers").AutoTokenizer
    try:
        tokenizer = tokenizers.from_pretrained(options.checkpoint)
    except (OSError, ValueError) as error:
        message = f"{options.checkpoint}: the tokenizer cannot be read: {error}"
        raise CheckpointError(message) from error
    return samples.text_batches(
        options.calibration, tokenizer, options.samples, options.sequence_length, options.batch_size
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.payloads.quantize", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="an unquantized checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write the quantized one")
    parser.add_argument("--format", choices=tuple(SCHEMES), default=next(iter(SCHEMES)), help="default: %(default)s")
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
    parser.add_argument(
        "--kv-cache", choices=configs.KV_CACHE_FORMATS, default="none", help="write scales for keys and values"
    )
    parser.add_argument(
        "--shared-scales", action="store_true", help="fp8: one weight scale for what engines fuse, unlike ModelOpt"
    )
    _add_calibration(parser.add_argument_group("calibration", "of formats that scale what flows through the model"))
    return parser


def _add_calibration(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--calibration", type=Path, metavar="FILE", help="JSON Lines of `text`; else tokens from a seed")
    group.add_argument("--samples", type=_positive, default=512, metavar="N", help="default: %(default)s")
    group.add_argument("--sequence-length", type=_positive, default=512, metavar="N", help="tokens a sample at most")
    group.add_argument("--batch-size", type=_positive, default=1, metavar="N", help="samples that run together")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of tokens where there is no text")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the model runs")
    group.add_argument("--scratch", type=Path, metavar="DIR", help="where to note how far it is, to go on from there")
    group.add_argument(
        "--note-seconds", type=float, default=60, metavar="S", help="time between two notes (%(default)s)"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        message = f"{value} is too few"
        raise argparse.ArgumentTypeError(message)
    return value


def _start() -> None:
    kernels.compile_here()
    main()


if __name__ == "__main__":
    sys.exit(_main.run(_start))
