"""`bench` keeps what it measures; `measurements` shows, exports and imports it; `calibrate` fits the planner to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake import FakeRun
from tests.support.leavings import checked, checkpoint
from tests.unit.cli.conftest import Shell

RECIPE = "measured"
TEXT = """\
schema_version: 1
name: measured
description: A small model that is measured.
model:
  generate: {hidden_size: 1024, num_attention_heads: 8, intermediate_size: 4096, num_hidden_layers: 16}
target: dgx-spark
image: tensorrt-llm-1.2.1
quantization: {format: bf16, method: none}
benchmark: {input_tokens: 16, output_tokens: 16, concurrency: [1, 2, 4]}
serve: {max_seq_len: 2048}
"""
SPEEDS = {1: 100.0, 2: 190.0, 4: 350.0, 8: 600.0}


class Server:
    """Stands in for the benchmark in its container, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.speeds = dict(SPEEDS)

    def __call__(self, run: FakeRun) -> None:
        self.asked.append(run.argv)
        provenance = json.loads(run.environment["ORCHESTRATOR_PROVENANCE"])
        users = [int(run.argv[at + 1]) for at, word in enumerate(run.argv) if word == "--concurrency"]
        facts = dict(run.argv[at + 1].split("=", 1) for at, word in enumerate(run.argv) if word == "--fact")
        levels = [self.level(each) for each in users]
        document: dict[str, Any] = {"schema_version": 1, "tool": {"name": "trtllm-bench", "version": "1.2.1"}}
        document |= {"facts": facts, "provenance": provenance, "levels": levels}
        document["dataset"] = {name: int(self.option(run, name)) for name in ("input-tokens", "output-tokens")}
        document["dataset"] = {name.replace("-", "_"): value for name, value in document["dataset"].items()}
        (run.output / "performance.json").write_text(json.dumps(document))
        (run.output / "report-1.json").write_text("{}")

    def level(self, users: int) -> dict[str, Any]:
        interval = {"confidence": 0.95, "relative_half_width": 0.012, "reached": True, "runs": [self.speeds[users]] * 3}
        figures = {"output_tokens_per_second": self.speeds[users], "time_to_first_token_ms": {"average": 12.5}}
        return {"concurrency": users, **figures, "interval": interval, "command": ["trtllm-bench"], "report": "r"}

    @staticmethod
    def option(run: FakeRun, name: str) -> str:
        return run.argv[run.argv.index(f"--{name}") + 1]


@pytest.fixture
def server(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Server:
    shell.write_recipe(RECIPE, TEXT)
    found = Server()
    shell.executor.commands = {"generate": checkpoint, "verify": checked, "benchmark": found}
    monkeypatch.setattr("orchestrator.app.building._docker", lambda: shell.executor)
    monkeypatch.setattr("orchestrator.app.measuring.image_digest", lambda _: "sha256:abc")
    return found


def rows_of(shell: Shell) -> list[dict[str, Any]]:
    file = shell.project / "measurements" / f"{RECIPE}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_row_has_all_that_decided_it(shell: Shell, server: Server) -> None:
    workload = ("--input-tokens", "512", "--output-tokens", "64", "--concurrency", "8")
    found = shell.json("bench", RECIPE, *workload, "--precision", "0.02")
    assert rows_of(shell) == [found]
    assert found["recipe"]["serve"]["workload"] == {"input_tokens": 512, "output_tokens": 64, "concurrency": 8}
    assert found["recipe"]["benchmark"]["precision"] == 0.02
    assert found["dataset"] == {"input_tokens": 512, "output_tokens": 64}
    assert found["facts"]["sm"] == "121"
    assert found["image_digest"] == "sha256:abc"
    assert found["provenance"]["inputs"]["generate"]
    (level,) = found["levels"]
    assert level["predicted"]["low"] < level["predicted"]["expected"] < level["predicted"]["high"]
    asked = server.asked[0]
    assert asked[asked.index("--precision") + 1] == "0.02"
    assert asked[asked.index("--requests") + 1] == "32"  # four of each user


def test_a_result_that_is_reused_is_no_second_row(shell: Shell, server: Server) -> None:
    shell.json("bench", RECIPE)
    shell.json("bench", RECIPE)
    assert (len(server.asked), len(rows_of(shell))) == (1, 1)
    server.speeds = {users: 1.1 * speed for users, speed in SPEEDS.items()}
    shell.json("bench", RECIPE, "--again")
    assert [row["levels"][0]["output_tokens_per_second"] for row in rows_of(shell)] == [100.0, pytest.approx(110.0)]


@pytest.mark.usefixtures("server")
def test_the_table_shows_the_interval_and_the_prediction(shell: Shell) -> None:
    assert shell("bench", RECIPE) == 0
    assert "1.2%" in shell.out
    assert "12.5 ms" in shell.out
    assert shell("measurements") == 0
    assert RECIPE in shell.out
    assert "dgx-spark" in shell.out
    page = shell.folder / "page.html"
    assert shell("plan", RECIPE, "--html", str(page)) == 0
    assert "<h2>Predicted and measured</h2>" in page.read_text()
    assert page.read_text().count(">1.2%<") == 3


@pytest.mark.usefixtures("server")
def test_rows_are_exchanged_once(shell: Shell, tmp_path: Path) -> None:
    shell.json("bench", RECIPE)
    file = tmp_path / "rows.jsonl"
    assert shell("measurements", "--export", str(file)) == 0
    (shell.project / "measurements" / f"{RECIPE}.jsonl").unlink()
    assert shell("measurements", "--import", str(file)) == 0
    assert "1 of 1 rows added" in shell.err
    assert shell("measurements", "--import", str(file)) == 0
    assert "0 of 1 rows added" in shell.err
    assert len(rows_of(shell)) == 1


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"levels": []}, "levels"),
        ({"levels": [{"concurrency": 1, "output_tokens_per_second": -1}]}, "greater than 0"),
        ({"date": "yesterday"}, "date"),
        ({"recipe": {"name": "../../elsewhere", "target": "x"}}, "recipe.name"),
    ],
)
def test_a_file_with_a_wrong_row_adds_nothing(shell: Shell, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = shell.json("bench", RECIPE)
    other = {**good, "provenance": {"key": "another"}}
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(other)}\n{json.dumps({**good, **change})}\n")
    error = shell.error("measurements", "--import", str(file))
    assert error["code"] == "MEASUREMENT_UNUSABLE"
    assert f"{file}:2" in error["message"]
    assert said in error["message"]
    assert len(rows_of(shell)) == 1


@pytest.mark.usefixtures("server")
def test_calibrate_needs_no_store_for_rows(shell: Shell) -> None:
    shell.json("bench", RECIPE)
    row = rows_of(shell)[0]
    again = shell.json("calibrate")
    fit = again["runtimes"]["trtllm"]
    assert (fit["runs"], fit["levels"]) == (1, 3)  # the row and the store's benchmark are the same
    shell.store.rename(shell.folder / "gone")
    assert shell.json("calibrate")["runtimes"] == again["runtimes"]
    row["recipe"]["serve"] = {"speculative": {"type": "mtp"}}
    (shell.project / "measurements" / f"{RECIPE}.jsonl").write_text(json.dumps(row) + "\n")
    assert "measured with drafts" in shell.error("calibrate")["message"]


def test_a_recipe_without_a_benchmark_is_named(shell: Shell, server: Server) -> None:
    shell.write_recipe(RECIPE, TEXT.replace("benchmark: {", "benchmark: null #"))
    assert shell.error("bench", RECIPE, "--concurrency", "2")["code"] == "STEP_UNKNOWN"
    assert not server.asked
