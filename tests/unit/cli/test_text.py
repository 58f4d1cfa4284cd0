"""Lines and tables as wide as the terminal: broken between words, columns left out before a cell is folded."""

from __future__ import annotations

import sys

import pytest

from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_text, width, wrapped

HEADS = ("phase", "memory", "rests on")
ROWS = [("build engine", "133.4 GB", "measured constant"), ("load", "47.7 GB", "exact bytes")]


@pytest.mark.parametrize(("columns", "expected"), [("60", 60), ("100", 100), ("3", 20)])
def test_columns_names_the_width(monkeypatch: pytest.MonkeyPatch, columns: str, expected: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert width(sys.stdout) == expected


@pytest.mark.parametrize("columns", ["", "many", "-5"])
def test_nobody_watches_where_there_is_no_terminal_and_no_number(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert width(sys.stdout) is None


@pytest.mark.parametrize(
    "text", ["one two three", "  → an-arrow with words of its-own", "https://example.com/a/long/address"]
)
@pytest.mark.parametrize("columns", [10, 14, 20])
def test_a_line_is_broken_between_words_and_loses_none(text: str, columns: int) -> None:
    lines = wrapped(text, columns).splitlines()
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= columns or len(line.split()) == 1 for line in lines)
    assert lines[0].startswith(text[:1])


def test_a_line_is_whole_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_text(" ".join(["word"] * 100))
    assert len(capsys.readouterr().out.splitlines()) == 1


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(HEADS, ROWS, right=(1,), least=(2,))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_table_that_fits_has_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, 60)
    assert lines[2] == "build engine   133.4 GB   measured constant"


def test_a_spare_column_goes_first_and_then_the_space_between(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed(capsys, monkeypatch, 40)[2] == "build engine   133.4 GB"
    assert printed(capsys, monkeypatch, 22)[2] == "build engine  133.4 GB"


def test_at_last_cells_fold_and_names_stay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(capsys, monkeypatch, 20)
    assert max(map(len, lines)) <= 20
    assert "build engine" in "\n".join(lines)
    assert "133.4" in "\n".join(lines)


def test_words_between_colons_are_not_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [("owner/model:bomb:",)])
    assert "owner/model:bomb:" in capsys.readouterr().out
