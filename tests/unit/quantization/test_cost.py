"""What a quantization cost: told as an event, and never in what it leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.cost import Cost, watched
from orchestrator.quantization.onepass import quantize_checkpoint

_HELD = 64 << 20


def test_a_phase_that_is_come_to_again_counts_again() -> None:
    cost = Cost()
    cost.add("read", 1.5)
    with cost.phase("read"):
        pass
    cost.add("write", 2.0)
    told = cost.spent(3)
    assert 1.5 <= told.seconds["read"] < 60
    assert told.seconds["write"] == 2.0
    assert told.threads == 3


def test_the_peak_is_memory_of_the_process_that_was_there_for_a_moment() -> None:
    with watched() as before:
        pass
    with watched() as peak:
        held = np.ones(_HELD, np.uint8)
        peak.look()
        del held
    assert before.size + _HELD / 2 < peak.size


def test_files_that_are_mapped_are_no_memory_of_the_process(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.ones(_HELD, np.uint8))
    with watched() as peak:
        before = peak.size
        peak.look()
        at_first = peak.size
        assert int(np.load(tmp_path / "large.npy", mmap_mode="r").sum(dtype=np.int64)) == _HELD
        peak.look()
    assert before == 0
    assert peak.size < at_first + _HELD / 2


def test_what_weights_alone_cost_is_counted_in_bytes_of_tensors(tiny: Path, tmp_path: Path) -> None:
    found = quantize_checkpoint(tiny, tmp_path / "out")
    read, wrote = Checkpoint.open(tiny), Checkpoint.open(tmp_path / "out")
    assert found.bytes_read == sum(tensor.size for tensor in read.tensors.values())
    assert found.bytes_written == sum(tensor.size for tensor in wrote.tensors.values())
    assert set(found.seconds) == {"read", "encode", "write"}
    assert found.device == "cpu"


def test_what_is_too_large_to_keep_is_read_twice_and_counted_so(tiny: Path, tmp_path: Path) -> None:
    once = quantize_checkpoint(tiny, tmp_path / "once")
    twice = quantize_checkpoint(tiny, tmp_path / "twice", chunk_bytes=200)
    assert once.bytes_read < twice.bytes_read < 2 * once.bytes_read
    assert once.bytes_written == twice.bytes_written
