"""How much memory a TensorRT engine takes to build: a range, because one log is all that is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import Refusal
from orchestrator.planner.phases import building, peak_words
from orchestrator.planner.verdict import ENGINE_MEMORY, verdict_of

SPARK = Catalog(Project(Path(__file__).resolve().parents[3])).target("dgx-spark")


def test_the_measured_model_needs_what_was_measured() -> None:
    peak = building(5.7e9, SPARK)
    assert peak.total == pytest.approx(17.8e9)
    assert peak.least == pytest.approx(17.8e9)


@pytest.mark.parametrize(("weights", "least", "most"), [
    (1e9, 3.1e9, 8.4e9),  # a small model may take the constant part as well
    (42.7e9, 91.8e9, 133.3e9),
    (60e9, 126.4e9, 187.4e9),
])  # fmt: skip
def test_another_model_has_a_range(weights: float, least: float, most: float) -> None:
    peak = building(weights, SPARK)
    assert peak.least == pytest.approx(least, rel=0.01)
    assert peak.total == pytest.approx(most, rel=0.01)


def test_a_range_fits_may_fit_or_does_not_fit() -> None:
    found = [building(weights, SPARK) for weights in (20e9, 42.71e9, 60e9)]
    assert [(peak.fits, peak.may_fit) for peak in found] == [(True, True), (False, True), (False, False)]
    assert peak_words(found[1]) == "91.8-133.4 GB"


@pytest.mark.parametrize(("refusals", "warnings", "verdict"), [
    ((), (), "fits"),
    ((), ("LOAD_MEMORY",), "fits, with these limits"),
    ((), ("LOAD_MEMORY", ENGINE_MEMORY), "may not fit"),
    (("DOES_NOT_FIT",), (ENGINE_MEMORY,), "does not fit"),
    (("DOES_NOT_FIT", "MODEL_UNSUPPORTED"), (), "not supported"),
])  # fmt: skip
def test_the_verdict_follows_the_worst(refusals: tuple[str, ...], warnings: tuple[str, ...], verdict: str) -> None:
    def made(codes: tuple[str, ...]) -> tuple[Refusal, ...]:
        return tuple(Refusal(code, "found", "do") for code in codes)

    assert verdict_of(made(refusals), made(warnings)) == verdict
