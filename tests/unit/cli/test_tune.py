"""`tune` on a simulated server: the runs, the ledger, the crashes, the patch, and the server that runs already."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app.tuning import crash_of
from orchestrator.errors import (
    CheckFailedError,
    DiskFullError,
    HostMemoryError,
    OrchestratorError,
    QualityTooLowError,
    StepFailedError,
    StepKilledError,
    StepOutOfMemoryError,
    StepTimeLimitError,
)
from tests.support.fake import FakeRun
from tests.support.leavings import checked, checkpoint
from tests.unit.cli.conftest import Shell

RECIPE = "tuned"
TEXT = """\
# Measured by hand.
schema_version: 1
name: tuned
description: A small model whose server is simulated.
model:
  generate: {hidden_size: 1024, num_attention_heads: 8, intermediate_size: 4096, num_hidden_layers: 16}
target: dgx-spark
image: tensorrt-llm-1.2.1
quantization: {format: bf16, method: none}
serve:
  max_seq_len: 2048
  max_batch_size: 2 # as it was
  kv_cache: {free_gpu_memory_fraction: 0.8}
"""
USERS = ("--input-tokens", "1024", "--output-tokens", "128", "--concurrency", "16")


class Simulated:
    """A server whose best options are not those of the plan's formulas."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.noise = random.Random(7)  # noqa: S311 - repeatable
        self.crashes: Callable[[dict[str, Any]], str | None] = lambda _: None
        self.interrupt_at = 0

    @staticmethod
    def speed(options: dict[str, Any]) -> float:
        batch = -0.2 * abs(math.log2(options["batch"] / 8))
        tokens = -0.1 * abs(math.log2(options["tokens"] / 4096))
        return 400 * math.exp(batch + tokens - abs(options["memory"] - 0.7) + 0.15 * (options["kernel"] is not None))

    def __call__(self, run: FakeRun) -> int | None:
        options = self.options(run)
        self.asked.append(options)
        if len(self.asked) == self.interrupt_at:
            raise KeyboardInterrupt
        crash = self.crashes(options)
        if crash:
            run.write(f"{crash}\n".encode())
            return 1
        found = self.speed(options) * (1 + self.noise.gauss(0, 0.03))
        levels = [{"concurrency": 16, "output_tokens_per_second": found, "command": ["trtllm-bench"], "report": "r"}]
        document: dict[str, Any] = {"schema_version": 1, "tool": {"name": "trtllm-bench", "version": "1.2.1"}}
        document |= {"facts": {}, "provenance": {}, "levels": levels}
        document |= {"dataset": {"input_tokens": 1024, "output_tokens": 128}}
        (run.output / "performance.json").write_text(json.dumps(document))
        (run.output / "report-16.json").write_text("{}")
        return None

    @staticmethod
    def options(run: FakeRun) -> dict[str, Any]:
        """Read what a server would."""
        argv = run.argv
        config = (Path(run.job.output).parent / "files" / "llm_api.yaml").read_text()
        value = {name: argv[argv.index(f"--{name}") + 1] for name in ("max_batch_size", "max_num_tokens")}
        memory = argv[argv.index("--kv_cache_free_gpu_mem_fraction") + 1]
        kernel = next((line.split(": ")[1] for line in config.splitlines() if "attn_backend" in line), None)
        return {
            "batch": int(value["max_batch_size"]),
            "tokens": int(value["max_num_tokens"]),
            "memory": float(memory),
            "kernel": kernel,
        }


@pytest.fixture
def server(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    shell.write_recipe(RECIPE, TEXT)
    found = Simulated()
    shell.executor.commands = {"generate": checkpoint, "verify": checked, "benchmark": found}
    monkeypatch.setattr("orchestrator.app.building._docker", lambda: shell.executor)
    monkeypatch.setattr("orchestrator.app.measuring.image_digest", lambda _: None)
    return found


def recipe_of(shell: Shell) -> Path:
    return shell.project / "recipes" / f"{RECIPE}.yaml"


def best_of(server: Simulated) -> float:
    kernels, memories = (None, "FLASHINFER"), (0.7, 0.8, 0.9)
    all_options = [
        {"batch": batch, "tokens": tokens, "memory": memory, "kernel": kernel}
        for batch in (2, 4, 8, 16)
        for tokens in (2048, 4096, 8192, 16384)
        for memory in memories
        for kernel in kernels
    ]
    return max(server.speed(one) for one in all_options if not server.crashes(one))


def test_the_best_is_found_and_written_and_taken_back(shell: Shell, server: Simulated) -> None:
    server.crashes = lambda options: (
        "torch.OutOfMemoryError: CUDA out of memory" if options["batch"] * options["memory"] > 14 else None
    )
    found = shell.json("tune", RECIPE, *USERS, "--apply")
    assert len(server.asked) <= 12
    assert found["runs"][0]["values"] == {}
    chosen = {"batch": 2, "tokens": 8192, "memory": 0.8, "kernel": None} | {
        {"max_batch_size": "batch", "max_num_tokens": "tokens", "free_gpu_memory_fraction": "memory"}.get(
            name.rpartition(".")[2], "kernel"
        ): value
        for name, value in found["patch"].items()
    }
    assert server.speed(chosen) >= 0.95 * best_of(server)
    text = recipe_of(shell).read_text()
    assert "# Measured by hand." in text
    assert "# as it was" in text
    changed = shell.json("show", RECIPE)
    assert changed["recipe"]["serve"]["max_batch_size"] == chosen["batch"]
    assert shell("tune", RECIPE, "--undo") == 0
    assert recipe_of(shell).read_text() == TEXT


def test_a_changed_recipe_is_not_overwritten_by_undo(shell: Shell, server: Simulated) -> None:
    assert shell.json("tune", RECIPE, *USERS, "--apply", "--runs", "5")["patch"]
    recipe_of(shell).write_text(recipe_of(shell).read_text() + "# mine\n")
    assert shell.error("tune", RECIPE, "--undo")["code"] == "RECIPE_CHANGED"
    assert recipe_of(shell).read_text().endswith("# mine\n")
    assert server.asked


def test_nothing_runs_in_a_dry_run(shell: Shell, server: Simulated) -> None:
    found = shell.json("tune", RECIPE, *USERS, "--dry-run")
    assert len(found["runs"]) == 12
    assert found["runs"][0]["values"] == {}
    assert 0 < found["seconds_of_each"]["least"] < found["seconds_of_each"]["most"]
    assert not server.asked
    assert not (shell.project / "measurements").exists()


def test_an_interrupted_tuning_continues_and_repeats_nothing(shell: Shell, server: Simulated) -> None:
    server.interrupt_at = 4
    assert shell("tune", RECIPE, *USERS) == 130
    assert len(server.asked) == 4
    six = (*USERS, "--runs", "6")
    found = shell.json("tune", RECIPE, *six)
    assert len(found["runs"]) == len(server.asked) - 1 == 6
    assert server.asked[4] == server.asked[3]  # the one that was interrupted
    ran = [json.dumps(run["values"], sort_keys=True) for run in found["runs"]]
    assert len(ran) == len(set(ran))
    before = len(server.asked)
    assert shell.json("tune", RECIPE, *six)["runs"] == found["runs"]
    assert len(server.asked) == before


def test_a_machine_that_went_down_counts_as_a_crash(shell: Shell, server: Simulated) -> None:
    server.interrupt_at = 3
    shell("tune", RECIPE, *USERS)
    (file,) = (shell.project / "measurements" / "tuning").glob("*.json")
    ledger = json.loads(file.read_bytes())
    ledger["running"] = {"values": {"serve.max_batch_size": 16}, "owner": "another-boot@host:1:1"}
    file.write_text(json.dumps(ledger))
    found = shell.json("tune", RECIPE, *USERS, "--runs", "4")
    assert found["runs"][2]["crash"] == "hang"
    assert "went down" in found["runs"][2]["message"]
    ran = [run["values"] for run in found["runs"]]
    assert ran.count({"serve.max_batch_size": 16}) == 1


def test_another_recipe_text_begins_another_ledger(shell: Shell, server: Simulated) -> None:
    shell.json("tune", RECIPE, *USERS, "--runs", "2")
    shell.write_recipe(RECIPE, TEXT.replace("max_seq_len: 2048", "max_seq_len: 1536"))
    (file,) = (shell.project / "measurements" / "tuning").glob("*.json")
    before = file.read_bytes()
    shell.json("tune", RECIPE, *USERS, "--dry-run")
    assert file.read_bytes() == before
    assert len(shell.json("tune", RECIPE, *USERS, "--runs", "3")["runs"]) == 3
    assert len(server.asked) == 5
    assert len(list((shell.project / "measurements" / "tuning").glob("*.json"))) == 2


def test_a_refused_kernel_is_tried_once(shell: Shell, server: Simulated) -> None:
    server.crashes = lambda options: "error: invalid choice: attn_backend" if options["kernel"] else None
    found = shell.json("tune", RECIPE, *USERS, "--runs", "6")
    crashed = [run for run in found["runs"] if run["crash"]]
    assert [run["crash"] for run in crashed] == ["refused option"]
    assert all("attn_backend" not in name for name in found["patch"])


def test_what_is_not_faster_than_noise_is_no_patch(shell: Shell, server: Simulated) -> None:
    server.speed = lambda options: 100.0 * (options["batch"] > 0)  # type: ignore[method-assign]
    before = recipe_of(shell).read_text()
    server.noise = random.Random(1)  # noqa: S311 - repeatable
    found = shell.json("tune", RECIPE, *USERS, "--apply", "--runs", "3")
    assert found["gain"] < 0.03
    assert not found["patch"]
    assert recipe_of(shell).read_text() == before


def test_a_failed_gate_ends_the_tuning(shell: Shell, server: Simulated) -> None:
    def fails(run: FakeRun) -> int:
        run.write(
            b'@orchestrator {"event": "failure", "code": "QUALITY_TOO_LOW", "message": "too far off", "hint": ""}\n'
        )
        return 7

    shell.executor.commands = {**shell.executor.commands, "verify": fails}
    assert shell.error("tune", RECIPE, *USERS)["code"] == "QUALITY_TOO_LOW"
    assert not server.asked


class Docker:
    """A Docker with one deployed server."""

    def __init__(self) -> None:
        self.state, self.said = "running", list[str]()

    def close(self) -> None:
        pass


@pytest.fixture
def docker(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Docker:
    found = Docker()

    def change(state: str) -> Callable[[Docker, list[str]], None]:
        def changed(_: Docker, names: list[str]) -> None:
            if names:
                found.state = state
                found.said.append(f"{state} {' '.join(names)}")

        return changed

    monkeypatch.setattr("orchestrator.executors.docker_client.connect", lambda: found)
    place = "orchestrator.deployment.pausing"
    monkeypatch.setattr(f"{place}.running_servers", lambda one: ["other-server"] if one.state == "running" else [])
    monkeypatch.setattr(f"{place}.stop_servers", change("exited"))
    monkeypatch.setattr(f"{place}.start_again", change("running"))
    (shell.store / "deployed").mkdir(parents=True)
    (shell.store / "deployed" / "other").touch()
    return found


def test_a_server_that_runs_is_left_alone(shell: Shell, server: Simulated, docker: Docker) -> None:
    assert shell.error("tune", RECIPE, *USERS)["code"] == "SERVER_RUNS"
    assert not server.asked
    assert not docker.said


@pytest.mark.parametrize("interrupt_at", [0, 2])
def test_a_server_that_is_stopped_runs_again_afterwards(
    shell: Shell, server: Simulated, docker: Docker, interrupt_at: int
) -> None:
    server.interrupt_at = interrupt_at
    shell("tune", RECIPE, *USERS, "--stop-server", "--runs", "3")
    assert server.asked
    assert docker.said == ["exited other-server", "running other-server"]


def test_a_server_that_a_killed_tuning_stopped_is_started_by_the_next(
    shell: Shell, server: Simulated, docker: Docker
) -> None:
    shell("tune", RECIPE, *USERS, "--stop-server", "--runs", "2")
    docker.said.clear()
    docker.state = "exited"
    (file,) = (shell.project / "measurements" / "tuning").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "stopped": ["other-server"]}))
    assert shell("tune", RECIPE, *USERS, "--runs", "2") == 0
    assert docker.said == ["running other-server"]
    assert server.asked


@pytest.mark.parametrize(
    ("error", "crash"),
    [
        (StepOutOfMemoryError("killed for memory"), "out of memory"),
        (HostMemoryError("stopped before this machine froze"), "out of memory"),
        (StepFailedError("benchmark ended with 1\n  torch.OutOfMemoryError: CUDA out of memory"), "out of memory"),
        (
            CheckFailedError("verify: the server vllm: it ended\nValueError: No available memory for the cache blocks"),
            "out of memory",
        ),
        (CheckFailedError("verify: the server vllm: it ended\nerror: unrecognized arguments: --moe"), "refused option"),
        (StepFailedError("1 validation error\n pydantic: ValidationError"), "refused option"),
        (CheckFailedError("verify: the server vllm: it was not healthy after 1800 seconds"), "hang"),
        (StepTimeLimitError("benchmark was stopped after 5400 s"), "hang"),
        (CheckFailedError("verify: the server vllm: it ended with status -6\nSegmentation fault"), "died"),
        (StepFailedError("an illegal memory access was encountered"), "died"),
        (CheckFailedError("verify: 2 checks failed"), None),
        (QualityTooLowError("too far off"), None),
        (StepKilledError("ended from outside"), None),
        (DiskFullError("no space"), None),
    ],
)
def test_crashes_are_told_apart(error: OrchestratorError, crash: str | None) -> None:
    assert crash_of(error) == crash
