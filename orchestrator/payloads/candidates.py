"""Compare ways to encode NVFP4 with the original on held-out text, in one walk over the weights.

`python -m orchestrator.payloads.candidates --checkpoint DIR --output DIR --try max,weighted` writes `candidates.json`:
the divergence, perplexity and agreement of each with their intervals, and which is the best. It needs torch and
transformers.

The variables `ORCHESTRATOR_THREADS`, `ORCHESTRATOR_MEMORY` and `ORCHESTRATOR_SPILL` are the options of these names.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.payloads import _main, _text
from orchestrator.payloads._report import Reporter
from orchestrator.payloads.quantize import is_worth_compiling
from orchestrator.quantization import candidate_findings, candidate_walk, candidates, cost, format_names, heap
from orchestrator.quantization.files import write_json
from orchestrator.quantization.formats import kernels
from orchestrator.quantization.schemes import searching

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SEED = 1
"""For held-out tokens if there is no text, as in `evaluate`. Calibration draws its own from 0."""


def main(arguments: Sequence[str] | None = None, *, alone: bool = False) -> None:
    """Read the options, compare, and write the result; in a process of its own, compile and keep the heap small."""
    parser = _parser()
    options = parser.parse_args(arguments)
    most = candidates.most_demanding(options.candidates).values
    _check_calibration(parser, options, most)
    if alone:
        heap.give_back_what_is_large()
        if is_worth_compiling(options.checkpoint, most["rounding"]):
            kernels.compile_meanwhile(options.threads)
    spent = cost.Cost()
    with cost.watched() as peak:
        document = _compared(options, spent)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / candidate_findings.FILE, document)
    spent.peak_bytes = peak.size
    Reporter()(spent.spent(kernels.threads_for(options.threads)))
    print(f"compared: {document['best']} is the best of {len(options.candidates)}", flush=True)


def _check_calibration(parser: argparse.ArgumentParser, options: argparse.Namespace, most: Mapping[str, str]) -> None:
    """Refuse candidates, a format or a cache that need the calibration that is left out."""
    scheme = searching(**most)[options.format]
    follows_text = "+gptq" if scheme.compensates else "--smoothing norms" if options.smoothing != "none" else ""
    if follows_text and options.calibration is None:
        parser.error(f"{follows_text} needs --calibration: tokens from a seed tell nothing of the inputs")
    needs = scheme.calibrated or scheme.weighs_errors or follows_text or options.kv_cache != "none"
    if needs and not options.calibration_samples:
        parser.error("these candidates, this format or this cache need --calibration-samples")


def _compared(options: argparse.Namespace, spent: cost.Cost) -> dict[str, object]:
    calibration = argparse.Namespace(
        samples=options.calibration_samples,
        sequence_length=options.calibration_sequence_length,
        batch_size=options.calibration_batch_size,
        seed=0,
    )
    model, needs = options.checkpoint, calibration.samples
    samples = candidate_walk.Samples(
        _text.batches(model, options.calibration, calibration) if needs else [],
        _text.batches(model, options.text, options),
    )
    return candidate_walk.compare_candidates(
        model,
        options.candidates,
        samples,
        number_format=options.format,
        kv_cache=options.kv_cache,
        exclude=options.exclude,
        smoothing=options.smoothing,
        settings=_text.walk_settings(options),
        cost=spent,
        observer=Reporter(),
    ).document()


def _names(text: str) -> tuple[candidates.Candidate, ...]:
    try:
        return candidates.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.payloads.candidates", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="an unquantized checkpoint")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"where to write {candidate_findings.FILE}"
    )
    parser.add_argument("--try", dest="candidates", type=_names, required=True, metavar="NAMES", help="weighted+gptq,…")
    parser.add_argument("--format", choices=format_names.SMOOTHED_FORMATS, required=True)
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="as in quantize")
    parser.add_argument("--kv-cache", choices=format_names.KV_CACHE_FORMATS, default="none", help="as in quantize")
    parser.add_argument("--smoothing", choices=format_names.SMOOTHINGS, default="none", help="as in quantize, of all")
    group = parser.add_argument_group("calibration", "which is left out without samples")
    group.add_argument("--calibration", type=Path, metavar="FILE", help="JSON Lines of `text`; else tokens from a seed")
    group.add_argument("--calibration-samples", type=int, default=0, metavar="N", help="default: %(default)s")
    group.add_argument("--calibration-sequence-length", type=_text.positive, default=512, metavar="N")
    group.add_argument("--calibration-batch-size", type=_text.positive, default=1, metavar="N")
    _text.add_held_out(parser, seed=_SEED)
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(partial(main, alone=True)))
