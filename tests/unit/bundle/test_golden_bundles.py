"""Three bundles, written down: a change of what is deployed shows in review.

UPDATE_GOLDEN=1 writes the files anew. The gateway's code is not among them, and versions and predictions are fixed:
what changes with the calendar or with a calibration is no change of a bundle.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.bundle.targets import texts_of
from tests.support.bundles import ROOT, facts_of

GOLDEN = ROOT / "tests" / "golden" / "bundles"
RECIPES = ("tiny-llama-w4a16-nvfp4", "llama3-70b-nvfp4", "qwen3-235b-a22b-nvfp4")
"""From a seed on any machine, with an engine, and on two Sparks."""
BAND = {"low": 4.0, "expected": 5.0, "high": 6.0}
PREDICTION = {
    "weights_bytes": 42_000_000_000,
    "peak_memory_bytes": {"download": 157_286_400, "serve": 48_000_000_000},
    "max_context": 8192,
    "decode_tokens_per_s": BAND,
    "prefill_tokens_per_s": {"low": 340.0, "expected": 566.0, "high": 793.0},
    "levels": [{"concurrency": 1, "output_tokens_per_second": BAND}],
    "constants": {"version": "0123456789ab", "basis": "what is written in the tests"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bundle_is_the_one_that_was_written_down(name: str, tmp_path: Path) -> None:
    facts = replace(facts_of(name, tmp_path), version="1.2.3", prediction=PREDICTION)
    texts = {path: text for path, text in texts_of(facts).items() if not path.startswith("gateway/")}
    folder = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    kept = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert sorted(kept) == sorted(texts)
    for path, file in kept.items():
        assert texts[path] == file.read_text(encoding="utf-8"), path
