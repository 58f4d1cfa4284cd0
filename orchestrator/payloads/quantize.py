"""Quantize a checkpoint: `python -m orchestrator.payloads.quantize --checkpoint DIR --output DIR --format NAME`.

`w4a16_nvfp4` looks at the weights only, except with `--scale-search weighted` or `local_hessian`, `--rounding gptq` or
`--smoothing norms`. The other formats run the model, layer by layer, over calibration text, or over tokens from a seed
if there is no text, which needs torch and transformers.
`bf16` writes what is published in MXFP4 (gpt-oss) or in FP8 with block scales (DeepSeek-V3) in 16 bits.

The variables `ORCHESTRATOR_THREADS`, `ORCHESTRATOR_MEMORY` and `ORCHESTRATOR_SPILL` are the options of these names.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.payloads import _main, _text
from orchestrator.payloads._report import Reporter
from orchestrator.quantization import auto, calibrated, cost, dequantize, format_names, heap, onepass, report
from orchestrator.quantization.files import write_json
from orchestrator.quantization.formats import gpu, kernels
from orchestrator.quantization.schemes import SCHEMES
from orchestrator.quantization.writer import SHARD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.quantization.walk import WalkSettings


_COMPILED_FROM_BYTES = 16 * 10**6
"""Of weights. NumPy encodes eight million of them in two seconds with the slowest search (4.1 million a second on an
x86-64 core, 28 November 2026), and a compiler needs as long."""


def main(arguments: Sequence[str] | None = None, *, alone: bool = False) -> None:
    """Read the options and quantize; in a process of its own, compile the loops and keep the heap small."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.format == format_names.AUTO) == (options.bits_per_weight is None and options.budget_bytes is None):
        parser.error("--format auto goes with --bits-per-weight or --budget-bytes, and they go with it")
    if options.scale_search != format_names.MAX and options.format not in format_names.SEARCHED_FORMATS:
        searched = ", ".join(format_names.SEARCHED_FORMATS)
        parser.error(f"--scale-search goes with --format {searched}: {options.format} has no blocks of NVFP4")
    _check_text_choices(parser, options)
    if options.input_scales != format_names.MAX and options.format not in format_names.FORMATS_OF_4_BIT_INPUTS:
        parser.error(f"--input-scales goes with --format nvfp4 and auto: {options.format} has no 4-bit inputs")
    _check_layer_inputs(parser, options)
    if alone and is_worth_compiling(options.checkpoint, options.rounding):
        kernels.compile_meanwhile(options.threads)
    with cost.watched() as peak:
        found = _quantize(options, alone=alone)
    found.peak_bytes = peak.size
    Reporter()(found.spent(kernels.threads_for(options.threads)))


def is_worth_compiling(checkpoint: Path, rounding: str) -> bool:
    """Tell whether the compiled loops save more time than the compiler takes."""
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    return rounding != format_names.NEAREST or weights >= _COMPILED_FROM_BYTES


def _check_text_choices(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    allowed = {
        "rounding": (format_names.NEAREST, format_names.ROUNDED_FORMATS),
        "smoothing": (format_names.NONE, format_names.SMOOTHED_FORMATS),
    }
    for name, (default, formats) in allowed.items():
        chosen = getattr(options, name)
        if chosen == default:
            continue
        if options.format not in formats:
            parser.error(f"--{name} {chosen} goes with --format {', '.join(formats)}, not with {options.format}")
        if options.calibration is None:
            parser.error(f"--{name} {chosen} needs --calibration: tokens from a seed tell nothing of the inputs")


def _check_layer_inputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.layer_inputs == format_names.ORIGINAL:
        return
    if options.format in (format_names.AUTO, dequantize.NUMBER_FORMAT) or not _runs_the_model(options):
        parser.error(f"--layer-inputs {options.layer_inputs} needs a calibration of one format, not {options.format}'s")


def _quantize(options: argparse.Namespace, *, alone: bool) -> cost.Cost:
    if options.format == dequantize.NUMBER_FORMAT:
        return dequantize.dequantize_checkpoint(
            options.checkpoint, options.output, observer=Reporter(), shard_bytes=options.shard_bytes
        )
    if _runs_the_model(options):
        if alone:
            heap.give_back_what_is_large()
        return _calibrate(options)
    return onepass.quantize_checkpoint(
        options.checkpoint,
        options.output,
        number_format=options.format,
        scale_search=options.scale_search,
        exclude=options.exclude,
        observer=Reporter(),
        shard_bytes=options.shard_bytes,
    )


def _runs_the_model(options: argparse.Namespace) -> bool:
    if options.format == format_names.AUTO or SCHEMES[options.format].calibrated:
        return True
    choices = (options.scale_search, options.rounding, options.smoothing)
    return options.kv_cache != "none" or any(one in format_names.MEASURED for one in choices)


def _calibrate(options: argparse.Namespace) -> cost.Cost:
    walk = _text.walk_settings(options)
    with ThreadPoolExecutor(1, "compile for the GPU") as compiling:
        if walk.device != "cpu":
            compiling.submit(gpu.warn_if_unavailable, Reporter())
        return _calibrated(options, walk)


def _calibrated(options: argparse.Namespace, walk: WalkSettings) -> cost.Cost:
    settings = calibrated.Settings(**vars(walk), shard_bytes=options.shard_bytes)
    quantize = (
        partial(auto.quantize_auto, budget=auto.Budget(options.bits_per_weight, options.budget_bytes))
        if options.format == format_names.AUTO
        else partial(
            calibrated.quantize_calibrated,
            number_format=options.format,
            shared_scales=options.shared_scales,
            smoothing=options.smoothing,
            layer_inputs=options.layer_inputs,
        )
    )
    found = quantize(
        options.checkpoint,
        options.output,
        _text.batches(options.checkpoint, options.calibration, options),
        kv_cache=options.kv_cache,
        exclude=options.exclude,
        scale_search=options.scale_search,
        input_scales=options.input_scales,
        rounding=options.rounding,
        settings=settings,
        observer=Reporter(),
    )
    write_json(options.output / report.FILE, found.document())
    return found.cost


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.payloads.quantize", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="an unquantized checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write the quantized one")
    parser.add_argument(
        "--format",
        choices=(*SCHEMES, format_names.AUTO, dequantize.NUMBER_FORMAT),
        default=next(iter(SCHEMES)),
        help="default: %(default)s; bf16 undoes MXFP4 and FP8 with block scales",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--bits-per-weight", type=float, metavar="X", help="auto: average over everything that can be quantized"
    )
    budget.add_argument("--budget-bytes", type=int, metavar="N", help="auto: of the whole checkpoint")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules that are not quantized, such as 'model.layers.0.*'; can be given several times",
    )
    parser.add_argument(
        "--shard-bytes", type=int, default=SHARD_BYTES, metavar="N", help="largest weights file (%(default)s)"
    )
    parser.add_argument(
        "--kv-cache", choices=format_names.KV_CACHE_FORMATS, default="none", help="write scales for keys and values"
    )
    parser.add_argument(
        "--shared-scales", action="store_true", help="fp8: one weight scale for what runtimes fuse, unlike ModelOpt"
    )
    parser.add_argument(
        "--scale-search",
        choices=format_names.SCALE_SEARCHES,
        default=format_names.MAX,
        help="nvfp4: how the scale of each block is chosen (%(default)s); weighted and local_hessian run the model",
    )
    parser.add_argument(
        "--rounding",
        choices=format_names.ROUNDINGS,
        default=format_names.NEAREST,
        help="nvfp4: how numbers are rounded (%(default)s); gptq runs the model for every format and needs text",
    )
    parser.add_argument(
        "--smoothing",
        choices=format_names.SMOOTHINGS,
        default=format_names.NONE,
        help="nvfp4: norms divides inputs after norms by powers of two (%(default)s), and runs the model as gptq does",
    )
    parser.add_argument(
        "--input-scales",
        choices=format_names.INPUT_SCALES,
        default=format_names.MAX,
        help="nvfp4 and auto: how the scales of 4-bit inputs are chosen (%(default)s)",
    )
    parser.add_argument(
        "--layer-inputs",
        choices=format_names.LAYER_INPUTS,
        default=format_names.ORIGINAL,
        help="which layers calculate the inputs of those after them in calibration (%(default)s); not with auto",
    )
    _text.add_threads(parser)
    _add_calibration(parser.add_argument_group("calibration", "of formats with input scales"))
    return parser


def _add_calibration(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--calibration", type=Path, metavar="FILE", help="JSON Lines of `text`; else tokens from a seed")
    _text.add_options(group, samples=512)
    _text.add_resources(group)


if __name__ == "__main__":
    sys.exit(_main.run(partial(main, alone=True)))
