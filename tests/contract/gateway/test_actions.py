"""The actions of start_server.sh, run from the bundle's folder as they are in its image."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.documents import Limits
from orchestrator.bundle.gateway.keys import digest_of
from tests.support.gateway import GATEWAY, Deployment, example_serve

ID = "ab" * 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    deployment = Deployment(
        tmp_path_factory.mktemp("bundle"),
        serve=example_serve(engine="trtllm_engine", backend="tensorrt", limits=Limits(tensor_parallel_size=1)),
    )
    deployment.lay_out()
    return deployment


def test_the_script_is_clean() -> None:
    subprocess.run(["shellcheck", GATEWAY.parent / "start_server.sh"], check=True)


@pytest.mark.parametrize("arguments", [("nim-serve", "--dry-run"), ("--dry-run",)])
def test_a_dry_run_prints_what_would_be_started(bundle: Deployment, arguments: tuple[str, ...]) -> None:
    ended = bundle.act(*arguments, "--max_batch_size", "4", NIM_KVCACHE_PERCENT="70", NIM_WRONG="1")
    assert ended.returncode == 0, ended.stderr
    assert f"starts: trtllm-serve serve {bundle.folder}/model/trtllm_engine --tokenizer" in ended.stdout
    assert "--max_batch_size 4" in ended.stdout
    assert "  kv_cache_config.free_gpu_memory_fraction: 0.7\n" in ended.stdout
    assert "warning: NIM_WRONG is unknown and has no effect\n" in ended.stdout
    assert not bundle.heard


def test_a_contradiction_has_its_exit_status_and_no_traceback(bundle: Deployment) -> None:
    ended = bundle.act("nim-serve", "--dry-run", NIM_TENSOR_PARALLEL_SIZE="2")
    told = "NIM_TENSOR_PARALLEL_SIZE=2 asks for --tensor_parallel_size 2, but the TensorRT engine was built for 1"
    assert (ended.returncode, ended.stderr) == (4, f"error: {told}: build another one\n")


def test_the_profile_is_listed(bundle: Deployment) -> None:
    ended = bundle.act("list-model-profiles")
    assert f"  - {ID} (tensorrt_llm-nvfp4-tp1-pp1)\n" in ended.stdout


@pytest.mark.parametrize("arguments", [(), ("-p", ID), ("--all",)])
def test_a_local_model_is_not_downloaded(bundle: Deployment, arguments: tuple[str, ...]) -> None:
    ended = bundle.act("download-to-cache", *arguments)
    assert ended.returncode == 0
    assert "is local" in ended.stdout


@pytest.mark.parametrize(("arguments", "reason"), [
    (("download-to-cache", "-p", "0" * 64), "there is no profile 0000"),
    (("download-to-cache", "--bogus"), "download-to-cache: unrecognized arguments: --bogus"),
    (("create-model-store",), "create-model-store: the following arguments are required"),
    (("create-model-store", "-p", ID, "-m", "/store"), "copy model/ of the bundle to /store"),
    (("nim-server",), "there is no action 'nim-server'"),
    (("create-api-key", "a b"), "a name has at most 64 letters"),
])  # fmt: skip
def test_wrong_usage_has_its_exit_status(bundle: Deployment, arguments: tuple[str, ...], reason: str) -> None:
    ended = bundle.act(*arguments)
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_key_is_shown_once_and_its_hash_is_kept(bundle: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    ended = bundle.act("create-api-key", "alice", "--file", str(file))
    key = ended.stdout.strip()
    assert file.read_text() == f"alice sha256:{digest_of(key).hex()}\n"
    assert key not in ended.stderr


def test_health_of_a_server_that_is_not_there_is_a_failure(bundle: Deployment) -> None:
    ended = bundle.act("healthcheck", NIM_SERVER_PORT="9")
    assert ended.returncode == 6
    assert ended.stderr.startswith("error: not ready: http://127.0.0.1:9/v1/health/ready")


def test_help_and_the_interface_are_told(bundle: Deployment) -> None:
    assert "list-model-profiles" in bundle.act("help").stdout
    assert "nim-serve [--dry-run]" in bundle.act("nim-serve", "--help").stdout
    assert "/v1/chat/completions" in json.loads(bundle.act("openapi").stdout)["paths"]


def test_a_missing_document_is_named(bundle: Deployment, tmp_path: Path) -> None:
    ended = bundle.act("nim-serve", "--dry-run", NIM_GATEWAY_ETC=str(tmp_path))
    assert ended.returncode == 3
    assert f"cannot read {tmp_path}/serve.json" in ended.stderr
