"""`python -m evaluation.serving` against a stand-in: what it finds, and what it calls a failure."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import ROOT, VLLM, Deployment, example_vllm

STANDINS = ROOT / "tests" / "support" / "standins"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    deployment = Deployment(tmp_path / "bundle", serve=example_vllm(), table=VLLM)
    deployment.lay_out()
    for file in (deployment.folder / "etc").iterdir():
        file.rename(deployment.folder / file.name)
    config = deployment.folder / "model" / "config.json"
    config.write_text(json.dumps({"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}}))
    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    (deployment.folder / "SHA256SUMS").write_text(f"{digest}  model/config.json\n")
    planned = {"decode_tokens_per_s": {"low": 90, "expected": 100, "high": 110}}
    (deployment.folder / "prediction.json").write_text(json.dumps(planned))
    return deployment.folder


def evaluate(bundle: Path) -> tuple[int, dict[str, str]]:
    """Return the exit status, and the table's rows."""
    command = (sys.executable, "-m", "evaluation.serving", bundle, "--folder", bundle.parent / "run")
    environment = {
        **os.environ,
        "PATH": f"{STANDINS}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "STANDIN_TABLES": VLLM,
        "STANDIN_QUIET": "1",
        "NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS": "0",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT, timeout=200)
    table = (line.strip("| ").partition(" | ") for line in done.stdout.splitlines() if line.startswith("| "))
    return done.returncode, {what: found for what, _, found in table}


def test_a_server_is_asked_killed_and_started_again(bundle: Path) -> None:
    status, rows = evaluate(bundle)
    assert status == 0, rows
    assert rows["files of the model are those of SHA256SUMS"] == "1 files"
    assert rows["kernels"] == "MarlinNvFp4LinearKernel for NVFP4 GEMM"
    assert "tokens/s (planned 100, 90 to 110)" in rows["one streamed answer"]
    assert "tokens/s in all" in rows["16 at once"]
    assert rows["other routes"].startswith("404 for /invocations")
    assert "the server ended with status 5" in rows["killed"]


def test_another_model_is_a_failure(bundle: Path) -> None:
    (bundle / "model" / "config.json").write_text('{"other": true}')
    status, rows = evaluate(bundle)
    assert status == 7
    assert "model/config.json differs" in rows["files of the model are those of SHA256SUMS"]


def test_its_recipe_is_built_without_a_container() -> None:
    recipe = ROOT / "evaluation" / "served-llama.yaml"
    command = (sys.executable, "-m", "orchestrator.cli.main", "build", recipe, "--executor", "process", "--dry-run")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "orchestrator.payloads.quantize" in done.stdout
    assert "docker" not in done.stdout
