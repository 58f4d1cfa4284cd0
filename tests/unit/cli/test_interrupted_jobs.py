"""What Ctrl-C does to the jobs of a cluster."""

from __future__ import annotations

import click
import pytest

from orchestrator.app.recipe_name import RecipeName
from orchestrator.cli import interrupted_jobs
from orchestrator.cli.interrupted_jobs import OnInterrupt, leaves_jobs

RECIPE = RecipeName("tiny")


def sit_down(monkeypatch: pytest.MonkeyPatch, answer: bool | type[Exception], *, there: bool = True) -> list[str]:
    questions: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        questions.append(question)
        if isinstance(answer, bool):
            return answer
        raise answer

    monkeypatch.setattr(interrupted_jobs, "is_interactive", lambda: there)
    monkeypatch.setattr(click, "confirm", confirm)
    return questions


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bool
) -> None:
    questions = sit_down(monkeypatch, answer)
    assert leaves_jobs("ask", RECIPE) is answer
    assert len(questions) == 1
    assert ("attach tiny" in capsys.readouterr().err) is answer


def test_a_second_interrupt_at_the_question_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_down(monkeypatch, click.Abort)
    assert leaves_jobs("ask", RECIPE) is False


@pytest.mark.parametrize(("option", "left"), [("ask", False), ("leave", True), ("cancel", False)])
def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, option: OnInterrupt, left: bool) -> None:
    questions = sit_down(monkeypatch, answer=True, there=False)
    assert leaves_jobs(option, RECIPE) is left
    assert questions == []
