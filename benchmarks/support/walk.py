"""Compare candidates in one walk: `walk MODEL FOLDER FORMAT SMOOTHING NAMES CALIBRATION HELD_OUT LENGTH`.

It prints, for each candidate, the figures of each held-out sample. It is run by an interpreter that has torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from orchestrator.payloads import _text
from orchestrator.quantization.candidate_walk import Samples, compare_candidates
from orchestrator.quantization.candidates import parse
from orchestrator.quantization.formats import kernels


def main(model: Path, folder: Path, number_format: str, smoothing: str, names: str, *sizes: int) -> None:
    """Compare and print."""
    calibration, held_out, length = sizes
    kernels.compile_meanwhile(None)
    samples = Samples(
        *(
            _text.batches(
                model,
                folder / f"{name}.jsonl",
                argparse.Namespace(samples=number, sequence_length=length, batch_size=4, seed=0),
            )
            for name, number in (("calibration", calibration), ("held-out", held_out))
        )
    )
    found = compare_candidates(model, parse(names), samples, number_format=number_format, smoothing=smoothing)
    rows = {
        name: [
            {"tokens": int(tokens), **{what: float(values[number] / tokens) for what, values in vars(sums).items()}}
            for number, tokens in enumerate(found.tokens)
        ]
        for name, sums in found.sums.items()
    }
    print(json.dumps(rows))


if __name__ == "__main__":
    _, place, work, form, smooth, ways, *numbers = sys.argv
    main(Path(place), Path(work), form, smooth, ways, *map(int, numbers))
