"""What can be seen of a build from elsewhere, and what of a store nobody needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.app.record import Record
from orchestrator.app.step_logs import lines_of
from orchestrator.executors.docker import LeftContainer
from orchestrator.executors.log_file import LogFile
from orchestrator.hub.cache import RepoCache
from orchestrator.store import owner
from orchestrator.store.store import Store
from tests.support.leavings import RECIPE, STEPS
from tests.unit.cli.conftest import Shell

GONE = "00000000-0000-0000-0000-000000000000:1:1"
KEY = "b" * 64


# attach


def test_attach_shows_how_the_newest_build_went(shell: Shell) -> None:
    shell("build", RECIPE)
    assert shell("attach", RECIPE) == 0
    for step in STEPS:
        assert f"✓ {step}: " in shell.err
    assert shell.out == f"{RECIPE} is built\n"


def test_attach_ends_as_the_build_ended(shell: Shell) -> None:
    shell.executor.fail("quantize")
    assert shell("build", RECIPE) == 5
    assert shell("attach", RECIPE) == 5
    assert "✓ generate: " in shell.err
    assert "error[STEP_FAILED]: quantize ended with exit status 1" in shell.err


def test_attach_tells_of_an_interrupt(shell: Shell) -> None:
    shell.executor.interrupt("quantize")
    shell("build", RECIPE)
    assert shell("attach", RECIPE) == 130
    assert "interrupted" in shell.err


def record(shell: Shell, *lines: object, whose: str) -> None:
    file = shell.store / "runs" / f"{RECIPE}.events"
    file.parent.mkdir(parents=True, exist_ok=True)
    first = {"event": "begun", "owner": whose, "process": 1}
    file.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))


def test_attach_tells_of_a_build_that_was_killed(shell: Shell) -> None:
    record(shell, {"event": "started", "step": "generate", "executor": "process"}, whose=GONE)
    assert shell("attach", RECIPE) == 5
    assert "error[STEP_KILLED]: the build of" in shell.err


def test_attach_survives_lines_that_it_does_not_know(shell: Shell) -> None:
    lines = [
        {"event": "of another version"},
        [],
        {"event": "warned", "message": 7},
        {"event": "warned", "message": "x"},
    ]
    record(shell, *lines, {"event": "ended", "status": 0, "code": "", "message": "", "hint": ""}, whose=GONE)
    assert shell("attach", RECIPE) == 0
    assert shell.err == "! x\n"


@pytest.mark.parametrize("name", ["never-built", "../x"])
def test_attach_needs_a_build(shell: Shell, name: str) -> None:
    assert shell("attach", name) == 3
    assert "error[RECIPE_UNKNOWN]" in shell.err


@pytest.mark.parametrize("command", ["status", "logs", "attach"])
def test_a_recipe_that_was_never_built_is_told_from_one_that_is_none(shell: Shell, command: str) -> None:
    assert shell(command, RECIPE) == 3
    assert f"{RECIPE} has no build in" in shell.err
    assert f"build {RECIPE}" in shell.err
    assert shell(command, RECIPE[:-1]) == 3
    assert "never built" not in shell.err
    assert RECIPE in shell.err, "the nearest name"


def test_status_tells_of_a_build_that_runs(shell: Shell) -> None:
    record(shell, whose=owner.this_process())
    assert shell("status", RECIPE) == 0
    assert f"attach {RECIPE}" in shell.out


def test_status_and_the_page_tell_an_error_outside_of_a_step(shell: Shell) -> None:
    ended = {"status": 6, "code": "DISK_FULL", "message": "no space", "hint": "free some"}
    record(shell, {"event": "ended", **ended}, whose=GONE)
    page = shell.folder / "page.html"
    assert shell("status", RECIPE, "--html", str(page)) == 0
    assert f"{RECIPE}: no space" in shell.out
    assert "Ended: no space" in page.read_text(encoding="utf-8")
    (found,) = shell.json("status", RECIPE)
    assert found["ended"] == ended


def test_logs_are_found_in_a_store_that_was_moved(shell: Shell) -> None:
    shell("build", RECIPE)
    moved = shell.store.with_name("moved")
    shell.store.rename(moved)
    assert shell("--store", str(moved), "logs", RECIPE, "quantize") == 0
    assert shell.out == "at work: quantize\n"


def test_a_store_that_was_moved_is_used_as_it_is(shell: Shell) -> None:
    shell("build", RECIPE)
    moved = shell.store.with_name("moved")
    shell.store.rename(moved)
    shell.executor.jobs.clear()
    assert shell("--store", str(moved), "build", RECIPE) == 0
    assert shell.executor.jobs == []


def test_a_log_that_loses_its_middle_while_it_is_followed_is_followed_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    log = LogFile(file, largest=40_000)
    written = [b"line %06d\n" % number for number in range(9000)]
    parts = [written[:3000], written[3000:3500], written[3500:]]

    def goes_on() -> bool:
        if parts:
            log.write(b"".join(parts.pop(0)))
        return bool(parts)

    found = list(lines_of(file, goes_on, poll=0.0))
    log.close()
    assert found[:3000] == written[:3000]
    assert found[-300:] == written[-300:]


def test_followed_logs_of_a_build_that_ended_go_through_all_that_follows(shell: Shell) -> None:
    shell("build", RECIPE)
    assert shell("logs", "-f", RECIPE) == 0
    assert shell.out == "at work: verify\n"


# gc


def kinds(shell: Shell, *arguments: str) -> list[str]:
    found = shell.json("gc", *arguments)
    assert isinstance(found, list)
    return [entry["kind"] for entry in found]


def container(shell: Shell, status: str = "exited", key: str = KEY) -> LeftContainer:
    output = shell.store / "attempts" / f"{key}-docker-00000000" / "out"
    return LeftContainer("orchestrator-x", status, key, RECIPE, "quantize", output, owned=False)


def test_gc_finds_nothing_after_a_build(shell: Shell) -> None:
    shell("build", RECIPE)
    assert kinds(shell) == []


def test_gc_keeps_what_a_lock_names(shell: Shell) -> None:
    shell("build", RECIPE)
    shell("lock", RECIPE)
    shell("build", RECIPE, "--set", "model.generate.seed=1")
    assert kinds(shell) == []
    (shell.project / "recipes" / f"{RECIPE}.lock").unlink()
    assert kinds(shell) == ["artifact"] * 3


def test_gc_refuses_to_guess_what_a_broken_lock_needs(shell: Shell) -> None:
    shell("build", RECIPE)
    (shell.project / "recipes" / f"{RECIPE}.lock").write_text("{")
    assert shell.error("gc", "--delete")["code"] == "LOCK_INVALID"


def test_gc_keeps_what_lies_beyond_a_build_that_stopped_early(shell: Shell) -> None:
    shell("build", RECIPE)
    shell("build", RECIPE, "--until", "generate")
    assert kinds(shell) == []


def test_gc_removes_abandoned_tries_and_changed_artifacts(shell: Shell) -> None:
    shell("build", RECIPE)
    store = Store(shell.store)
    store.attempt(KEY)
    store.set_aside(next(store.artifacts()).key)
    assert sorted(kinds(shell)) == ["attempt", "changed"]
    assert sorted(kinds(shell, "--delete")) == ["attempt", "changed"]
    assert kinds(shell) == []
    assert store.attempts() == ()


def note(shell: Shell, key: str) -> Path:
    """Leave what a step notes of how far it is."""
    place = Store(shell.store).scratch(key) / "hidden-00003"
    place.write_bytes(b"x" * 5000)
    return place


def test_gc_removes_what_a_step_noted_that_nobody_goes_on_with(shell: Shell) -> None:
    shell("build", RECIPE)
    noted = note(shell, KEY)
    assert kinds(shell) == ["scratch"]
    with Store(shell.store).try_lock(KEY):
        assert kinds(shell, "--delete") == [], "somebody writes it"
    assert noted.exists()
    assert kinds(shell, "--delete") == ["scratch"]
    assert not noted.parent.exists()


def test_gc_keeps_what_the_next_build_goes_on_from_and_says_how_much_it_is(shell: Shell) -> None:
    shell.executor.interrupt("quantize")
    shell("build", RECIPE)
    found = Record.read(shell.store, RECIPE)
    assert found is not None
    noted = note(shell, found.steps[1].key)
    assert kinds(shell, "--delete") == []
    assert noted.exists()
    assert shell("gc") == 0
    assert "(5.0 kB) is saved state; the next build continues from it" in shell.out


def test_gc_keeps_what_a_container_goes_on_noting(shell: Shell) -> None:
    noted = note(shell, KEY)
    shell.containers = [container(shell, "running")]
    assert kinds(shell, "--delete") == []
    assert noted.exists()


def test_gc_removes_downloads_that_were_set_aside(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    wrong = RepoCache(tmp_path / "hub", "owner/model", "model").aside("deep/model.safetensors")
    wrong.write_bytes(b"wrong")
    assert shell("gc") == 0
    assert "models--owner--model/orchestrator/aside/deep/model.safetensors" in shell.out
    assert wrong.exists()
    assert kinds(shell, "--delete") == ["wrong download"]
    assert not wrong.exists()


def test_gc_leaves_what_is_locked_or_read(shell: Shell) -> None:
    shell("build", RECIPE)
    shell("build", RECIPE, "--set", "model.generate.seed=1")
    store = Store(shell.store)
    store.attempt(KEY)
    old = shell.json("gc")
    assert isinstance(old, list)
    with store.use() as note, store.try_lock(KEY):
        note(old[0]["key"])
        assert len(kinds(shell, "--delete")) == len(old) - 2
    assert len(store.attempts()) == 1
    assert store.look(old[0]["key"]) is not None
    assert kinds(shell) == ["artifact", "attempt"]


def test_gc_forgets_the_use_of_a_build_that_is_gone(shell: Shell) -> None:
    place = shell.store / "uses"
    place.mkdir(parents=True)
    (place / "x").write_text(f"{GONE}\n{KEY}\n")
    (place / "y").write_text(f"{owner.this_process()}\n{'c' * 64}\n")
    assert Store(shell.store).used() == {KEY, "c" * 64}
    assert Store(shell.store).used() == {"c" * 64}


def test_gc_keeps_what_the_next_build_publishes(shell: Shell) -> None:
    shell.executor.interrupt("generate")
    shell("build", RECIPE)
    found = Record.read(shell.store, RECIPE)
    assert found is not None
    attempt = Store(shell.store).attempt(found.steps[0].key)
    assert kinds(shell) == ["attempt"]
    attempt.seal()
    assert kinds(shell, "--delete") == []
    assert attempt.is_sealed


def test_gc_keeps_what_a_container_may_write_to_while_no_engine_answers(shell: Shell) -> None:
    Store(shell.store).attempt(KEY, "docker")
    shell.containers = None
    assert kinds(shell, "--delete") == []
    shell.containers = []
    assert kinds(shell) == ["attempt"]


@pytest.mark.parametrize(("status", "found"), [("running", []), ("exited", ["container", "attempt"])])
def test_gc_removes_no_container_that_runs(shell: Shell, status: str, found: list[str]) -> None:
    left = container(shell, status)
    left.output.mkdir(parents=True)
    shell.containers = [left]
    assert kinds(shell) == found


def test_gc_leaves_the_containers_of_other_stores(shell: Shell, tmp_path: Path) -> None:
    other = container(shell)
    shell.containers = [LeftContainer("x", "exited", KEY, RECIPE, "quantize", tmp_path / "other", owned=False)]
    assert kinds(shell) == []
    shell.containers.append(other)
    assert kinds(shell) == ["container"]


def test_gc_keeps_the_ended_container_that_the_next_build_adopts(shell: Shell) -> None:
    shell.executor.interrupt("generate")
    shell("build", RECIPE)
    found = Record.read(shell.store, RECIPE)
    assert found is not None
    shell.containers = [container(shell, key=found.steps[0].key)]
    shell.containers[0].output.mkdir(parents=True)
    assert kinds(shell) == []


def test_gc_tells_what_it_frees(shell: Shell) -> None:
    shell("build", RECIPE)
    shell("build", RECIPE, "--set", "model.generate.seed=1")
    assert shell("gc") == 0
    assert "could be removed with --delete: " in shell.out
    assert shell("gc", "--delete") == 0
    assert "removed: " in shell.out
