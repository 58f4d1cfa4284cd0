from __future__ import annotations

import errno
import os
import signal

import pytest

from orchestrator.errors import CheckpointError, OrchestratorError
from orchestrator.events import Failure, from_line
from orchestrator.payloads import _main


def _raise(error: BaseException) -> int:
    def payload() -> None:
        raise error

    return _main.run(payload)


def _failure(text: str) -> Failure:
    event = from_line(text)
    assert isinstance(event, Failure)
    return event


def test_a_payload_that_returns_ends_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.run(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_known_failure_is_an_event_and_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert _raise(CheckpointError("a.safetensors: truncated", hint="Download it again.")) == 3
    assert _failure(capsys.readouterr().out) == Failure(
        "CHECKPOINT_INVALID", "a.safetensors: truncated", "Download it again."
    )


def test_a_failure_of_several_lines_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    _raise(OrchestratorError("first\nsecond"))
    assert _failure(capsys.readouterr().out).message == "first\nsecond"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "DISK_FULL"),
        (errno.EDQUOT, "DISK_FULL"),
        (errno.EACCES, "NO_PERMISSION"),
        (errno.EROFS, "NO_PERMISSION"),
        (errno.EFBIG, "FILE_SYSTEM"),
        (errno.EIO, "FILE_SYSTEM"),
    ],
)
def test_what_the_machine_lacks_is_a_known_failure(capsys: pytest.CaptureFixture[str], number: int, code: str) -> None:
    assert _raise(OSError(number, os.strerror(number), "/out/model.safetensors")) == 6
    failure = _failure(capsys.readouterr().out)
    assert failure.code == code
    assert "/" in failure.message
    assert failure.hint


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.ENOENT, "a defect")])
def test_anything_else_is_shown_in_full_with_status_one(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    assert _raise(error) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err
    assert "a defect" in err


def test_an_interrupt_has_its_own_status() -> None:
    assert _raise(KeyboardInterrupt()) == 130


def test_being_terminated_unwinds_and_has_its_own_status() -> None:
    unwound = []

    def payload() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            unwound.append(True)

    with pytest.raises(SystemExit) as caught:
        _main.run(payload)
    assert caught.value.code == 143
    assert unwound == [True]


def test_the_handler_of_the_caller_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    _main.run(lambda: None)
    assert signal.getsignal(signal.SIGTERM) == before
