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
    assert "0.5 nats a token. leave it in BF16" in page
