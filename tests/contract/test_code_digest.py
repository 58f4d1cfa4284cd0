"""The state of a payload's code: it follows what the payload imports, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "orchestrator.payloads.quantize"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(
        ROOT / "orchestrator", tmp_path / "orchestrator", ignore=shutil.ignore_patterns("__pycache__")
    )


def digest(copy: Path, module: str = MODULE) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from orchestrator.code import code_digest; print(code_digest({module!r}))"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=copy.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def edit(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")


def test_it_is_the_same_wherever_the_code_lies(copy: Path) -> None:
    assert digest(copy) == digest(ROOT / "orchestrator")


@pytest.mark.parametrize(
    "file",
    ["payloads/quantize.py", "quantization/formats/nvfp4.py", "payloads/__init__.py"],
)
def test_it_changes_with_whatever_the_payload_imports(copy: Path, file: str) -> None:
    before = digest(copy)
    edit(copy / file)
    assert digest(copy) != before


@pytest.mark.parametrize(
    "file", ["payloads/verify.py", "cli/main.py", "payloads/generate.py", "runner.py", "errors.py", "payloads/_main.py"]
)
def test_it_stays_when_other_code_changes(copy: Path, file: str) -> None:
    before = digest(copy)
    edit(copy / file)
    assert digest(copy) == before


@pytest.mark.parametrize("file", ["hub/fetch.py", "hub/partial.py", "hub/transfer.py", "hub/trust.py", "witness.py"])
def test_a_download_is_done_again_when_what_decides_on_its_bytes_changes(copy: Path, file: str) -> None:
    before = digest(copy, "orchestrator.payloads.download")
    edit(copy / file)
    assert digest(copy, "orchestrator.payloads.download") != before


@pytest.mark.parametrize("file", ["room.py", "hub/outstanding.py", "hub/words.py", "needs.py"])
def test_a_download_stays_when_only_its_counting_or_its_words_change(copy: Path, file: str) -> None:
    before = digest(copy, "orchestrator.payloads.download")
    edit(copy / file)
    assert digest(copy, "orchestrator.payloads.download") == before


def test_an_import_straight_from_the_package_counts(copy: Path) -> None:
    (copy / "payloads" / "odd.py").write_text("def later() -> None:\n    from orchestrator import journal\n")
    before = digest(copy, "orchestrator.payloads.odd")
    edit(copy / "journal.py")
    assert digest(copy, "orchestrator.payloads.odd") != before
