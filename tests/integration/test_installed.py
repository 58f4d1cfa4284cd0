"""The tool as a user has it: installed by uv and by pipx in an empty home, used, upgraded, removed; then what is left.

The installers get the lock's wheels, which set-up left, and no network. `ORCHESTRATOR_TEST_CONSTRAINTS` names a file of
constraints instead: then they take from the index what it allows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.steps.step import CODE
from tests.support.environments import locked_wheels

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "orchestrator", "recipes", "docker")
NAME = "trtllm-orchestrator"
TINY = "tiny-llama-w4a16-nvfp4"
MINE = f"name: mine\ndescription: Ours\nextends: {TINY}\nserve: {{port: 9000}}\n"
CONSTRAINTS = os.environ.get("ORCHESTRATOR_TEST_CONSTRAINTS")

INSTALLERS: Mapping[str, Mapping[str, list[str]]] = {
    "uv": {
        "install": ["tool", "install", "--python", sys.executable],
        "upgrade": ["tool", "upgrade", "--reinstall-package", NAME, NAME],
        "constrained": ["--constraints", str(CONSTRAINTS)],
        "uninstall": ["tool", "uninstall", NAME],
    },
    "pipx": {
        "install": ["install", "--python", sys.executable],
        "upgrade": ["upgrade", NAME],
        "constrained": [f"--pip-args=--constraint {CONSTRAINTS}"],
        "uninstall": ["uninstall", NAME],
    },
}

LEFT = {
    "home": {
        r"\.local/share/orchestrator/.*": "the store: results belong to the user",
        r"\.local/share/uv/tools/(\.lock|\.gitignore)": "uv's own, for every tool",
        r"\.local/(share/pipx|state/pipx)/.*": "pipx's own, for every tool: its log, its pip",
        r"\.cache/.*": "caches of the installers",
    },
    "work": {
        r"dist/(tiny-llama-w4a16-nvfp4|mine)/.*": "deployments: the user's own",
        r"(mine\.yaml|mine\.lock|recipes/team\.yaml)": "written by the user",
    },
}
"""Each file that is there after all is removed, by pattern, and why."""


_PIPX = {"PIPX_DEFAULT_BACKEND": "pip", "PIPX_DISABLE_SHARED_LIBS_AUTO_UPGRADE": "1", "PIP_NO_COMPILE": "1"}
"""pipx is to use pip, since uv has its own turn, and to leave out what takes long."""


@dataclass
class User:
    """Somebody with an empty home who uses one of the installers."""

    folder: Path
    installer: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def package(self) -> Path:
        (found,) = (self.home / ".local" / "share").glob(f"*/*/{NAME}/lib/python3*/site-packages/orchestrator")
        return found

    @property
    def sources(self) -> dict[str, str]:
        """Say where the installers find the libraries."""
        if CONSTRAINTS:
            return {}
        wheels = str(locked_wheels())
        return {"PIP_FIND_LINKS": wheels, "PIP_NO_INDEX": "1", "UV_FIND_LINKS": wheels, "UV_OFFLINE": "1"}

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not re.match("XDG_|ORCHESTRATOR_|PYTHON", name)}
        path = f"{self.home}/.local/bin:/usr/local/bin:/usr/bin:/bin"
        return {**kept, **self.sources, **_PIPX, "HOME": str(self.home), "PATH": path}

    def install(self, how: str) -> None:
        """Have the installer do something."""
        words = INSTALLERS[self.installer]
        sources = [*(words["constrained"] if CONSTRAINTS else []), str(self.source)] if how == "install" else []
        self._do([sys.executable, "-m", self.installer, *words[how], *sources])

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command, as the shell finds it."""
        return self._do(["orchestrator", *arguments])

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON can say
        return json.loads(self(*arguments, "--json").stdout)

    def _do(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        program = shutil.which(command[0], path=self.environment["PATH"])
        assert program, f"{command[0]} is not on the PATH"
        done = subprocess.run(
            [program, *command[1:]],
            env=self.environment,
            cwd=self.work,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(params=INSTALLERS)
def user(request: pytest.FixtureRequest, tmp_path: Path) -> User:
    made = User(tmp_path, request.param)
    for folder in (made.home, made.work, made.source):
        folder.mkdir()
    for name in SOURCES:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, made.source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(place, made.source / name)
    return made


def files_of(folder: Path) -> Iterator[Path]:
    """Name the files of a folder, relative to it, without Python's compiled ones."""
    for file in sorted(folder.rglob("*")):
        if not file.is_dir() and "__pycache__" not in file.parts:
            yield file.relative_to(folder)


def test_installed_used_upgraded_and_removed(user: User) -> None:
    user.install("install")
    _insist_on_everything_inside(user)
    before = {name: (user.package / name).read_bytes() for name in files_of(user.package)}
    built = _use(user)
    assert {name: (user.package / name).read_bytes() for name in files_of(user.package)} == before

    left = user.package / "_project" / ".orchestrator" / "artifacts" / "0" / "manifest.json"
    left.parent.mkdir(parents=True)  # as an earlier version did
    left.write_text("{}")
    _bump(user.source)
    user.install("upgrade")
    assert [found.name for found in user.package.parent.glob("trtllm_orchestrator-*")] == [
        "trtllm_orchestrator-99.0.0.dist-info"
    ]
    _move_what_was_left(user)
    again = user.json("build", TINY)
    assert [step["digest"] for step in again["steps"]] == built
    assert all(step["reused"] for step in again["steps"])

    user.install("uninstall")
    assert shutil.which("orchestrator", path=f"{user.home}/.local/bin") is None
    for name, reasons in LEFT.items():
        _insist_on_reasons(user.folder / name, reasons)
    assert (user.work / "dist" / TINY / "model" / "model.safetensors").stat().st_size
    assert any((user.home / ".local" / "share" / "orchestrator" / "artifacts").glob("*/out/model.safetensors"))


def _insist_on_everything_inside(user: User) -> None:
    """The wheel has each file of the package, the recipes, bases, images, tables and Dockerfiles."""
    for folder, inside in (("orchestrator", "."), ("recipes", "_project/recipes"), ("docker", "_project/docker")):
        for name in files_of(user.source / folder):
            assert (user.package / inside / name).read_bytes() == (user.source / folder / name).read_bytes(), name


def _use(user: User) -> list[str]:
    """Do what a new user does, and give the digests of the first build's steps."""
    listed = {recipe["name"] for recipe in user.json("recipes")}
    assert {file.stem for file in (ROOT / "recipes").glob("*.yaml")} == listed
    assert user.json("plan", TINY)["works"]
    built = user.json("build", TINY)
    assert Path(built["bundle"]) == user.work / "dist" / TINY
    store = user.home / ".local" / "share" / "orchestrator"
    assert all(Path(step["folder"]).is_relative_to(store) for step in built["steps"])

    (user.work / "mine.yaml").write_text(MINE)
    user("lock", "./mine.yaml")
    assert Path(user.json("build", "./mine.yaml", "--locked")["bundle"]) == user.work / "dist" / "mine"
    (user.work / "recipes").mkdir()
    (user.work / "recipes" / "team.yaml").write_text(MINE.replace("name: mine", "name: team"))
    assert user.json("plan", "team") == user.json("plan", "recipes/team.yaml")
    assert set(user.json("recipes")[0]) >= {"file", "shadows"}

    planned = user.json("build", "--dry-run", "llama3-8b-w4a16-nvfp4")
    mounts = [mount for step in planned["steps"] for mount in step["mounts"]]
    code = {mount["source"] for mount in mounts if mount["target"] == f"{CODE}/orchestrator"}
    assert code == {str(user.package)}
    return [step["digest"] for step in built["steps"]]


def _bump(source: Path) -> None:
    file = source / "pyproject.toml"
    text, count = re.subn(r'^version = ".*"', 'version = "99.0.0"', file.read_text(), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text)


def _move_what_was_left(user: User) -> None:
    """Find what lies in the package although that was upgraded, and move it as it is said."""
    said = user("status").stderr.splitlines()
    assert said[0].startswith("note: an earlier version left results in "), said
    assert str(user.package / "_project") in said[0]
    for line in said[1:]:
        subprocess.run(["sh", "-c", line], check=True, timeout=60)
    assert (user.home / ".local" / "share" / "orchestrator" / "artifacts" / "0" / "manifest.json").is_file()
    assert user("status").stderr == ""


def _insist_on_reasons(folder: Path, reasons: Mapping[str, str]) -> None:
    unexplained = [
        str(name) for name in files_of(folder) if not any(re.fullmatch(pattern, name.as_posix()) for pattern in reasons)
    ]
    assert unexplained == []
