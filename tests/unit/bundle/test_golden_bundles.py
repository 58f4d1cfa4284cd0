"""One bundle, written down whole, and how two others differ from it: a change of what is deployed shows in review.

UPDATE_GOLDEN=1 writes the files anew. The gateway's code is not among them, and versions and predictions are fixed:
what changes with the calendar or with a calibration is no change of a bundle.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.bundle.targets import render_files
from tests.support.bundles import ROOT, contents_of

GOLDEN = ROOT / "tests" / "golden" / "bundles"
WHOLE = "llama3-70b-nvfp4"
"""With a TensorRT engine; its bundle has every target that runs on one machine."""
OTHERS = (
    "tiny-llama-w4a16-nvfp4",
    "qwen3-235b-a22b-nvfp4-published",
    "deepseek-coder-v2-lite-nvfp4",
    "qwen3-8b-nvfp4-edge-llm",
)
"""From a seed on any machine, on two Sparks, with vLLM, and with TensorRT Edge-LLM."""
DIFFERENCES = "differences.diff"
"""The lines by which files differ that both bundles have; files that only one of them has are named."""
BAND = {"low": 4.0, "expected": 5.0, "high": 6.0}
PREDICTION = {
    "weights_bytes": 42_000_000_000,
    "peak_memory_bytes": {"download": 157_286_400, "serve": 48_000_000_000},
    "workload": {"input_tokens": 3584, "output_tokens": 512, "concurrency": 1},
    "max_context": 8192,
    "decode_tokens_per_s": BAND,
    "prefill_tokens_per_s": {"low": 340.0, "expected": 566.0, "high": 793.0},
    "levels": [{"concurrency": 1, "output_tokens_per_second": BAND}],
    "constants": {"version": "0123456789ab", "basis": "what is written in the tests"},
}


@pytest.mark.parametrize("name", [WHOLE, *OTHERS])
def test_a_bundle_is_the_one_that_was_written_down(name: str, tmp_path: Path) -> None:
    texts = _bundle(name, tmp_path)
    wanted = texts if name == WHOLE else _differing(name, texts, _bundle(WHOLE, tmp_path))
    folder = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in wanted.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    kept = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert sorted(kept) == sorted(wanted)
    for path, file in kept.items():
        assert wanted[path] == file.read_text(encoding="utf-8"), path


def _bundle(name: str, root: Path) -> dict[str, str]:
    """Render a bundle without the gateway's code and without what changes with the calendar."""
    contents = replace(contents_of(name, root), version="1.2.3", prediction=PREDICTION, serving_memory=48e9)
    return {path: text for path, text in render_files(contents).items() if not path.startswith("gateway/")}


def _differing(name: str, texts: Mapping[str, str], whole: Mapping[str, str]) -> dict[str, str]:
    """Keep the files that only this bundle has, and the lines by which the others differ in more than the name."""
    assert not [path for path, text in texts.items() if WHOLE in path + text]
    renamed = {path.replace(name, WHOLE): text.replace(name, WHOLE) for path, text in texts.items()}
    new = {path: text for path, text in texts.items() if path.replace(name, WHOLE) not in whole}
    return new | {DIFFERENCES: "".join(_differences(renamed, whole))}


def _differences(texts: Mapping[str, str], whole: Mapping[str, str]) -> Iterator[str]:
    for path, text in sorted(whole.items()):
        if path not in texts:
            yield f"no {path}\n"
            continue
        lines = difflib.unified_diff(text.splitlines(), texts[path].splitlines(), n=0, lineterm="")
        changed = list(lines)[2:]  # the first two name the files
        if changed:
            yield f"in {path}\n"
            yield from (f"{line}\n" for line in changed)
