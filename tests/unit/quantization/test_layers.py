"""Layers are read, run and encoded side by side: in order, a bounded number of them, and with the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import CheckpointError, DiskFullError
from orchestrator.events import Event, Progress
from orchestrator.quantization import calibrated, resources
from orchestrator.quantization.activation_probe import Measured
from orchestrator.quantization.layers import Layers
from orchestrator.quantization.pipeline import AtOnce, Encoding, WriteBehind
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.report import FILE, Report
from orchestrator.quantization.residence import OnProcessor
from orchestrator.quantization.resources import LAYERS, Way
from orchestrator.quantization.samples import random_batches
from orchestrator.quantization.scratch import Scratch
from orchestrator.quantization.writer import CheckpointWriter

_SECONDS = 10
"""The longest wait for a thread."""


def _layers(count: int, most: int, arrived: threading.Semaphore, read: list[int]) -> Layers:
    def reader(number: int) -> dict[str, Any]:
        read.append(number)
        arrived.release()
        return {"number": number}

    return Layers(range(count), reader, most)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_layers_are_in_memory_than_allowed(most: int) -> None:
    read: list[int] = []
    arrived = threading.Semaphore(0)
    with _layers(9, most, arrived, read) as layers:
        for taken, (number, tensors) in enumerate(layers):
            for _ in range(most if not taken else 1 if taken + most <= 9 else 0):
                assert arrived.acquire(timeout=_SECONDS)
            assert tensors == {"number": number}
            assert read == list(range(min(9, taken + most)))
            layers.let_go()
    assert read == list(range(9))


def test_until_the_first_layer_is_taken_one_fewer_is_read() -> None:
    read: list[int] = []
    arrived = threading.Semaphore(0)
    with _layers(9, 3, arrived, read):
        assert arrived.acquire(timeout=_SECONDS)
        assert arrived.acquire(timeout=_SECONDS)
        assert not arrived.acquire(timeout=0.1)
    assert read == [0, 1]


def test_leaving_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with _layers(9, 2, threading.Semaphore(0), []) as layers:
        next(iter(layers))
    assert threading.active_count() == before


# --- a whole checkpoint, with a device that is a stand-in ------------------------------------------------------------


@dataclass
class _Device(OnProcessor):
    """Encodes in a thread of its own, as a GPU's residence does, and says what happens when."""

    events: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    most: int = 0
    fails: Callable[[str], None] = lambda _: None

    def take_in(self, names: Sequence[str]) -> dict[str, Any]:
        self.fails(f"read {names[0]}")
        self.held.add(names[0])
        self.most = max(self.most, len(self.held))
        self.events.append(f"read {names[0]}")
        return {name: np.array(tensor) for name, tensor in super().take_in(names).items()}

    def let_go(self, names: Sequence[str]) -> None:
        super().let_go(names)
        self.held.remove(names[0])

    def put_out(self, name: str, rows: NDArray[Any], first: int = 0) -> None:
        self.fails(f"write {name} in {threading.current_thread().name}")
        super().put_out(name, rows, first)

    def encoding(self, *, beside: bool) -> Encoding:
        return WriteBehind(1, "encode") if beside else AtOnce()


@dataclass
class _Run:
    """One run over a checkpoint whose layers are measured already."""

    source: Path
    output: Path
    fails: Callable[[str], None] = lambda _: None
    device: _Device | None = None
    progress: list[str] = field(default_factory=list)

    def __call__(self, monkeypatch: pytest.MonkeyPatch, layers: int) -> dict[str, bytes]:
        monkeypatch.setattr(calibrated, "load_torch", SimpleNamespace)
        monkeypatch.setattr(resources, "decide", lambda *_, **__: Way(layers, spill=False))
        monkeypatch.setattr(calibrated, "residence", self._residence)
        plan = Plan.make(self.source, scheme_named("nvfp4"))
        scratch = Scratch[Measured](None, "work", [_measured(plan, number) for number in plan.layers])
        scratch.done = len(plan.layers)
        report = Report("nvfp4", "none")
        how = calibrated.Settings()
        batches = random_batches(8, 1, 4)
        calibrated.write_quantized(plan, self.output, batches, scratch, how=how, report=report, observer=self._observe)
        found = {file.name: file.read_bytes() for file in self.output.iterdir()}
        return {**found, FILE: repr(report.document()).encode()}

    def _residence(self, plan: Plan, writer: CheckpointWriter, behind: WriteBehind, _: str) -> _Device:
        self.device = _Device(plan, writer, behind, fails=self.fails)
        return self.device

    def _observe(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.progress.append(event.note.split(",")[0])


def _measured(plan: Plan, number: int) -> Measured:
    prefix = f"{plan.stack}.{number}."
    names = [name for unit in plan.layers[number] for name in unit if plan.quantizes(name)]
    return Measured({name.removeprefix(prefix).removesuffix(".weight"): 1.5 + number for name in names})


def test_the_bytes_are_the_same_however_many_layers_are_in_memory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [_Run(tiny, tmp_path / str(layers))(monkeypatch, layers) for layers in range(1, LAYERS + 1)]
    assert len(found[0]) > 3
    assert found[0] == found[1] == found[2]


def test_layers_are_read_and_reported_in_order_and_none_stays(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    run = _Run(tiny, tmp_path / "out")
    run(monkeypatch, LAYERS)
    assert run.device is not None
    layers = [event.split(".layers.")[1].split(".")[0] for event in run.device.events]
    assert layers == [note.rpartition(".")[2] for note in run.progress] == sorted(layers, key=int)
    assert not run.device.held
    assert run.device.most <= LAYERS
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("read model.layers.1.", CheckpointError),
        ("write model.layers.0.", DiskFullError),
        ("write lm_head", DiskFullError),
        ("write model.layers.0.", KeyboardInterrupt),
    ],
)
def test_an_error_in_a_thread_is_the_one_that_is_raised(
    where: str, error: type[BaseException], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(event: str) -> None:
        if event.startswith(where):
            raise error(where)

    before = threading.active_count()
    run = _Run(tiny, tmp_path / "out", fails)
    with pytest.raises(error, match=where):
        run(monkeypatch, LAYERS)
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert threading.active_count() == before
