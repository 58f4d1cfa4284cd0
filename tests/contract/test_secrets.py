"""Canaries wherever a token may lie: after a whole build with a download, none is in any byte that was made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import canaries
from tests.support.hub import Hub, serve

ROOT = Path(__file__).resolve().parents[2]
TOKEN = canaries.VARIABLES["HF_TOKEN"]
CANARIES = {name: value for name, value in canaries.VARIABLES.items() if name != "HTTPS_PROXY"}
"""A proxy would be asked for the Hub of this test."""
NAME = "canary"
PLAIN = "plain"
"""Without the Hub."""


def project(folder: Path) -> Path:
    (folder / "recipes").mkdir(parents=True)
    (folder / "docker").mkdir()
    for file in ("images.yaml", "tools"):
        (folder / "docker" / file).symlink_to(ROOT / "docker" / file)
    recipe = {
        "schema_version": 1,
        "name": NAME,
        "description": "A model behind a token",
        "target": "cpu",
        "image": "tensorrt-llm-1.3.0rc24",
        "model": {
            "repo": "owner/model",
            "revision": "main",
            "license": "mit",
            "architecture": "LlamaForCausalLM",
            "parameters": 4000,
        },
        "quantization": {"format": "w4a16_nvfp4", "method": "onepass"},
    }
    (folder / "recipes" / f"{NAME}.yaml").write_text(json.dumps(recipe))
    plain = {**recipe, "name": PLAIN, "model": {"generate": {}}}
    (folder / "recipes" / f"{PLAIN}.yaml").write_text(json.dumps(plain))
    return folder


def run(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    places = ["--project", folder / "project", "--store", folder / "store", "--dist", folder / "dist"]
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", *map(str, places), *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            **CANARIES,
            **environment,
        },
        cwd=folder / "home",
        capture_output=True,
        check=False,
        timeout=120,
    )


def found_in(folder: Path, *outputs: bytes) -> list[str]:
    """Name every place where a canary is, with the canary."""
    canaries = {name: value.encode() for name, value in CANARIES.items()}
    found = [f"{name} in an output" for name, value in canaries.items() for output in outputs if value in output]
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes() + os.fsencode(file)
            found += [f"{name} in {file}" for name, value in canaries.items() if value in content]
    return found


@pytest.fixture
def world(tmp_path: Path) -> Path:
    project(tmp_path / "project")
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def hub(world: Path) -> Hub:
    """A Hub that wants the token, with a model that was generated."""
    made = run(world, {}, "build", PLAIN, "--executor", "process", "--until", "generate", "--json")
    assert made.returncode == 0, made.stderr.decode()
    out = Path(json.loads(made.stdout)["steps"][0]["folder"])
    return Hub(files={path.name: path.read_bytes() for path in out.iterdir()}, token=TOKEN)


def test_no_secret_is_in_anything_that_a_build_leaves_or_says(world: Path, hub: Hub) -> None:
    with serve(hub):
        environment = {"HF_ENDPOINT": hub.endpoint}
        arguments = (NAME, "--executor", "process")
        built = run(world, environment, "build", *arguments, "--verbose", "--json")
        assert built.returncode == 0, built.stderr.decode()
        said = [built, *(run(world, environment, *words) for words in EVERY_OTHER)]
    there = {path.name for path in (world / "dist" / NAME).iterdir()}
    assert there >= {"Dockerfile", "compose.yaml", "kubernetes", "helm", "nim-operator", "kserve", "systemd", "gateway"}
    assert found_in(world, *(output for done in said for output in (done.stdout, done.stderr))) == []


EVERY_OTHER = (
    ("bundle", NAME, "--executor", "process", "--target", "kubernetes,helm", "--json"),
    ("bundle", NAME, "--executor", "process", "--embed-model", "--json"),
    ("status", "--json"),
    ("logs", NAME, "download"),
    ("attach", NAME),
    ("show", NAME),
    ("plan", NAME, "--json"),
    ("build", NAME, "--dry-run"),
    ("build", NAME, "--dry-run", "--json"),
    ("lock", NAME),
    ("gc", "--json"),
    ("doctor", NAME),
)


def test_what_a_person_put_into_a_bundle_stays_where_it_was_put(world: Path) -> None:
    assert run(world, {}, "build", PLAIN, "--executor", "process").returncode == 0
    bundle = world / "dist" / PLAIN
    (bundle / ".env").write_text(f"NIM_GATEWAY_API_KEYS_FILE={TOKEN}\n")
    (bundle / "secrets" / "api_keys").write_text(f"{TOKEN}\n")
    again = run(world, {}, "bundle", PLAIN, "--executor", "process", "--embed-model")
    assert again.returncode == 0, again.stderr.decode()
    found = found_in(world, again.stdout, again.stderr)
    assert sorted(found) == [f"HF_TOKEN in {bundle}/.env", f"HF_TOKEN in {bundle}/secrets/api_keys"]
    ignored = (bundle / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "an image gets what is named, and nothing else"
    assert not any("secrets" in line or ".env" in line for line in ignored)


@pytest.mark.parametrize(
    ("place", "environment"),
    [
        ("home/.cache/huggingface/token", {}),
        ("home/cache/huggingface/token", {"XDG_CACHE_HOME": "cache"}),
        ("home/relative/token", {"HF_HOME": "relative"}),
        ("home/secret", {"HF_TOKEN_PATH": "~/secret"}),
        ("home/nothing", {"HUGGING_FACE_HUB_TOKEN": TOKEN}),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_a_download_finds_login_and_cache_where_the_hubs_own_tools_keep_them(
    world: Path, hub: Hub, place: str, environment: dict[str, str]
) -> None:
    login = world / place
    login.parent.mkdir(parents=True, exist_ok=True)
    login.write_text(TOKEN)
    with serve(hub):
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "", **environment}
        done = run(world, variables, "build", NAME, "--executor", "process", "--until", "download", "--json")
    assert done.returncode == 0, done.stderr.decode()
    folder = Path(json.loads(done.stdout)["steps"][0]["folder"])
    assert {path.name for path in folder.iterdir()} == {*hub.files, "download.json"}, "the cache lies elsewhere"
    assert next((world / "home").glob("**/models--owner--model/snapshots")).is_dir()
    login.unlink()
    assert found_in(world, done.stdout, done.stderr) == []


@pytest.mark.parametrize("status", [401, 403, 500])
def test_no_secret_is_in_a_refusal_of_the_hub(world: Path, hub: Hub, status: int) -> None:
    hub.status = status
    with serve(hub):
        refused = run(world, {"HF_ENDPOINT": hub.endpoint, "HF_DEBUG": "1"}, "build", NAME, "--executor", "process")
    assert refused.returncode == 6, refused.stderr.decode()
    assert found_in(world, refused.stdout, refused.stderr) == []


def test_no_secret_is_in_the_report_of_a_defect(world: Path) -> None:
    broken = world / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import orchestrator.app.runner as runner, os\n"
        "def run(*_, **__): raise RuntimeError('sent ' + ' '.join(os.environ[name] for name in "
        f"{list(CANARIES)!r}))\n"
        "runner.Runner.run = run\n"
    )
    defect = run(world, {"PYTHONPATH": f"{broken}:{ROOT}"}, "build", PLAIN, "--executor", "process")
    assert defect.returncode == 1, defect.stderr.decode()
    reports = list(Path(world / "tmp").glob("orchestrator-defect-*.log"))
    assert len(reports) == 1
    assert "RuntimeError" in reports[0].read_text()
    assert found_in(world, defect.stdout, defect.stderr) == []


def test_the_temporary_folder_is_where_it_is_looked_for(world: Path) -> None:
    code = "import tempfile; print(tempfile.gettempdir())"
    environment = {"TMPDIR": str(world / "tmp"), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(world / "tmp") != tempfile.gettempdir()
