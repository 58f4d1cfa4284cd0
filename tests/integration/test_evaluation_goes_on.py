"""Does a comparison that was killed go on, with the bytes of one that was not; and in how much memory?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.payloads import generate
from orchestrator.quantization.onepass import quantize_checkpoint
from tests.support.killed import KILLS, contents, kill_ten_times
from tests.support.oracle import Environment, find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

_LAYERS = 8


@dataclass(frozen=True)
class Pair:
    """A model and what it became."""

    environment: Environment
    model: Path
    quantized: Path


@dataclass(frozen=True)
class Compared:
    """What was found in every way of comparing them."""

    layers: dict[str, int]
    """How many were compared."""
    digests: dict[str, str]
    told: str
    """What is said of a budget that is too small."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    sizes = ("--hidden-size", "64", "--layers", f"{_LAYERS}", "--vocab-size", "300")
    generate.main(["--output", str(folder / "model"), *sizes])
    quantize_checkpoint(folder / "model", folder / "quantized")
    return Pair(find_environment(), folder / "model", folder / "quantized")


@pytest.fixture(scope="module")
def compared(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    script, folder = Path(__file__).with_name("compare_again.py"), tmp_path_factory.mktemp("again")
    printed = pair.environment.run(script, pair.model, pair.quantized, folder)
    result = json.loads(printed.rpartition("RESULT ")[2])
    layers = {case: count for case, (count, _) in result["found"].items()}
    return Compared(layers, {case: digest for case, (_, digest) in result["found"].items()}, result["told"])


def test_ten_random_kills_change_no_byte_of_a_comparison(pair: Pair, tmp_path: Path) -> None:
    options = ["--reference", str(pair.model), "--checkpoint", str(pair.quantized), "--device", "cpu"]
    options += ["--samples", "6", "--sequence-length", "32"]
    found = kill_ten_times("evaluate", tmp_path, options, pair.environment)
    assert len(found.done) == KILLS, found.asked
    assert any(found.done), found.asked  # some came to notes
    assert found.differing == [], found.asked
    assert contents(found.results[0]).keys() == {"evaluation.json"}


@pytest.mark.parametrize("way", ["in a file", "more threads"])
def test_what_the_walk_may_use_changes_no_digit(compared: Compared, way: str) -> None:
    assert compared.digests[way] == compared.digests["undisturbed"]
    assert compared.layers[way] == compared.layers["undisturbed"] == _LAYERS


@pytest.mark.parametrize(("state", "left"), [("whole", _LAYERS - 6), ("finished before", 0)])
def test_the_walk_goes_on_at_the_layer_after_the_last_that_was_noted(compared: Compared, state: str, left: int) -> None:
    assert compared.digests[state] == compared.digests["undisturbed"]
    assert compared.layers[state] == left


@pytest.mark.parametrize("damage", ["a number", "what flows", "cut"])
def test_a_state_that_is_not_whole_is_noticed_and_found_again(compared: Compared, damage: str) -> None:
    assert compared.digests[damage] == compared.digests["undisturbed"]
    assert compared.layers[damage] == _LAYERS


def test_too_little_memory_is_refused_with_what_it_would_take(compared: Compared) -> None:
    assert "quantization.resources.memory: the comparison needs 0." in compared.told
    assert "found 0.01 GB" in compared.told
    assert "lower checks.held_out.batch_size or sequence_length" in compared.told
