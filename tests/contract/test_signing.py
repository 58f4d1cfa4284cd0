"""Signatures before other programs: `model_signing`, the official reader of the format, and `openssl` in install.sh."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.app.settings import Settings
from orchestrator.app.signing import read_signing_key, sign_bundle, verify_bundle
from orchestrator.bundle.signing import read_private_key
from tests.support.air_gap import NAME, SERVER, OtherMachine, WritingDocker, write_bundle
from tests.support.keys import make_key

ROOT = Path(__file__).parents[2]
MODEL_SIGNING = Path(sys.executable).parent / "model_signing"
GOLDEN = ROOT / "tests" / "golden" / "bundles" / "llama3-70b-nvfp4"
CHECKERS = {
    "orchestrator": f'#!/bin/sh\nexec {sys.executable} -m orchestrator.cli.main "$@"\n',
    "model_signing": f'#!/bin/sh\nexec {MODEL_SIGNING} "$@"\n',
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "owner.pem")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def official(bundle: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """Verify a bundle as the official documentation says."""
    options = ("--signature", bundle / "model.sig", "--public_key", key.with_suffix(".pub"))
    return run(MODEL_SIGNING, "verify", "key", bundle, *options)


def test_the_official_command_accepts_a_signed_bundle_and_refuses_one_changed_byte(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, read_signing_key(Settings({}), str(key)))
    (bundle / "install.sh").write_text("of an archive")
    (bundle / "secrets" / "more").write_text("the user's")
    accepted = official(bundle, key)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr

    shard = bundle / "model" / "a shard.safetensors"
    shard.write_text(shard.read_text().replace("w", "W", 1))
    refused = official(bundle, key)
    assert refused.returncode == 1
    assert "Hash mismatch for 'model/a shard.safetensors'" in refused.stdout + refused.stderr


def test_a_signature_by_the_official_command_is_accepted(bundle: Path, key: Path) -> None:
    signature = ("--signature", bundle / "model.sig", "--private_key", key)
    signed = run(MODEL_SIGNING, "sign", "key", bundle, *signature, "--ignore-paths", bundle / ".env")
    assert signed.returncode == 0, signed.stdout + signed.stderr
    verified = verify_bundle(bundle, key.with_suffix(".pub"))
    assert verified.unsigned == (".env",)


KUBECTL = """#!/bin/sh
echo "$@" >>"$KUBECTL_LOG"
echo complete
"""


@pytest.mark.parametrize("program", ["orchestrator", "model_signing", None])
def test_the_loader_of_a_cluster_demands_a_signature(tmp_path: Path, key: Path, program: str | None) -> None:
    script = (GOLDEN / "model-volume" / "load-model.sh").read_text()
    bundle = write_bundle(tmp_path, **{"model-volume/load-model.sh": script})
    for private in (".env", "secrets/api_keys"):
        (bundle / private).unlink()  # the official program knows no exceptions but those of the signature
    programs, log = tmp_path / "programs", tmp_path / "kubectl.log"
    programs.mkdir()
    scripts = {"kubectl": KUBECTL} | ({program: CHECKERS[program]} if program else {})
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "TRUSTED_KEY": str(key.with_suffix(".pub")),
        "KUBECTL_LOG": str(log),
    }

    def load() -> subprocess.CompletedProcess[str]:
        command = ("bash", bundle / "model-volume" / "load-model.sh")
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    unsigned = load()
    assert unsigned.returncode == {"orchestrator": 7, "model_signing": 1, None: 6}[program], unsigned.stderr
    assert not log.exists()
    sign_bundle(bundle, read_signing_key(Settings({}), str(key)))
    signed = load()
    assert (signed.returncode == 0) is (program is not None), signed.stderr
    assert log.exists() is (program is not None)


def test_a_deployment_demands_a_signature(bundle: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-llama-w4a16-nvfp4").symlink_to(bundle)
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no-docker"}

    def deploy(**variables: str) -> subprocess.CompletedProcess[str]:
        command = (
            sys.executable,
            "-m",
            "orchestrator.cli.main",
            "--dist",
            tmp_path,
            "deploy",
            "tiny-llama-w4a16-nvfp4",
        )
        options = ("--key", key.with_suffix(".pub")) if not variables else ()
        return subprocess.run(
            (*command, *options), env={**environment, **variables}, capture_output=True, text=True, check=False
        )

    unsigned = deploy()
    assert unsigned.returncode == 7, unsigned.stderr
    assert "SIGNATURE_INVALID" in unsigned.stderr
    sign_bundle(bundle, read_signing_key(Settings({}), str(key)))
    by_another = make_key(tmp_path / "another.pem").with_suffix(".pub")
    assert deploy(ORCHESTRATOR_TRUSTED_KEY=str(by_another)).returncode == 7
    assert "DOCKER_UNAVAILABLE" in deploy().stderr


def test_a_signed_archive_is_checked_by_its_install_script(bundle: Path, key: Path, tmp_path: Path) -> None:
    private = read_private_key(key, None)
    sign_bundle(bundle, private)
    archived = WritingDocker().archive(bundle, tmp_path / "small.tar", sign=private.sign_for_openssl)
    (tmp_path / "there").mkdir()
    there = OtherMachine(tmp_path / "there")
    assert there.unpack(archived.file) == 0
    ended = there.install("--key", str(key.with_suffix(".pub")))
    assert ended.returncode == 0, ended.stderr
    assert private.public.digest in ended.stdout
    assert there.images == {SERVER: "sha256:1"}
    assert official(there.folder / NAME, key).returncode == 0
    assert verify_bundle(there.folder / NAME, key.with_suffix(".pub")).signer == private.public
