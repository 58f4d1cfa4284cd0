"""`build` with several recipes: what it refuses, prints and returns."""

from __future__ import annotations

import json
import re

import pytest

from orchestrator.app.batch import Member
from tests.unit.app.test_batch import Build, failing
from tests.unit.cli.conftest import Shell

_SMALL = "tiny-llama-w4a16-nvfp4"
_OTHER = "tiny-llama-fp8"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands of the builds, each of which makes its model in two seconds; that of `tiny-llama-auto` fails."""
    found: list[tuple[str, ...]] = []

    def start_builds(_: object, command: tuple[str, ...]) -> object:
        def start(member: Member) -> Build:
            found.append((*command, member.recipe.name))
            if member.recipe.name == "tiny-llama-auto":
                return failing()
            build = Build()
            build.say(event="done", step="generate", key="a" * 64, bytes_in=0, bytes_out=1, seconds=2.0)
            build.end()
            return build

        return start

    monkeypatch.setattr("orchestrator.cli.batch.start_builds", start_builds)
    return found


def test_a_table_before_and_one_after(shell: Shell, commands: list[tuple[str, ...]]) -> None:
    assert shell("build", _OTHER, _SMALL) == 0
    before, _, after = shell.out.partition("2 of 2 recipes, one after another")
    assert re.match(r"; [\d.]+ MB will be written; \d+ ms to \d+ ms of work in all\n", after)
    assert f"{_SMALL} " in before
    assert "generate → quantize → verify" in before
    assert "generate 2.0 s" in after
    assert after.endswith("2 of 2 built\n")
    assert shell.err.splitlines() == [f"{name}: ✓ generate: 1 B in 2.0 s" for name in (_SMALL, _OTHER)]
    assert [command[-1] for command in commands] == [_SMALL, _OTHER]


def test_every_build_gets_the_folders_and_the_options(shell: Shell, commands: list[tuple[str, ...]]) -> None:
    options = ("--until", "quantize", "--offline", "--executor", "process", "--set", "model.generate.seed=7")
    assert shell("build", _SMALL, _OTHER, "--jobs", "2", *options) == 0
    for command in commands:
        words = " ".join(command)
        assert f"--project {shell.project} --store {shell.store} --dist {shell.dist} build" in words
        assert "--until quantize --offline --executor process --set model.generate.seed=7" in words
        assert "--jobs" not in words


def test_the_status_is_that_of_the_first_failure(shell: Shell, commands: list[tuple[str, ...]]) -> None:
    assert shell("build", _SMALL, "tiny-llama-auto", _OTHER, "--keep-going") == 5
    assert "error[STEP_FAILED]: quantize ended with exit status 1" in shell.err
    assert "tiny-llama-auto.log" in shell.err
    assert "2 of 3 built" in shell.out
    assert len(commands) == 3


def test_a_refusal_ends_it_before_any_build_or_is_left_out(shell: Shell, commands: list[tuple[str, ...]]) -> None:
    assert shell("build", _SMALL, "llama3-70b-bf16") == 4
    assert "error[DOES_NOT_FIT]" in shell.err
    assert not commands
    assert shell("build", _SMALL, "llama3-70b-bf16", "--keep-going") == 4
    assert [command[-1] for command in commands] == [_SMALL]


def test_one_json_document(shell: Shell, commands: list[tuple[str, ...]]) -> None:
    found = {each["recipe"]: each for each in shell.json("build", _SMALL, "no-such", "--keep-going", status=3)}
    assert found[_SMALL]["steps"] == [{"name": "generate", "reused": False, "seconds": 2.0, "gpus": 0}]
    assert found["no-such"] | {"error": None} == {
        "recipe": "no-such",
        "state": "refused",
        "seconds": 0.0,
        "planned_seconds": None,
        "gpu_hours": 0.0,
        "steps": [],
        "error": None,
    }
    assert json.dumps(found["no-such"]["error"]).count("RECIPE_UNKNOWN") == 1
    assert len(commands) == 1


def test_a_matrix_writes_recipes_and_builds_them(shell: Shell, commands: list[tuple[str, ...]]) -> None:
    assert shell("build", _SMALL, "--matrix", "quantization.scale_search=max,mse") == 0
    names = [f"{_SMALL}-{search}" for search in ("max", "mse")]
    built = [command[-1] for command in commands]
    assert len(built) == 2
    assert set(built) <= {_SMALL, *names}
    assert any((shell.project / "recipes" / f"{name}.yaml").is_file() for name in names)
    assert shell("plan", next(name for name in built if name != _SMALL)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([_SMALL, "--jobs", "2"], "--jobs is not possible with one recipe"),
        ([_SMALL, "--keep-going"], "--keep-going is not possible with one recipe"),
        ([_SMALL, _OTHER, "--events"], "--events is not possible with several recipes"),
        ([_SMALL, _OTHER, "--detach"], "--detach is not possible with several recipes"),
        ([_SMALL, _OTHER, "--from", "verify"], "--from is not possible with several recipes"),
        ([_SMALL, "--dry-run", "--matrix", "format=fp8"], "--matrix is not possible with --dry-run"),
        ([_SMALL, "--all"], "name a recipe, or --all"),
        ([], "name a recipe, or --all"),
        ([_SMALL, _OTHER, _SMALL], f"{_SMALL} is named twice"),
        ([f"./elsewhere/{_SMALL}.yaml", _SMALL], f"{_SMALL} is named twice"),
        ([_SMALL, "--matrix", "format=fp8", "-v"], "--verbose is not possible with several recipes"),
    ],
)
def test_options_that_exclude_each_other(shell: Shell, arguments: list[str], message: str) -> None:
    assert shell("build", *arguments) == 2
    assert message in shell.err


def test_a_dry_run_of_several_is_a_line_each(shell: Shell) -> None:
    assert shell("build", "--dry-run", _SMALL, _OTHER) == 0
    assert [line.split(":")[0] for line in shell.out.splitlines()] == [f"✓ {_SMALL}", f"✓ {_OTHER}"]
