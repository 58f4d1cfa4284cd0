"""Compiled templates are kept between runs, and a folder that cannot keep them does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def template() -> str:
    names = sorted((ROOT / "orchestrator/bundle/templates").rglob("*.j2"))
    return next(name for name in names if "{{" not in name.read_text() and "{%" not in name.read_text()).name


def render(folder: Path) -> str:
    found = next((ROOT / "orchestrator/bundle/templates").rglob(template()))
    name = found.relative_to(ROOT / "orchestrator/bundle/templates").as_posix()
    code = f"from orchestrator.bundle.templating import render_text; print(render_text({name!r}), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def kept(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("orchestrator-text-*") if file.is_file()]


def test_a_second_run_compiles_nothing(tmp_path: Path) -> None:
    first = render(tmp_path)
    (compiled,) = kept(tmp_path)
    written = compiled.stat().st_mtime_ns
    assert render(tmp_path) == first
    assert [file.stat().st_mtime_ns for file in kept(tmp_path)] == [written]


def test_a_damaged_one_is_compiled_again(tmp_path: Path) -> None:
    first = render(tmp_path)
    (compiled,) = kept(tmp_path)
    compiled.write_bytes(b"damaged")
    assert render(tmp_path) == first


def test_where_none_can_be_kept_files_are_rendered_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "one" / f"_jinja2-cache-{os.getuid()}").write_text("in the way")
    assert render(tmp_path / "one") == render(tmp_path / "other")
    assert kept(tmp_path / "one") == []
