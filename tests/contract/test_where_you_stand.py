"""The command in a folder of the user's: recipes by path, files over those of the tool, store, dist and leftovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import leftovers
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings, data_home
from orchestrator.cli import main as program
from orchestrator.errors import HomeMissingError, RecipeUnknownError
from tests.support.leavings import tiny_executor

ROOT = Path(__file__).resolve().parents[2]
TINY = "tiny-llama-w4a16-nvfp4"
MINE = f"name: mine\ndescription: Ours\nextends: {TINY}\nserve: {{port: 9000}}\n"
CONFIG = json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "num_hidden_layers": 2,
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128,
})  # fmt: skip
LOCAL = (
    "name: local\ndescription: Ours\nextends: onepass\nquantization: {method: onepass}\ntarget: cpu\n"
    "model: {path: weights, architecture: LlamaForCausalLM, parameters: 1.0e+6}\n"
)


@dataclass
class User:
    """Somebody who types commands in a folder, with a home and no options."""

    folder: Path
    home: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str) -> int:
        self.patch.setattr(sys, "argv", ["orchestrator", *arguments])
        with pytest.raises(SystemExit) as ending:
            program.main()
        self.out, self.err = self.capture.readouterr()
        assert isinstance(ending.value.code, int | None)
        return ending.value.code or 0

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON can say
        assert self(*arguments, "--json") == 0, self.err
        return json.loads(self.out)

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    @property
    def store(self) -> Path:
        return self.home / ".local" / "share" / "orchestrator"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[User]:
    user = User(tmp_path / "work", tmp_path / "home", monkeypatch, capsys)
    user.folder.mkdir()
    user.home.mkdir()
    for name in ("XDG_DATA_HOME", "ORCHESTRATOR_STORE", "ORCHESTRATOR_DIST", "ORCHESTRATOR_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(user.home))
    monkeypatch.chdir(user.folder)
    executor = tiny_executor()
    monkeypatch.setattr("orchestrator.app.building.ProcessExecutor", lambda _: executor)
    before = signal.getsignal(signal.SIGTERM)
    yield user
    signal.signal(signal.SIGTERM, before)


def test_a_recipe_of_the_tool_is_built_in_any_folder(user: User) -> None:
    built = user.json("build", TINY)
    assert Path(built["bundle"]) == user.folder / "dist" / TINY
    assert all(Path(step["folder"]).is_relative_to(user.store) for step in built["steps"])
    assert [file.name for file in user.folder.iterdir()] == ["dist"]


@pytest.mark.parametrize("text", ["./mine.yaml", "mine.yaml", "sub/../mine.yaml", "{folder}/mine.yaml"])
def test_a_recipe_is_named_by_its_path(user: User, text: str) -> None:
    user.write("mine.yaml", MINE)
    (user.folder / "sub").mkdir()
    named = text.format(folder=user.folder)
    assert user.json("plan", named)["recipe"] == "mine"
    assert user("plan", named) == 0
    assert user.out.splitlines()[-1].endswith("build ./mine.yaml")
    assert user.json("show", named)["recipe"]["serve"]["port"] == 9000
    assert user.json("validate", named, TINY) == [
        {"recipe": "mine", "valid": True, "refusals": []},
        {"recipe": TINY, "valid": True, "refusals": []},
    ]


@pytest.mark.parametrize("named", ["mine", "./recipes/mine.yaml", "recipes/mine.yaml"])
def test_a_recipe_of_a_project_goes_by_its_name_and_by_its_path(user: User, named: str) -> None:
    user.write("recipes/mine.yaml", MINE)
    assert user.json("plan", named)["recipe"] == "mine"
    assert user("lock", named) == 0
    assert (user.folder / "recipes" / "mine.lock").is_file()
    assert Path(user.json("build", named, "--locked")["bundle"]) == user.folder / "dist" / "mine"


def test_every_command_takes_a_path(user: User) -> None:
    user.write("mine.yaml", MINE)
    assert user("lock", "./mine.yaml") == 0
    assert (user.folder / "mine.lock").is_file()
    built = user.json("build", "./mine.yaml", "--locked")
    assert Path(built["bundle"]) == user.folder / "dist" / "mine"
    for command in (["verify"], ["bundle"], ["status"], ["attach"], ["logs"], ["build", "--dry-run"], ["doctor"]):
        assert user(*command, "./mine.yaml") == 0, (command, user.err)
    assert user("bench", "./mine.yaml") == 3
    assert "mine.yaml has no benchmark" in user.err


def test_compare_takes_a_path(user: User) -> None:
    user.write("mine.yaml", "name: mine\ndescription: Ours\nextends: llama3-8b-nvfp4\n")
    assert user.json("compare", "./mine.yaml")["formats"]


def test_a_lock_that_moved_is_made_again_by_the_path(user: User) -> None:
    file = user.write("mine.yaml", MINE)
    assert user("lock", "mine.yaml") == 0
    file.write_text(MINE.replace("9000", "9001"))
    assert user("build", "mine.yaml", "--locked") == 7
    assert f"orchestrator lock {file}" in user.err


def test_a_lock_of_a_recipe_of_the_tool_lies_in_the_project(user: User) -> None:
    assert user("lock", TINY) == 0
    assert (user.folder / "recipes" / f"{TINY}.lock").is_file()
    (user.folder / "sub").mkdir()
    user.patch.chdir(user.folder / "sub")
    built = user.json("build", TINY, "--locked")
    assert Path(built["bundle"]) == user.folder / "dist" / TINY


def test_a_name_that_is_a_file_here_is_said(user: User) -> None:
    user.write("mine.yaml", MINE)
    assert user("plan", "mine") == 3
    assert "did you mean the file ./mine.yaml?" in user.err


@pytest.mark.parametrize("text", ["./missing.yaml", "recipes/x", "../x", "/etc/passwd"])
def test_a_path_without_a_recipe_is_unknown(user: User, text: str) -> None:
    for command in ("plan", "logs", "status", "deploy"):
        assert user(command, text) == 3
        assert "RECIPE_UNKNOWN" in user.err


@pytest.mark.parametrize("text", ["./Mine.yaml", "a/..", "./.yaml", "./a b.yaml", "./"])
def test_a_path_whose_name_cannot_be_a_recipes_is_refused(text: str) -> None:
    with pytest.raises(RecipeUnknownError, match="is not a recipe file"):
        RecipeName.parse(text)


def test_a_file_in_another_project_is_planned_in_that_project(user: User) -> None:
    user.write("team/docker/images.yaml", "images: {ours: {extends: tensorrt-llm-1.3.0rc24}}")
    user.write("team/weights/config.json", CONFIG)
    user.write("team/experiments/local.yaml", f"{LOCAL}image: ours\n")
    found = user.json("build", "--dry-run", "team/experiments/local.yaml")
    assert found["steps"][0]["mounts"][0]["source"] == str(user.folder / "team" / "weights")


def test_paths_of_a_file_outside_of_any_project_start_beside_it(user: User) -> None:
    user.write("elsewhere/weights/config.json", CONFIG)
    user.write("elsewhere/local.yaml", LOCAL)
    found = user.json("build", "--dry-run", "elsewhere/local.yaml")
    assert found["steps"][0]["mounts"][0]["source"] == str(user.folder / "elsewhere" / "weights")


def test_what_shadows_the_tool_is_shown(user: User) -> None:
    recipe = user.write(f"recipes/{TINY}.yaml", MINE.replace("name: mine", f"name: {TINY}"))
    image = "tensorrt-llm-1.3.0rc24"
    images = user.write("docker/images.yaml", f"images: {{{image}: {{extends: {image}, reference: 'mirror/a:1'}}}}")
    expected = [
        {"kind": "recipe", "name": TINY, "file": str(recipe)},
        {"kind": "image", "name": image, "file": str(images)},
    ]
    assert user.json("show", TINY)["shadows"] == expected
    assert user.json("plan", TINY)["shadows"] == expected
    listed = {entry["name"]: entry for entry in user.json("recipes")}
    assert [name for name, entry in listed.items() if entry["shadows"]] == [TINY]
    assert listed[TINY]["file"] == str(recipe)
    for command in ("show", "plan"):
        assert user(command, TINY) == 0
        assert f"image {image} from {images}, instead of the tool's own" in user.out
    assert user("recipes") == 0
    assert "instead of the tool's own" in " ".join(user.out.split())


def test_nothing_is_said_of_shadows_where_there_are_none(user: User) -> None:
    user.write("recipes/mine.yaml", MINE)
    assert user.json("plan", "mine")["shadows"] == []
    assert user("show", "mine") == 0
    assert "comes with the tool" not in user.out


def test_the_store_follows_xdg_and_its_options(user: User, tmp_path: Path) -> None:
    assert Settings(os.environ).store.root == user.store
    user.patch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Settings(os.environ).store.root == tmp_path / "data" / "orchestrator"
    user.patch.setenv("XDG_DATA_HOME", "relative")  # the specification has it ignored
    assert Settings(os.environ).store.root == user.store
    assert Settings(os.environ, store_folder=tmp_path / "x").store.root == tmp_path / "x"
    user.patch.setenv("ORCHESTRATOR_STORE", str(tmp_path / "y"))
    assert user.json("build", TINY, "--until", "generate")["steps"][0]["folder"].startswith(str(tmp_path / "y"))


def test_a_user_without_a_home_is_asked_for_a_store(user: User) -> None:
    user.patch.delenv("HOME")
    user.patch.setattr("pathlib.Path.home", _no_home)
    with pytest.raises(HomeMissingError) as caught:
        data_home({})
    assert "--store" in caught.value.hint


def _no_home() -> Path:
    message = "could not determine home directory"
    raise RuntimeError(message)


def test_a_project_with_a_store_of_its_own_keeps_it(user: User) -> None:
    user.write("recipes/mine.yaml", MINE)
    (user.folder / ".orchestrator").mkdir()
    user.patch.chdir(user.folder / "recipes")
    assert Settings(os.environ).store.root == user.folder / ".orchestrator"
    assert Settings(os.environ).dist == user.folder / "dist"


def test_a_checkout_keeps_results_in_itself(user: User) -> None:
    user.patch.chdir(ROOT / "docs")
    settings = Settings(os.environ)
    assert (settings.store.root, settings.dist) == (ROOT / ".orchestrator", ROOT / "dist")


def test_a_project_that_is_read_only_gets_no_results(user: User, tmp_path: Path) -> None:
    user.write("recipes/mine.yaml", MINE)
    user.patch.setattr("os.access", lambda place, _mode: Path(place) != user.folder)  # root may write everywhere
    user.patch.chdir(tmp_path)
    assert Settings(os.environ, user.folder).dist == tmp_path / "dist"


def test_completion_offers_names_and_files(user: User) -> None:
    user.write("recipes/mine.yaml", MINE)
    assert _completed("orchestrator plan mi") == ["plain,mine", *_completed("orchestrator plan mi")[1:]]
    assert _completed("orchestrator plan ./mi") == ["file,./mi"]


def _completed(words: str) -> list[str]:
    code = (
        "from orchestrator.cli.main import cli\n"
        "cli.main(prog_name='orchestrator', complete_var='_ORCHESTRATOR_COMPLETE')"
    )
    given = {"_ORCHESTRATOR_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


@pytest.fixture(params=["here", "uv", "uv by its variable", "pipx", "older pipx"])
def old(request: pytest.FixtureRequest, user: User, tmp_path: Path) -> Path:
    """The folder of data in the package of an earlier version, wherever one may lie."""
    site = Path("orchestrator/lib/python3.12/site-packages")
    share = user.home / ".local" / "share"
    package = {
        "here": tmp_path / "site-packages" / "orchestrator",
        "uv": share / "uv" / "tools" / site / "orchestrator",
        "uv by its variable": tmp_path / "tools" / site / "orchestrator",
        "pipx": share / "pipx" / "venvs" / site / "orchestrator",
        "older pipx": user.home / ".local" / "pipx" / "venvs" / site / "orchestrator",
    }[request.param]
    if request.param == "here":
        user.patch.setattr(leftovers, "_PACKAGE", package)
    if request.param == "uv by its variable":
        user.patch.setenv("UV_TOOL_DIR", str(tmp_path / "tools"))
    return package / "_project"


@pytest.mark.parametrize("existing", [False, True])
def test_what_an_earlier_version_left_is_found_and_moved_by_what_is_said(
    user: User, old: Path, *, existing: bool
) -> None:
    before = user.json("--store", str(old / ".orchestrator"), "--dist", str(old / "dist"), "build", TINY)
    assert "earlier version" not in user.err  # they are in use
    if existing:
        assert user("build", TINY, "--until", "generate") == 0
    assert user("status") == 0
    lines = user.err.splitlines()
    assert [line for line in lines if line.startswith("note: ")] == [
        f"note: an earlier version left results in {old / '.orchestrator'}. To move them:",
        f"note: an earlier version left deployments in {old / 'dist'}. To move them:",
    ]
    for line in lines:
        if line.startswith("  "):
            subprocess.run(["sh", "-c", line], check=True, timeout=60)
    again = user.json("build", TINY)
    assert all(step["reused"] for step in again["steps"])
    assert [step["digest"] for step in again["steps"]] == [step["digest"] for step in before["steps"]]
    assert existing or "earlier version" not in user.err
    assert (user.folder / "dist" / TINY / "SHA256SUMS").is_file()


def test_folders_without_results_are_not_spoken_of(user: User, old: Path) -> None:
    for folder in (old / ".orchestrator" / "artifacts", old / "dist", old / "recipes"):
        folder.mkdir(parents=True)
    assert user("status") == 0
    assert "earlier version" not in user.err
