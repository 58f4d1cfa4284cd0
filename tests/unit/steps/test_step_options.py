from __future__ import annotations

import pytest

from orchestrator.catalog.load import Option
from orchestrator.errors import RecipeInvalidError
from orchestrator.executors.job import OUTPUT, Argument, Inside
from orchestrator.recipe.model import OptionValue
from orchestrator.steps.options import OptionTable, mismatch

OPTIONS = (
    Option(flags=("--max_seq_len", "--max_decoder_seq_len"), type="int"),
    Option(flags=("--rate",), type="float"),
    Option(flags=("--plugin",), type="str", choices=("auto", "disable")),
    Option(flags=("--strip_plan",), type="flag"),
    Option(flags=("--verbose", "--no-verbose"), type="flag"),
    Option(flags=("--output_dir",), type="str"),
)
KNOWN = {flag: option for option in OPTIONS for flag in option.flags}
OWN: dict[str, Argument] = {"output_dir": Inside(OUTPUT)}


def rendered(given: dict[str, OptionValue], defaults: dict[str, OptionValue] | None = None) -> tuple[Argument, ...]:
    return OptionTable("example: engine.build", given, KNOWN).merged(OWN, defaults)[2:]


def test_a_number_is_a_value() -> None:
    assert rendered({"max_seq_len": 8, "rate": 0.5}) == ("--max_seq_len", "8", "--rate", "0.5")


def test_a_flag_that_is_on_has_no_value() -> None:
    assert rendered({"strip_plan": True}) == ("--strip_plan",)


def test_a_flag_that_is_off_is_left_out() -> None:
    assert rendered({"strip_plan": False}) == ()


def test_a_flag_that_is_off_is_negated_where_the_tool_can() -> None:
    assert rendered({"verbose": False}) == ("--no-verbose",)


def test_the_recipe_replaces_a_default() -> None:
    assert rendered({"max_seq_len": 8}, {"max_seq_len": 4, "rate": 1.0}) == ("--rate", "1.0", "--max_seq_len", "8")


def test_the_recipe_replaces_a_default_by_another_spelling() -> None:
    assert rendered({"max_decoder_seq_len": 8}, {"max_seq_len": 4}) == ("--max_decoder_seq_len", "8")


def test_an_unknown_option_is_refused_with_the_likely_one() -> None:
    with pytest.raises(RecipeInvalidError, match=r"example: engine\.build\.max_seq_length") as caught:
        rendered({"max_seq_length": 8})
    assert "max_seq_len" in caught.value.hint


def test_an_option_that_the_step_decides_is_refused() -> None:
    with pytest.raises(RecipeInvalidError, match="--output_dir is decided by the step"):
        rendered({"output_dir": "/elsewhere"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_seq_len", "many"), ("max_seq_len", 1.5), ("max_seq_len", True), ("rate", "fast"),
        ("plugin", "fp64"), ("plugin", True), ("strip_plan", "yes"), ("output", "x"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(name: str, value: OptionValue) -> None:
    with pytest.raises(RecipeInvalidError):
        rendered({name: value})


def test_a_whole_number_is_a_number() -> None:
    assert mismatch(KNOWN["--rate"], 1) is None
