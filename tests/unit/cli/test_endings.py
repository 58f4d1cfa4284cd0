"""How commands end: exit statuses, errors for people and programs, defects without secrets, on and off terminals."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from orchestrator.errors import DiskFullError, MachineError
from orchestrator.events import Failure, to_line
from tests.support.fake import FakeRun
from tests.support.leavings import COMMANDS, RECIPE
from tests.unit.cli.conftest import Shell

SECRET = "hf_canary_0123456789"
ESCAPE = "\x1b["


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["build"],
        ["build", "--dry-run"],
        ["build", RECIPE, "--all"],
        ["build", RECIPE, "--executor", "magic"],
        ["build", RECIPE, "--no-such-option"],
        ["recipes", "too", "much"],
        ["logs"],
    ],
)
def test_wrong_usage_ends_with_2(shell: Shell, arguments: list[str]) -> None:
    assert shell(*arguments) == 2
    assert "Traceback" not in shell.err


def test_a_misspelt_command_brings_the_likely_one(shell: Shell) -> None:
    assert shell("biuld") == 2
    assert "Did you mean `build`?" in shell.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["build", "no-such-recipe"], "RECIPE_UNKNOWN"),
        (["build", "../../etc/passwd"], "RECIPE_UNKNOWN"),
        (["show", "a\0b"], "RECIPE_UNKNOWN"),
        (["deploy", "../x"], "RECIPE_UNKNOWN"),
        (["logs", "../x"], "RECIPE_UNKNOWN"),
        (["status", "never-built"], "RECIPE_UNKNOWN"),
        (["build", RECIPE, "--set", "name=x"], "OVERRIDE_INVALID"),
        (["plan", RECIPE, "--set", "model={}"], "OVERRIDE_INVALID"),
        (["plan", RECIPE, "--set", "serve.options={}"], "OVERRIDE_INVALID"),
        (["plan", RECIPE, "--set", "benchmark={ }"], "OVERRIDE_INVALID"),
        (["build", RECIPE, "--set", "quantization.format=fp9"], "RECIPE_INVALID"),
        (["build", RECIPE, "--set", "target=moon"], "TARGET_UNKNOWN"),
        (["build", RECIPE, "--set", "image=nothing"], "IMAGE_UNKNOWN"),
        (["build", RECIPE, "--until", "engine"], "STEP_UNKNOWN"),
        (["bench", RECIPE], "STEP_UNKNOWN"),
        (["bundle", RECIPE], "NOT_BUILT"),
        (["deploy", RECIPE], "NOT_BUILT"),
    ],
)
def test_bad_input_ends_with_3_and_its_code(shell: Shell, arguments: list[str], code: str) -> None:
    assert shell(*arguments) == 3
    assert f"error[{code}]: " in shell.err
    assert "Traceback" not in shell.err
    assert shell.executor.steps == []


def test_a_refused_plan_ends_with_4_and_the_nearest_that_works(shell: Shell) -> None:
    for command in ("plan", "build"):
        assert shell(command, "deepseek-coder-v2-lite-bf16") == 4
        assert "error[MODEL_UNSUPPORTED]" in shell.err
        assert "  → " in shell.err


def test_a_failed_step_ends_with_5_and_its_log_is_kept(shell: Shell) -> None:
    shell.executor.fail("quantize")
    assert shell("build", RECIPE) == 5
    assert "error[STEP_FAILED]: quantize ended with exit status 1" in shell.err
    assert not shell.dist.exists()
    assert shell("logs", RECIPE) == 0
    assert shell.out == "at work: quantize\n"


@pytest.mark.parametrize("error", [DiskFullError("no room", hint="free some"), MachineError("no", hint="mend it")])
def test_a_machine_that_lacks_something_ends_with_6(shell: Shell, error: MachineError) -> None:
    shell.executor.lose_machine("quantize", error)
    assert shell("build", RECIPE) == 6
    assert f"error[{error.code}]" in shell.err


def test_a_check_that_fails_ends_with_7(shell: Shell) -> None:
    def check(run: FakeRun) -> int:
        run.write(to_line(Failure("CHECK_FAILED", "3 dB in the worst layer", "exclude it")).encode() + b"\n")
        return 7

    shell.executor.commands = {**COMMANDS, "verify": check}
    assert shell("verify", RECIPE) == 7
    assert "error[CHECK_FAILED]: verify: 3 dB in the worst layer\n  → exclude it" in shell.err


def test_a_corrupt_result_ends_a_deep_check_with_7_and_is_made_again(shell: Shell) -> None:
    shell("build", RECIPE)
    for file in (shell.store / "artifacts").glob("*/out/hf_quant_config.json"):
        status = file.stat()
        file.chmod(0o644)
        file.write_text("[]")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shell("build", RECIPE) == 0
    assert "set aside" in shell.err
    assert shell("verify", RECIPE, "--deep") == 0


def change_a_bit(file: Path) -> None:
    """Change one bit, and keep the file's size and times."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "hf_quant_config.json"])
@pytest.mark.parametrize(
    ("command", "status", "says"), [("build", 0, "set aside"), ("bundle", 3, "quantize, verify left to do")]
)
def test_a_changed_bit_is_found_and_not_shipped(shell: Shell, name: str, command: str, status: int, says: str) -> None:
    assert shell("build", RECIPE) == 0
    shipped = shell.dist / RECIPE / "model" / name
    before = shipped.read_bytes()
    change_a_bit(shipped)  # a link to the store's file
    assert shell(command, RECIPE) == status, shell.err
    assert says in shell.err
    assert status or shipped.read_bytes() == before


def test_an_interrupt_ends_with_130_and_says_that_nothing_is_lost(shell: Shell) -> None:
    shell.executor.interrupt("quantize")
    assert shell("build", RECIPE) == 130
    assert "finished steps are kept" in shell.err
    shell.executor.mend("quantize")
    assert shell("build", RECIPE) == 0
    assert "generate: reused" in shell.err


def test_a_termination_ends_with_143(shell: Shell) -> None:
    def terminated(_run: FakeRun) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    shell.executor.commands = {**COMMANDS, "quantize": terminated}
    assert shell("build", RECIPE) == 143
    assert "terminated" in shell.err


def test_an_error_is_one_json_object_where_a_program_reads(shell: Shell) -> None:
    error = shell.error("build", "no-such-recipe")
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == "RECIPE_UNKNOWN"
    assert shell.out == ""
    assert shell.error("build", "deepseek-coder-v2-lite-bf16")["code"] == "REFUSED"


def test_a_fault_in_a_recipe_names_file_line_and_key(shell: Shell) -> None:
    text = (shell.project / "recipes" / f"{RECIPE}.yaml").read_text()
    shell.write_recipe(RECIPE, text + "benchmrk: null\n")
    assert shell("build", RECIPE) == 3
    assert re.search(rf"{RECIPE}\.yaml:\d+:1: unknown key `benchmrk`; did you mean `benchmark`\?", shell.err)


def test_a_defect_ends_with_1_and_a_report_without_secrets(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)

    def broken(_run: FakeRun) -> None:
        message = f"header authorization: Bearer {SECRET}"
        raise RuntimeError(message)

    shell.executor.commands = {**COMMANDS, "quantize": broken}
    assert shell("build", RECIPE) == 1
    assert "error[DEFECT]: RuntimeError" in shell.err
    assert "Traceback" not in shell.err
    found = re.search(r"(/\S*orchestrator-defect-\S+\.log)", shell.err)
    assert found
    report = Path(found[1])
    text = report.read_text()
    report.unlink()
    assert "Traceback" in text
    assert f"build {RECIPE}" in text
    assert "huggingface_hub" in text
    assert SECRET not in text + shell.err + shell.out


def test_no_secret_is_written_anywhere(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    shell("build", RECIPE, "--verbose")
    shell("build", "llama3-8b-nvfp4", "--dry-run")
    assert SECRET not in shell.out + shell.err
    shell("build", "llama3-8b-nvfp4", "--dry-run", "--json")
    assert '"HF_TOKEN"' in shell.out
    assert SECRET not in shell.out
    for place in (shell.store, shell.dist):
        assert not [file for file in place.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_a_build_in_a_pipe_is_plain_lines(shell: Shell) -> None:
    shell("build", RECIPE)
    assert ESCAPE not in shell.out + shell.err
    assert "▸ quantize (fake)" in shell.err
    assert "✓ quantize: " in shell.err
    assert "at work" not in shell.err


def test_a_verbose_build_shows_what_the_steps_write(shell: Shell) -> None:
    shell("build", RECIPE, "-v")
    assert "at work: quantize" in shell.err


def test_a_build_on_a_terminal_shows_bars(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shell("build", RECIPE)
    assert ESCAPE in shell.err
    assert "✓ quantize: " in shell.err


def test_no_color_is_respected(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    shell("build", RECIPE)
    assert not re.search(r"\x1b\[(\d+;)*(3\d|9\d|38;5;\d+)m", shell.err + shell.out)


def test_what_a_step_writes_cannot_draw_on_the_terminal(shell: Shell) -> None:
    def drawing(run: FakeRun) -> None:
        run.write(b"[red]not markup[/red] [/] [bold\n")
        COMMANDS["quantize"](run)

    shell.executor.commands = {**COMMANDS, "quantize": drawing}
    assert shell("build", RECIPE, "-v") == 0
    assert "[red]not markup[/red] [/] [bold" in shell.err


def test_json_on_standard_output_is_one_document_whatever_is_shown(shell: Shell) -> None:
    shell("build", RECIPE, "--json", "-v")
    assert json.loads(shell.out)["recipe"] == RECIPE


@pytest.mark.parametrize(
    ("name", "command", "code"),
    [
        ("recipes/pipe.yaml", ["plan", "another"], "RECIPE_UNKNOWN"),
        ("cluster.yaml", ["build", RECIPE, "--executor", "slurm"], "CLUSTER_INVALID"),
        ("config.json", ["estimate", "--config", "config.json"], "CONFIG_INVALID"),
    ],
)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str, command: list[str], code: str
) -> None:
    place = shell.project / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    monkeypatch.chdir(shell.project)
    assert shell(*command) == 3
    assert f"error[{code}]" in shell.err
    assert code == "RECIPE_UNKNOWN" or "not an ordinary file" in shell.err
