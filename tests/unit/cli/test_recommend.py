from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cli.conftest import Shell


def answer(shell: Shell, *options: str) -> dict[str, Any]:
    found = shell.json("recommend", *options)
    assert isinstance(found, dict)
    return found


def test_four_people_who_code_get_a_model_for_it_within_a_second(shell: Shell) -> None:
    found = answer(shell, "--for", "coding", "--users", "4", "--ttft", "1s")
    assert found["workload"]["concurrency"] == 4
    best = found["recipes"][0]
    assert "coder" in best["name"]
    for recipe in found["recipes"]:
        assert recipe["users"]["first_token_s"]["p95"] <= 1
        assert recipe["users"]["time_per_token_s"]["p95"] <= 0.1
        assert recipe["users_within_targets"] >= 4


def test_every_recipe_of_a_model_is_recommended_or_has_lost_for_one_reason(shell: Shell) -> None:
    found = answer(shell, "--users", "2")
    lost = [name.partition(" (")[0] for names in found["lost"].values() for name in names]
    named = [recipe["name"] for recipe in found["recipes"]] + lost
    listed = shell.json("recipes")
    assert isinstance(listed, list)
    assert sorted(named) == sorted(one["name"] for one in listed if not one["name"].startswith("tiny-llama"))


def test_recipes_that_fit_are_those_that_no_recommendation_refuses(shell: Shell) -> None:
    found = answer(shell)
    refused = {
        name.partition(" (")[0] for why, names in found["lost"].items() if why in ("refused", "does not fit")
        for name in names
    }  # fmt: skip
    fits = {one["name"] for one in shell.json("recipes", "--fits", "--target", "dgx-spark")}
    assert not fits & refused


def test_quality_is_published_normal_or_not_known(shell: Shell) -> None:
    found = {recipe["name"]: recipe for recipe in answer(shell, "--ttft", "60s", "--tpot", "10s")["recipes"]}
    assert found["gpt-oss-120b-mxfp4"]["quality"] == "not known"
    assert "nats" in found["qwen3.6-27b-fp8"]["quality"]
    coding = answer(shell, "--for", "coding", "--users", "4", "--ttft", "1s")["recipes"]
    published = next(recipe for recipe in coding if recipe["quality_source"])
    assert published["quality_source"].startswith("https://")


def test_it_is_one_screen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert shell("recommend", "--for", "coding", "--users", "4", "--ttft", "1s") == 0
    lines = shell.out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines[:-1])) <= 100  # the last one is a line to paste, which is never broken
    assert "the first token comes too late" in shell.out
    assert lines[-1].startswith("next: ")


def test_what_nothing_can_do_is_said(shell: Shell) -> None:
    assert shell("recommend", "--ttft", "1ms") == 0
    assert "no recipe does this" in shell.out


def test_an_unknown_target_and_a_wrong_time_are_errors(shell: Shell) -> None:
    assert shell.error("recommend", "--target", "toaster")["code"] == "TARGET_UNKNOWN"
    assert shell("recommend", "--ttft", "soon") == 2
    assert "write it as `1s` or `200ms`" in shell.err
