"""No hostile checkpoint is accepted, by `quantize` or by `verify`: each is named, in bounded memory, and nothing is
published."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.events import Failure, from_line
from orchestrator.payloads import _main, generate, quantize, verify
from orchestrator.quantization.files import read_json
from tests.support.hostile import HOSTILE, Hostile

BAD_INPUT, CHECK_FAILED = 3, 7
MOST_MEMORY = 500_000_000
"""Bytes of addresses, of which threads take most. No file of the table is that large, but one of a gigabyte."""
REFUSED = {name: one for name, one in HOSTILE.items() if one.quantize}
FAILED = {name: one for name, one in HOSTILE.items() if one.verify}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers in two files; not to be changed."""
    folder = tmp_path_factory.mktemp("sound")
    sizes = {"hidden-size": 64, "intermediate-size": 96, "layers": 2, "heads": 2, "kv-heads": 1, "vocab-size": 261}
    generate.main(["--output", str(folder), *(word for key, size in sizes.items() for word in (f"--{key}", str(size)))])
    return folder


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Let this process take half a gigabyte more than it has, whatever a file announces; more is a traceback."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_bound_of_memory_holds() -> None:
    with pytest.raises(MemoryError):
        bytearray(2 * MOST_MEMORY)


def _failure(capsys: pytest.CaptureFixture[str]) -> Failure:
    """Return the event of the failure, which is the last line, and insist that there is no traceback."""
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    event = from_line(said.out.splitlines()[-1])
    assert isinstance(event, Failure)
    return event


def _require_named(hostile: Hostile, message: str) -> None:
    for name in hostile.names:
        assert name in message
    assert len(message) < 3000
    assert message.replace("\n", "").isprintable()


@pytest.mark.parametrize("hostile", REFUSED.values(), ids=REFUSED)
def test_the_quantizer_refuses_it(
    hostile: Hostile, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile.change(model)
    out = tmp_path / "out"
    status = _main.run(partial(quantize.main, ["--checkpoint", str(model), "--output", str(out)]))
    failure = _failure(capsys)
    assert status == BAD_INPUT, failure
    _require_named(hostile, failure.message)
    assert not (out / "config.json").exists()


@pytest.mark.parametrize("hostile", FAILED.values(), ids=FAILED)
def test_the_checks_fail(hostile: Hostile, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile.change(model)
    out = tmp_path / "out"
    status = _main.run(partial(verify.main, ["--checkpoint", str(model), "--output", str(out)]))
    failure = _failure(capsys)
    assert (status, failure.code) == (CHECK_FAILED, "CHECK_FAILED"), failure
    _require_named(hostile, failure.message)
    assert not read_json(out / "quality.json")["passed"]


def test_a_sound_checkpoint_is_accepted(model: Path, tmp_path: Path) -> None:
    assert _main.run(partial(quantize.main, ["--checkpoint", str(model), "--output", str(tmp_path / "out")])) == 0
    for folder in ("model", "out"):
        checked = ["--checkpoint", str(tmp_path / folder), "--output", str(tmp_path / "checked")]
        assert _main.run(partial(verify.main, checked)) == 0


def test_there_are_many() -> None:
    assert len(HOSTILE) > 100
