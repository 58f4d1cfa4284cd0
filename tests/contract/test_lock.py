"""`lock`, `build --locked` and `build --offline` as commands, against a Hub and a registry on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.recipe.lock import Lock, LockedFile, LockedRepository, lock_text
from tests.contract.test_registry import LAYER, push_index
from tests.support.command_line import orchestrator, variables_of
from tests.support.hub import COMMIT, Hub, serve

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
name: one
description: A model from the Hub as it is.
schema_version: 1
model: {repo: owner/model, license: mit, architecture: LlamaForCausalLM, parameters: 1.0e+6}
target: dgx-spark
image: tensorrt-llm-1.3.0rc24
quantization: {format: bf16, method: none}
"""
HEADER = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "vocab_size": 320,
}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": len(HEADER).to_bytes(8, "little") + HEADER + b"abcd",
}


@dataclass
class Project:
    """A project folder with one recipe, and the two services that its lock asks."""

    root: Path
    hub: Hub
    images: str
    log: str = ""

    @property
    def recipe(self) -> Path:
        return self.root / "recipes" / "one.yaml"

    @property
    def lock(self) -> Path:
        return self.root / "recipes" / "one.lock"

    @property
    def locked(self) -> Any:  # noqa: ANN401 - whatever JSON can say
        return json.loads(self.lock.read_text())

    def run(self, *arguments: str) -> int:
        environment = variables_of(self.root, self.hub.endpoint)
        done = orchestrator("--project", self.root, *arguments, environment=environment, folder=self.root)
        self.log = done.stdout + done.stderr
        assert "Traceback" not in self.log, self.log
        return done.returncode

    def download(self, *options: str) -> int:
        return self.run("build", "one", "--until", "download", *options)


@pytest.fixture
def project(tmp_path: Path, registry: str) -> Iterator[Project]:
    root = tmp_path / "project"
    (root / "recipes").mkdir(parents=True)
    (root / "recipes" / "one.yaml").write_text(RECIPE)
    shutil.copytree(ROOT / "docker", root / "docker")
    images = root / "docker" / "images.yaml"
    images.write_text(images.read_text().replace("nvcr.io/nvidia", f"{registry}/{tmp_path.name.lower()}"))
    push_index(f"{registry}/{tmp_path.name.lower()}/tensorrt-llm/release", "1.3.0rc24")
    with serve(Hub(files=dict(FILES))) as hub:
        yield Project(root, hub, f"{registry}/{tmp_path.name.lower()}/tensorrt-llm/release")


def test_a_lock_has_commit_files_images_tools_and_the_recipes_digest(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    lock = project.locked
    assert lock["recipe"] == "one"
    assert str(lock["recipe_digest"]).startswith("sha256:")
    [repository] = lock["repositories"]
    assert repository["commit"] == COMMIT
    files = {file["path"]: file for file in repository["files"]}
    assert set(files) == set(FILES)
    assert files["model.safetensors"]["size"] == len(FILES["model.safetensors"])
    assert len(files["model.safetensors"]["sha256"]) == 64
    assert "sha256" not in files["config.json"]
    image = lock["images"]["tensorrt-llm-1.3.0rc24"]
    assert set(image) == {"reference", "index", "amd64", "arm64", "sizes"}
    assert image["sizes"] == {"amd64": 2 * len(LAYER), "arm64": 2 * len(LAYER)}
    assert {"orchestrator", "huggingface_hub", "python"} <= set(lock["tools"])
    assert project.run("lock", "one", "--check") == 0, project.log
    before = project.lock.read_bytes()
    assert project.run("lock", "one") == 0
    assert project.lock.read_bytes() == before


def test_a_check_says_what_moved_and_fails(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    before = project.lock.read_bytes()
    new = "f" * 40
    project.hub.branches = {"main": new, "old": COMMIT}
    project.hub.files["config.json"] += b" "
    push_index(project.images, "1.3.0rc24", ("arm64",))
    assert project.run("lock", "one", "--check") == 7
    assert "LOCK_DRIFT" in project.log
    assert f"owner/model@main: {COMMIT} → {new}" in project.log
    size = len(FILES["config.json"])
    assert f"config.json: {size} → {size + 1} bytes" in project.log
    assert "image tensorrt-llm-1.3.0rc24" in project.log
    assert project.lock.read_bytes() == before


def test_a_check_without_a_lock_fails(project: Project) -> None:
    assert project.run("lock", "one", "--check") == 7
    assert "one has no lock" in project.log
    assert "make it: orchestrator lock one" in project.log
    assert not project.lock.exists()
    assert not project.hub.requests


def test_a_locked_build_asks_nobody_what_the_lock_says(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    project.hub.branches = {"main": "f" * 40, "old": COMMIT}
    project.hub.requests.clear()
    assert project.download("--locked") == 0, project.log
    assert [line for line in project.hub.requests if "/api/models" in line] == []
    assert project.download("--locked", "--offline") == 0, project.log


def test_a_locked_build_without_a_lock_is_refused(project: Project) -> None:
    assert project.download("--locked") == 7
    assert "LOCK_DRIFT" in project.log
    assert "orchestrator lock one" in project.log


@pytest.mark.parametrize(
    ("old", "new"), [("method: none}", "method: none}\nserve: {port: 9000}"), ("1.0e+6", "2.0e+6"), ("rc24", "rc22")]
)
def test_a_locked_build_of_a_recipe_that_changed_is_refused(project: Project, old: str, new: str) -> None:
    assert project.run("lock", "one") == 0, project.log
    project.recipe.write_text(RECIPE.replace(old, new))
    assert project.download("--locked") == 7
    assert "another state of the recipe" in project.log


def test_words_about_a_recipe_do_not_outdate_its_lock(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    project.recipe.write_text(RECIPE.replace("as it is", "just as it is") + "backend: pytorch # the default\n")
    assert project.download("--locked") == 0, project.log


def test_a_tag_that_the_catalogue_renamed_is_drift(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    images = project.root / "docker" / "images.yaml"
    images.write_text(images.read_text().replace("release:1.3.0rc24", "release:1.3.0rc24-post1"))
    assert project.download("--locked") == 7
    assert "1.3.0rc24-post1" in project.log


def test_the_lock_of_another_recipe_is_refused(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    project.lock.write_text(project.lock.read_text().replace('"recipe": "one"', '"recipe": "two"'))
    for options in ((), ("--locked",)):
        assert project.download(*options) == 3
        assert "LOCK_INVALID" in project.log


def test_bytes_that_are_not_the_locked_ones_are_refused(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    project.hub.files["model.safetensors"] = FILES["model.safetensors"][:-1] + b"!"
    assert project.download("--locked") == 6
    assert "DOWNLOAD_CORRUPT" in project.log


def test_a_pinned_image_is_run_by_its_digest(project: Project) -> None:
    assert project.run("lock", "one") == 0, project.log
    assert project.run("build", "one", "--dry-run") == 0, project.log
    index = project.locked["images"]["tensorrt-llm-1.3.0rc24"]["index"]
    assert f"release:1.3.0rc24@{index}" in project.log


def test_offline_everything_that_is_missing_is_named(project: Project) -> None:
    assert project.download("--offline") == 6
    assert "OFFLINE_MISSING" in project.log
    assert project.hub.requests == []
    assert project.run("lock", "one") == 0
    assert project.download("--offline") == 6
    assert "2 of 2 files" in project.log
    assert "model.safetensors" in project.log


def test_offline_a_branch_is_what_it_was_when_it_was_fetched(project: Project) -> None:
    assert project.download() == 0, project.log
    project.hub.requests.clear()
    assert project.download("--offline") == 0, project.log
    shutil.rmtree(project.root / ".local" / "share" / "orchestrator" / "artifacts")
    assert project.download("--offline") == 0, project.log
    assert project.hub.requests == []


def test_code_that_a_recipe_lets_a_tool_run_needs_its_trust(project: Project) -> None:
    project.recipe.write_text(RECIPE + "serve: {options: {trust_remote_code: true}}\n")
    assert project.download() == 4
    assert "UNTRUSTED_CODE" in project.log
    trust = f"license: mit, trust: {{commit: {COMMIT}, remote_code: true}}"
    project.recipe.write_text(project.recipe.read_text().replace("license: mit", trust))
    assert project.download() == 0, project.log


def test_a_lock_never_resolves_code_of_a_commit_that_nobody_read(project: Project) -> None:
    trust = f"license: mit, trust: {{commit: {'e' * 40}, remote_code: true}}"
    project.recipe.write_text(RECIPE.replace("license: mit", trust))
    assert project.run("lock", "one") == 4
    assert "UNTRUSTED_CODE" in project.log
    assert not project.lock.exists()


def test_the_text_to_calibrate_with_is_taken_from_the_locked_commit(project: Project) -> None:
    project.recipe.write_text(
        RECIPE.replace("rc24", "rc13").replace("format: bf16, method: none", "format: nvfp4, method: modelopt")
    )
    text = LockedFile(path="3.0.0/train-00000-of-00003.parquet", size=3, git_sha1="a" * 40)
    commit = "d" * 40
    lock = Lock(
        recipe="one",
        repositories=(
            LockedRepository(repo="owner/model", revision="main", commit=COMMIT, files=()),
            LockedRepository(
                repo="abisee/cnn_dailymail", kind="dataset", revision="main", commit=commit, files=(text,)
            ),
        ),
    )
    project.lock.write_text(lock_text(lock))
    project.run("build", "one", "--dry-run")
    assert f"--repo abisee/cnn_dailymail --revision {commit} --repo-type dataset" in project.log


LOCAL = """\
name: local
description: A model and a text of this project.
schema_version: 1
model: {path: weights, architecture: LlamaForCausalLM, parameters: 1.0e+6}
target: dgx-spark
image: tensorrt-llm-1.3.0rc24
quantization: {format: nvfp4, method: onepass, calibration: {dataset: text.jsonl, samples: 1}}
"""


@pytest.fixture
def local(project: Project) -> Project:
    (project.root / "recipes" / "local.yaml").write_text(LOCAL)
    (project.root / "weights").mkdir()
    for name, content in FILES.items():
        (project.root / "weights" / name).write_bytes(content)
    (project.root / "text.jsonl").write_text('{"text": "one"}\n')
    return project


def test_a_recipe_without_a_repository_is_locked_to_its_own_files_and_its_image(local: Project) -> None:
    assert local.run("lock", "local") == 0, local.log
    assert "no repository, 1 images, 3 local files; commit it" in local.log
    lock = json.loads((local.root / "recipes" / "local.lock").read_text())
    places = {place["path"]: place["files"] for place in lock["local"]}
    assert [file["path"] for file in places["weights"]] == sorted(FILES)
    assert places["text.jsonl"][0]["sha256"] == hashlib.sha256(b'{"text": "one"}\n').hexdigest()
    assert set(lock["images"]) == {"tensorrt-llm-1.3.0rc24"}
    assert local.run("lock", "local", "--check") == 0, local.log


@pytest.mark.parametrize("harm", ["changed", "gone", "more"])
def test_local_files_that_changed_are_drift(local: Project, harm: str) -> None:
    assert local.run("lock", "local") == 0, local.log
    match harm:
        case "changed":
            (local.root / "text.jsonl").write_text('{"text": "two"}\n')
        case "gone":
            (local.root / "weights" / "config.json").unlink()
        case "more":
            (local.root / "weights" / "more.json").write_text("{}")
        case _:
            pytest.fail(f"no such harm: {harm}")
    named = {"changed": "text.jsonl", "gone": "config.json", "more": "more.json"}[harm]
    assert local.run("lock", "local", "--check") == 7
    assert named in local.log
    assert local.run("build", "local", "--locked", "--until", "import") == 7
    assert "error[LOCK_DRIFT]" in local.log
    assert named in local.log
