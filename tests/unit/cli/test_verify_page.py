"""The page of the checks, whether they passed or not."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.events import Failure, to_line
from tests.support import checked
from tests.support.fake import FakeRun
from tests.support.leavings import COMMANDS, RECIPE
from tests.unit.cli.conftest import Shell


def test_verify_writes_a_page(shell: Shell, tmp_path: Path) -> None:
    def measured(run: FakeRun) -> None:
        (run.output / "quality.json").write_text(json.dumps(checked.quality(2)))

    shell.executor.commands = {**COMMANDS, "verify": measured}
    assert shell("verify", RECIPE, "--html", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{RECIPE}: checks" in page
    assert page.count("<svg") == 2


def test_a_failed_check_has_its_page_too(shell: Shell, tmp_path: Path) -> None:
    def fails(run: FakeRun) -> int:
        run.write(to_line(Failure("QUALITY_TOO_LOW", "0.5 nats a token", "leave it in BF16")).encode() + b"\n")
        return 7

    shell.executor.commands = {**COMMANDS, "verify": fails}
    assert shell("verify", RECIPE, "--html", str(tmp_path / "page.html")) == 7
    assert "error[QUALITY_TOO_LOW]" in shell.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Checks failed" in page
    assert "0.5 nats a token</td>" in page
    assert "What to try: leave it in BF16" in page


def test_a_warning_is_marked_with_what_to_try_and_what_the_figures_mean(shell: Shell, tmp_path: Path) -> None:
    def warned(run: FakeRun) -> None:
        (run.output / "quality.json").write_text(json.dumps(checked.warned(2)))

    shell.executor.commands = {**COMMANDS, "verify": warned}
    assert shell("verify", RECIPE, "--html", str(tmp_path / "page.html")) == 0
    assert "!   kl_divergence" in shell.out
    assert "✓   configuration" in shell.out
    assert "what to try: set scale_search: weighted" in shell.out
    assert "0.17 times what is normal for NVFP4" in " ".join(shell.out.split())
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "lost more than is normal for its format" in page
    assert page.count("with a warning") == 1
    assert "What to try: set scale_search: weighted" in page
