"""Compare a quantized checkpoint with its original on held-out text.

`python -m orchestrator.payloads.evaluate --checkpoint DIR --reference DIR --output DIR` writes `evaluation.json`:
divergence, perplexity and each layer's share of the error. It needs torch and transformers.

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
from orchestrator.quantization import divergence, evaluation, heap
from orchestrator.quantization.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEED = 1
"""For tokens if there is no text. Calibration draws its own from 0."""


def main(arguments: Sequence[str] | None = None, *, alone: bool = False) -> None:
    """Read the options, compare, and write the result; in a process of its own, keep the heap small."""
    options = _parser().parse_args(arguments)
    if alone:
        heap.give_back_what_is_large()
    found = divergence.evaluate(
        options.reference,
        options.checkpoint,
        _text.batches(options.reference, options.text, options),
        settings=_text.walk_settings(options),
        observer=Reporter(),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / evaluation.FILE, found.document())
    print(
        f"compared: {found.kl_divergence:.3g} nats a token, perplexity {found.perplexity_increase:+.2%},"
        f" {found.agreement:.1%} of {found.tokens} tokens agree",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.payloads.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the quantized checkpoint")
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="the original")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"where to write {evaluation.FILE}")
    _text.add_held_out(parser, seed=_SEED)
    return parser


if __name__ == "__main__":
    sys.exit(_main.run(partial(main, alone=True)))
