"""The table of families: shares, cells, and a file that is read as it was written."""

from __future__ import annotations

from pathlib import Path

from orchestrator.quantization.refused import REASONS
from tests.families.results import Outcome, Result, Results, cell, share

EQUAL = Result("one", "OneForCausalLM", formats={"nvfp4": Outcome(beside=("head.weight",))})
REFUSED = Result("two", "TwoForCausalLM", formats={"nvfp4": Outcome(refused="it has no layers")})
DIFFERENT = Result("three", "ThreeForCausalLM", formats={"nvfp4": Outcome(differ=("a.weight", "b.weight"))})
NOT_EXPORTED = Result("four", "FourForCausalLM", formats={"nvfp4": Outcome(not_exported="IndexError")})
NOT_MADE = Result("five", not_made="it needs images")


def test_a_share_counts_what_modelopt_exports() -> None:
    assert share([EQUAL, REFUSED, DIFFERENT, NOT_EXPORTED, NOT_MADE], "nvfp4") == (1, 3)


def test_a_run_repeats_what_is_not_equal() -> None:
    assert [row.is_equal for row in (EQUAL, REFUSED, DIFFERENT, NOT_EXPORTED, NOT_MADE)] == [
        *(True, False, False),
        *(True, False),
    ]


def test_cells_say_what_became_of_a_family() -> None:
    cells = [cell(row.formats["nvfp4"]) for row in (EQUAL, REFUSED, DIFFERENT, NOT_EXPORTED)]
    expected = ["equal ¹", "refused: it has no layers", "differs, such as `a.weight`", "ModelOpt does not export it"]
    assert cells == expected


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = Results({"torch": "2"}, (EQUAL, REFUSED, DIFFERENT, NOT_EXPORTED, NOT_MADE), "2026-11-28")
    (tmp_path / "results.json").write_text(written.document(), encoding="utf-8")
    assert Results.read(tmp_path / "results.json") == written


def test_a_class_is_refused_if_all_of_its_families_are() -> None:
    other = Result("six", "TwoForCausalLM", formats={"nvfp4": Outcome()})
    reasons = {"nvfp4": "it has no layers"}
    assert Results({}, (EQUAL, REFUSED)).refused == {"TwoForCausalLM": reasons, "two": reasons}
    assert Results({}, (EQUAL, REFUSED, other)).refused == {"two": reasons}


def test_a_plan_refuses_what_the_last_run_found_refused() -> None:
    assert dict(REASONS) == Results.read().refused
