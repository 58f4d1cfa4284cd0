from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.workload_options import AskedWorkload
from orchestrator.planner.queueing import Targets
from tests.unit.cli.conftest import Shell

RECIPE = "llama3-70b-nvfp4"


def test_a_plan_says_what_the_asked_users_see(shell: Shell) -> None:
    found = shell.json("plan", RECIPE, "--concurrency", "4", "--input-tokens", "1000", "--output-tokens", "200")
    assert isinstance(found, dict)
    assert found["users"]["concurrency"] == 4
    assert found["users_within_targets"] is None
    assert [one["concurrency"] for one in found["sweep"]] == [1, 2, 4, 8]  # as many as the server takes
    assert found["estimate"]["decode"]["conditions"].startswith("1 user, 1,000 tokens in and 200 out")


def test_a_recipe_s_own_workload_counts_and_the_command_line_replaces_it(shell: Shell) -> None:
    own = ("--set", "serve.workload={concurrency: 3, output_tokens: 100}")
    recipe, replaced, rate = (
        shell.json("plan", RECIPE, *own, *more) for more in ((), ("--concurrency", "2"), ("--rate", "0.01"))
    )
    assert isinstance(recipe, dict)
    assert recipe["users"]["concurrency"] == 3
    assert isinstance(replaced, dict)
    assert replaced["users"]["concurrency"] == 2
    assert isinstance(rate, dict)
    assert rate["users"]["requests_per_s"] >= 0.01


def test_a_request_longer_than_the_server_takes_is_named(shell: Shell) -> None:
    assert shell("plan", RECIPE, "--input-tokens", "200000") == 0
    assert "and the server takes 131,072 at most" in shell.out


def test_a_rate_that_is_too_high_is_named(shell: Shell) -> None:
    assert shell("plan", RECIPE, "--rate", "5") == 0
    assert "5 requests/s arrive, and it serves " in shell.out


def test_targets_count_the_users_in_time(shell: Shell) -> None:
    assert shell("plan", RECIPE, "--ttft", "5s", "--tpot", "400ms") == 0
    assert "the first token within 5 s and each further token within 400 ms for 95 of 100 requests: " in shell.out
    assert shell("plan", RECIPE, "--ttft", "1ms") == 0
    assert "not even one user" in shell.out


def test_the_sweep_has_a_table_and_a_picture_with_its_knee(shell: Shell, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    assert shell("plan", RECIPE, "-v", "--html", str(page)) == 0
    assert "* the knee: from here on more users cost more time than they bring tokens" in shell.out
    text = page.read_text(encoding="utf-8")
    assert "Throughput against latency, by the number of users" in text
    assert "the knee: " in text


def test_a_rate_clears_the_users_of_a_recipe() -> None:
    asked = AskedWorkload(None, None, None, 2.5, Targets(), None)
    assert asked.overrides == ("serve.workload.concurrency=null", "serve.workload.rate=2.5")


@pytest.mark.parametrize("command", [("plan", RECIPE), ("compare", "llama3-70b"), ("estimate",)])
@pytest.mark.parametrize(("former", "instead"), [("--batch", "--concurrency"), ("--context", "--input-tokens")])
def test_a_former_option_is_answered_with_what_replaces_it(
    shell: Shell, command: tuple[str, ...], former: str, instead: str
) -> None:
    assert shell(*command, former, "4") == 2
    assert f"there is no option {former} any more: write {instead}" in shell.err
