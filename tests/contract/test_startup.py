"""The command as a program of its own: what it loads, and how it gets on with the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "pydantic",
    "numpy",
    "docker",
    "rich",
    "yaml",
    "huggingface_hub.hf_api",
    "httpx2",
    "jinja2",
    "filelock",
    "tokenizers",
    "tenacity",
    "cryptography",
    "requests",
    "lightkube",
    "aiohttp",
    "asyncio",
    "concurrent.futures",
    "multiprocessing",
    "ssl",
    "torch",
    "orchestrator.bundle",
    "orchestrator.deployment",
    "orchestrator.events",
)
"""Modules that load slowly, and packages of ours that bring such."""


RECIPE = "tiny-llama-w4a16-nvfp4"
CANARY = "hf_canary_0123456789"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


SHOWN = {"pydantic", "yaml", "rich"}
"""What reads documents and prints tables."""
LIGHT: dict[tuple[str, ...], set[str]] = {
    ("--help",): set(),
    ("--version",): set(),
    ("show", "tiny-llama-w4a16-nvfp4"): {"pydantic", "yaml"},
    ("recipes",): SHOWN,
    ("plan", "tiny-llama-w4a16-nvfp4"): SHOWN,
    ("plan", "llama3-8b-nvfp4"): SHOWN,
    ("compare", "llama3-8b"): SHOWN,
    ("status",): {*SHOWN, "orchestrator.deployment", "orchestrator.events"},
    ("build", "--dry-run", "tiny-llama-w4a16-nvfp4"): {"pydantic", "yaml", "orchestrator.events"},
}
"""Commands that run nothing, and those of the heavy modules that each may load. Loading is most of their time."""


@pytest.mark.parametrize("command", LIGHT, ids=" ".join)
def test_a_command_that_runs_nothing_loads_little(command: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['orchestrator', '--store', {str(tmp_path)!r}, *{command!r}]\n"
        "from orchestrator.cli.main import main\n"
        "try: main()\n"
        f"finally: print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = run("-c", code, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()[-1].split()[1:]) == LIGHT[command]
    assert command != ("--help",) or "Exit statuses:" in done.stdout


def test_a_job_of_a_cluster_loads_only_what_its_step_needs(tmp_path: Path) -> None:
    """Forty recipes start hundreds of these processes. Clients of other executors and what draws pages cost most."""
    start = "import sys, runpy\ntry: runpy.run_module({0!r}, run_name='__main__', alter_sys=True)\n"
    tell = "except SystemExit: print('LOADED', [name for name in {1!r} if name in sys.modules])"
    job = run("-c", (start + tell).format("orchestrator.executors.job_task", HEAVY), "--help")
    assert job.stdout.splitlines()[-1] == "LOADED ['orchestrator.events']", job.stderr
    build = ("--store", str(tmp_path), "build", RECIPE, "--executor", "process", "--until", "generate", "--events")
    others = ("docker", "requests", "httpx2", "jinja2", "rich", "orchestrator.catalog.cluster")
    done = run("-c", (start + tell).format("orchestrator.cli.main", others), *build)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.main", "schema"],
            stdout=writer,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("shell", ["bash_complete", "zsh_complete"])
def test_the_shell_completes_recipes(shell: str) -> None:
    done = run(
        "-c",
        "from orchestrator.cli.main import cli\n"
        "cli.main(prog_name='orchestrator', complete_var='_ORCHESTRATOR_COMPLETE')",
        _ORCHESTRATOR_COMPLETE=shell,
        COMP_WORDS="orchestrator build tiny",
        COMP_CWORD="2",
    )
    assert "tiny-llama-w4a16-nvfp4" in done.stdout


def test_doctor_looks_at_a_machine_without_an_engine(tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/no.sock"
    arguments = ("-m", "orchestrator.cli.main", "--store", str(tmp_path / "store"), "doctor")
    looked = run(*arguments, DOCKER_HOST=nowhere, HOME=str(tmp_path), HF_TOKEN=CANARY)
    assert looked.returncode == 0, looked.stderr
    assert "Docker" in looked.stdout
    assert CANARY not in looked.stdout + looked.stderr
    needed = run(*arguments, "llama3-8b-nvfp4", DOCKER_HOST=nowhere, HOME=str(tmp_path))
    assert needed.returncode == 6
    assert "Traceback" not in needed.stderr
