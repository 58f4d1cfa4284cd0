"""The page of a build: while it runs, when it ends, and afterwards."""

from __future__ import annotations

from pathlib import Path

from orchestrator.app.batch import plan_batch
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.build_page_file import BatchPage
from orchestrator.events import Failure, StepStarted, to_line
from tests.support.fake import FakeRun
from tests.support.leavings import COMMANDS, QUALITY, RECIPE, checked
from tests.unit.cli.conftest import Shell


def test_the_page_follows_the_build_and_shows_its_end(shell: Shell, tmp_path: Path) -> None:
    file, while_it_ran = tmp_path / "page.html", []

    def looks(run: FakeRun) -> None:
        while_it_ran.append(file.read_text(encoding="utf-8"))
        checked(run)

    shell.executor.commands = {**COMMANDS, "verify": looks}
    assert shell("build", RECIPE, "--html", str(file)) == 0
    (running,) = while_it_ran
    assert "Now: verify, step 3 of 3" in running
    assert 'http-equiv="refresh"' in running
    page = file.read_text(encoding="utf-8")
    assert "Every step is done" in page
    assert 'http-equiv="refresh"' not in page
    assert f"1 of {len(QUALITY['checks'])} checks passed." in page
    assert str(shell.dist / RECIPE) in page


def test_a_build_that_fails_has_its_page(shell: Shell, tmp_path: Path) -> None:
    def fails(run: FakeRun) -> int:
        run.write(to_line(Failure("QUALITY_TOO_LOW", "0.5 nats a token")).encode() + b"\n")
        return 7

    shell.executor.commands = {**COMMANDS, "verify": fails}
    assert shell("build", RECIPE, "--html", str(tmp_path / "page.html")) == 7
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "verify failed: verify: 0.5 nats a token" in page


def test_a_build_that_is_refused_leaves_the_page_of_the_one_before(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert shell("build", RECIPE, "--html", str(file)) == 0
    before = file.read_text(encoding="utf-8")
    assert shell("build", RECIPE, "--until", "nonsense", "--html", str(file)) == 3
    assert file.read_text(encoding="utf-8") == before


def test_status_writes_the_page_of_every_newest_build(shell: Shell, tmp_path: Path) -> None:
    assert shell("build", RECIPE) == 0
    shell.write_recipe("mine", f"name: mine\nextends: {RECIPE}\ndescription: Mine.\n")
    assert shell("build", "mine") == 0
    (shell.project / "recipes" / "mine.yaml").unlink()  # of a recipe that is gone, what the store knows is shown
    assert shell("status", "--html", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Builds of 2 recipes" in page
    assert page.count("Every step is done") == 4
    assert shell("status", "mine", "--html", str(tmp_path / "one.html")) == 0
    assert "mine: build" in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_a_page_that_no_build_here_would_write_is_refused(shell: Shell, tmp_path: Path) -> None:
    for other in ("--dry-run", "--detach", "--executor=slurm"):
        assert shell("build", RECIPE, "--html", str(tmp_path / "page.html"), other) == 2
        assert "--html is not possible with" in shell.err


def test_the_page_of_several_follows_them_and_shows_their_end(shell: Shell, tmp_path: Path) -> None:
    assert shell("build", RECIPE, "--until", "generate") == 0  # of which a journal is left
    settings = Settings({}, shell.project, shell.store, shell.dist)
    members = plan_batch(settings, [RecipeName(RECIPE), RecipeName("tiny-llama-fp8")]).ready
    file, event = tmp_path / "page.html", StepStarted("generate", "process")
    with BatchPage(settings, file, [member.recipe.name for member in members]) as page:
        page.write(follows=True)
        assert not file.exists(), "none has begun"
        page(next(member for member in members if member.recipe.name == RECIPE), event)
        page.write(follows=True)
        text = file.read_text(encoding="utf-8")
        assert 'http-equiv="refresh"' in text
        assert "Not begun: tiny-llama-fp8." in text
    text = file.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in text
    assert "Not begun" not in text
