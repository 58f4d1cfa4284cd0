from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.executors.job import Inside, Job, Mount
from orchestrator.executors.process import ProcessExecutor

JOB = Job(
    step="quantize",
    key="0" * 64,
    recipe="tiny",
    argv=("python3", "-m", "orchestrator.payloads.quantize", Inside("/model", "shards"), Inside("/out")),
    output=Path("/attempt/out"),
    mounts=(Mount(Path("/store/weights"), "/model"),),
    environment={"MODEL": Inside("/model")},
)


def test_the_line_to_paste_names_the_places_of_this_machine() -> None:
    line = ProcessExecutor({}).command_line(JOB)
    assert line[:3] == ("env", "-C", "/attempt/out")
    assert line[3].startswith("PYTHONPATH=/")
    assert line[4:] == (
        "MODEL=/store/weights",
        sys.executable,
        *("-m", "orchestrator.payloads.quantize", "/store/weights/shards", "/attempt/out"),
    )


def test_a_program_that_is_not_here_is_refused_before_anything_is_spent() -> None:
    with pytest.raises(MachineError, match="trtllm-build is not on this machine") as refused:
        ProcessExecutor({"PATH": "/nowhere"}).check(replace(JOB, argv=("trtllm-build",)))
    assert "--executor docker" in refused.value.hint


def test_this_python_is_always_here() -> None:
    ProcessExecutor({"PATH": "/nowhere"}).check(JOB)
