"""Every file of a checkpoint, replaced by what it is not: `verify` fails, and nothing else happens."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.payloads import generate
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.quality import examine

REPLACEMENTS: Mapping[str, bytes] = {
    "a page": b"<!DOCTYPE html><html><body>Please log in to the guest network</body></html>",
    "nothing": b"",
    "half of a document": b'{"model_type": "lla',
    "a list": b'["a", 1]',
    "a number": b"7",
    "no text": bytes(range(128, 256)),
    "depth without end": b"[" * 5000,
    "an object of something else": b'{"error": "busy"}',
}
FILES: Mapping[str, set[str]] = {
    "config.json": set(),
    "generation_config.json": {"an object of something else"},
    "hf_quant_config.json": set(),
    "model.safetensors": set(),
    "special_tokens_map.json": {"an object of something else"},
    "tokenizer.json": set(),
    "tokenizer_config.json": set(),
}
"""The files of a checkpoint of ours, and what may stand in each: no field of these two is needed."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    sizes = ("--layers", "1", "--hidden-size", "32", "--vocab-size", "320")
    generate.main(["--output", str(folder / "model"), *sizes])
    quantize_checkpoint(folder / "model", folder / "out")
    return folder / "out"


def without_a_row(folder: Path) -> set[str]:
    """Return the files without a row, and the rows without a file."""
    return {file.name for file in folder.iterdir()} ^ FILES.keys()


def test_every_file_has_a_row(made: Path) -> None:
    assert without_a_row(made) == set()
    assert examine(made).passed


def test_a_new_file_is_missed_in_the_table(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "more")
    (tmp_path / "more" / "processor_config.json").write_text("{}")
    assert without_a_row(tmp_path / "more") == {"processor_config.json"}


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_something_else_fails_verify(made: Path, tmp_path: Path, name: str, replacement: str) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(made, folder)
    (folder / name).chmod(0o644)
    (folder / name).write_bytes(REPLACEMENTS[replacement])
    assert examine(folder).passed == (replacement in FILES[name])
