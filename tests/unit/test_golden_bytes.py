"""The rules of the golden bytes: what is a fault, and when the file may be written again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import golden_bytes
from tests.support.golden_bytes import UPDATE, Found, Golden, faults, updated
from tests.support.payload_bytes import digest_of, tokens

FOUND = Found({"a": "1", "b": "2"}, {"c": {"x.input_scale": 1.0, "error": 1.0}}, {"loops": "3"})
GOLDEN = Golden(4, FOUND)


def changed(**fields: dict[str, object]) -> Found:
    return Found(**{**vars(FOUND), **fields})


@pytest.mark.parametrize(
    "found",
    [
        FOUND,
        Found({"b": "2"}),
        Found(),
        changed(near={"c": {"x.input_scale": 1.01, "error": 1.09}}),
    ],
    ids=["the same", "some cases", "none", "other last places"],
)
def test_the_bytes_that_are_written_down_are_no_fault(found: Found) -> None:
    assert faults("quantize", 4, GOLDEN, found) == []
    assert updated("quantize", 4, GOLDEN, found, proved=False) == GOLDEN


@pytest.mark.parametrize(
    ("found", "case"),
    [
        (changed(digests={"a": "1", "b": "9"}), "b"),
        (changed(near={"c": {"x.input_scale": 1.03, "error": 1.0}}), r"c \(numbers\)"),
        (changed(near={"c": {"x.input_scale": 1.0, "error": 1.2}}), r"c \(numbers\)"),
        (changed(near={"c": {"x.input_scale": 1.0}}), r"c \(numbers\)"),
    ],
    ids=["a digest", "a scale", "an error", "a number is missing"],
)
def test_other_bytes_at_the_same_revision_are_a_fault_and_cannot_be_written_down(found: Found, case: str) -> None:
    (said,) = faults("quantize", 4, GOLDEN, found)
    assert "orchestrator/payloads/revisions.py" in said
    assert UPDATE in said
    with pytest.raises(ValueError, match=f"other bytes at the same revision, 4: {case}. Where that is meant"):
        updated("quantize", 4, GOLDEN, found, proved=True)


def test_a_new_revision_without_new_golden_bytes_is_a_fault() -> None:
    (said,) = faults("quantize", 5, GOLDEN, FOUND)
    assert said == f"quantize: its revision is 5, and the golden bytes are those of revision 4; run {UPDATE}"


def test_a_new_revision_may_be_written_down_with_other_bytes() -> None:
    found = changed(digests={"a": "8", "b": "9"})
    assert updated("quantize", 5, GOLDEN, found, proved=False) == Golden(5, found)
    assert faults("quantize", 5, Golden(5, found), found) == []


def test_a_new_revision_is_written_down_with_all_its_cases() -> None:
    with pytest.raises(ValueError, match="these did not run here: b, c, loops; they need torch"):
        updated("quantize", 5, GOLDEN, Found({"a": "8"}), proved=False)


def test_a_revision_never_goes_back() -> None:
    (said,) = faults("quantize", 3, GOLDEN, FOUND)
    assert "it never goes back" in said
    with pytest.raises(ValueError, match="it never goes back"):
        updated("quantize", 3, GOLDEN, FOUND, proved=True)


def test_a_payload_of_which_nothing_is_written_down_is_a_fault_until_it_is() -> None:
    assert faults("new", 1, None, FOUND) == [f"new: no bytes are written down; run {UPDATE}"]
    assert updated("new", 1, None, FOUND, proved=False) == Golden(1, FOUND)


def test_a_new_case_is_a_fault_until_it_is_written_down_at_the_same_revision() -> None:
    found = Found({"a": "1", "new": "5"}, {"newer": {"error": 1.0}})
    (said,) = faults("quantize", 4, GOLDEN, found)
    assert "no bytes are written down of: new, newer" in said
    written = updated("quantize", 4, GOLDEN, found, proved=False)
    assert written.found.digests == {"a": "1", "b": "2", "new": "5"}
    assert written.found.near == {**FOUND.near, **found.near}
    assert written.found.sources == FOUND.sources
    assert faults("quantize", 4, written, found) == []


def test_other_code_for_gpus_takes_a_proof_on_a_gpu_or_a_new_revision() -> None:
    found = changed(sources={"loops": "9"})
    (said,) = faults("quantize", 4, GOLDEN, found)
    assert "loops changed, and cannot run here" in said
    assert "python -m tests.support.encoders cuda" in said
    with pytest.raises(ValueError, match="loops changed"):
        updated("quantize", 4, GOLDEN, found, proved=False)
    assert updated("quantize", 4, GOLDEN, found, proved=True) == Golden(4, found)
    assert updated("quantize", 5, GOLDEN, found, proved=False) == Golden(5, found)


def test_backends_that_write_different_bytes_are_named() -> None:
    with pytest.raises(ValueError, match="two backends write different bytes: b"):
        FOUND.and_then(Found({"a": "1", "b": "9"}))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    goldens = {"quantize": GOLDEN, "verify": Golden(1, Found({"passed": "7"}))}
    golden_bytes.write(goldens, tmp_path / "golden.json")
    assert golden_bytes.read(tmp_path / "golden.json") == goldens
    assert golden_bytes.read(tmp_path / "no such file") == {}


SOURCE = """\
// what it does
#define MOST(a, b) \\
  ((a) > (b) ? (a) : (b))
static int f(int a) { return a+++1; /* why
not */ }
"""


def test_comments_and_layout_are_no_tokens() -> None:
    other = "#define   MOST(a, b) ((a) > (b) ? (a) : (b))\nstatic int f( int a )\n{\n\treturn a ++ + 1;\n}"
    assert tokens(SOURCE) == tokens(other)


@pytest.mark.parametrize(
    ("before", "after"),
    [(">", ">="), ("1;", "1.5f;"), ("a+++1", "a+ ++1"), ("static int", "staticint"), ("#define MOST", "#define LEAST")],
)
def test_other_tokens_are_another_source(before: str, after: str) -> None:
    assert tokens(SOURCE.replace(before, after, 1)) != tokens(SOURCE)


def test_a_digest_holds_names_and_contents_of_files_and_not_their_place(tmp_path: Path) -> None:
    digests = set()
    for name, text in (("a", "1"), ("a", "2"), ("b", "1")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(f"{text} {folder}")
        digests.add(digest_of(folder, folder))
    assert len(digests) == 3
    moved = (tmp_path / "a1").rename(tmp_path / "moved")
    (moved / "a").write_text(f"1 {moved}")
    assert digest_of(moved, moved) in digests
