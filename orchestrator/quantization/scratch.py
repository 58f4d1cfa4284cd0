"""Saves the state of a pass over a model's layers, so that it can continue after a kill.

Saved are the findings in all layers so far, a few kilobytes, the importance of their inputs if it is used, and the
hidden states for the next layer. Weights are not saved: encoding them again takes little time beside running the model,
and gives the same bytes. Only those that GPTQ rounded are: to round them again would need the products of their inputs.
A saved state counts only if it is complete (by its digests) and of the same work (by its fingerprint). Otherwise the
work starts over.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.libraries import installed
from orchestrator.quantization.files import give_back, read_json, write_json
from orchestrator.quantization.tensors import DTYPES
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.samples import Batch

Found = TypeVar("Found", bound="DataclassInstance")
"""The findings in one layer: a dataclass of numbers, strings and nested ones."""

_FORMAT = 4
"""The version of the saved state. A key's state may be older than the code, so raise it if the meaning changes."""
_NOTE = "progress.json"


def fingerprint(plan: Plan, batches: Sequence[Batch], device: str, *more: Checkpoint) -> str:
    """Calculate the work's fingerprint: equal if the findings in every layer are equal.

    Args:
        plan: The model that runs.
        batches: Its batches.
        device: As torch names it.
        more: Other checkpoints that the result depends on.
    """
    digest = hashlib.sha256()
    tensors = [_described(checkpoint) for checkpoint in (plan.checkpoint, *more)]
    versions = [installed(name) for name in ("torch", "transformers")]
    digest.update(json.dumps([_FORMAT, plan.config, tensors, versions, device], sort_keys=True).encode())
    for batch in batches:
        digest.update(f"{batch.tokens.shape}".encode() + batch.tokens.tobytes() + batch.mask.tobytes())
    return digest.hexdigest()


def _described(checkpoint: Checkpoint) -> list[Any]:
    """List a checkpoint's tensors, and its files' times. A fingerprint does not read their bytes."""
    tensors = checkpoint.tensors.values()
    written = {tensor.file.name: tensor.file.stat().st_mtime_ns for tensor in tensors}
    return [[[t.name, t.dtype, t.shape, t.file.name, t.begin] for t in tensors], written]


@dataclass
class Scratch(Generic[Found]):
    """The saved state and its folder. Without a folder nothing is saved."""

    folder: Path | None
    fingerprint: str
    measured: list[Found] = field(default_factory=list)
    done: int = 0
    """How many layers the loaded state has."""
    _hidden: _Arrays | None = None
    _inputs: list[_Inputs | Mapping[str, NDArray[Any]]] = field(default_factory=list)
    """What was kept of each layer: a file, or without a folder arrays."""
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: Path | None, work: str, restored: Callable[[Mapping[str, Any]], Found]) -> Scratch[Found]:
        """Load the state of an earlier run of the same work, if there is a complete one.

        Args:
            folder: The folder of the state.
            work: Its `fingerprint`.
            restored: Makes findings of the output of `dataclasses.asdict`.
        """
        made = cls(folder, work)
        if folder is None:
            return made
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _NOTE).is_file():
            return made
        try:
            note = read_json(folder / _NOTE)
            if note.pop("sha256") != _sealed(note) or note["fingerprint"] != work:
                return made
            measured = [restored(layer) for layer in note["measured"]]
            hidden = None if note["hidden"] is None else _Arrays(**note["hidden"])
            inputs = [_Inputs(one["modules"], _Arrays(**one["arrays"])) for one in note.get("inputs", [])]
            files = [one.arrays for one in inputs] + ([hidden] if hidden else [])
            whole = all(_digest(folder / one.file) == one.sha256 for one in files)
        except (CheckpointError, KeyError, TypeError, OSError):
            return made
        if whole:
            made.measured, made.done, made._hidden = measured, len(measured), hidden
            made._inputs.extend(inputs)
        return made

    def hidden(self) -> Iterator[NDArray[Any]]:
        """Yield the hidden states for the next layer, an array for each batch."""
        assert self.folder is not None  # noqa: S101 - something was read from it
        assert self._hidden is not None  # noqa: S101 - the last layer has no hidden states to save
        yield from self._hidden.read(self.folder)

    def keep(self, found: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays of the layer that is measured next, by name: the importance of inputs, or rounded weights.

        They are in a file of their own that is written once, because they are too large to write again every minute.
        """
        if self.folder is None:
            self._inputs.append(found)
            return
        modules: dict[int, list[str]] = {}
        for module, array in found.items():
            modules.setdefault(id(array), []).append(module)
        arrays = [found[names[0]] for names in modules.values()]
        written = _write(self.folder / f"inputs-{len(self._inputs):05d}", arrays)
        self._inputs.append(_Inputs(list(modules.values()), written))

    def taken(self, position: int) -> Mapping[str, NDArray[Any]]:
        """Return what was kept of a layer; nothing if nothing was. Memory keeps it no longer, a file does."""
        if position >= len(self._inputs):
            return {}
        inputs = self._inputs[position]
        if not isinstance(inputs, _Inputs):
            self._inputs[position] = {}
            return inputs
        assert self.folder is not None  # noqa: S101 - it was written to it
        arrays = inputs.arrays.read(self.folder)
        return {module: array for names, array in zip(inputs.modules, arrays, strict=True) for module in names}

    def is_due(self, seconds: float) -> bool:
        """Tell whether enough seconds have passed since the last save."""
        return time.monotonic() - self._saved >= seconds

    def save(self, hidden: Iterable[NDArray[Any]]) -> None:
        """Save all layers so far, and the hidden states for the next one, if any."""
        if self.folder is None:
            return
        written = _write(self.folder / f"hidden-{len(self.measured):05d}", hidden)
        note = {
            "fingerprint": self.fingerprint,
            "measured": [asdict(layer) for layer in self.measured],
            "hidden": asdict(written) if written.arrays else None,
            "inputs": [asdict(one) for one in self._inputs if isinstance(one, _Inputs)],
        }
        partial = self.folder / f"{_NOTE}.part"
        write_json(partial, {"sha256": _sealed(note), **note})
        partial.replace(self.folder / _NOTE)
        for other in self.folder.glob("hidden-*"):
            if not written.arrays or other.name != written.file:
                other.unlink()
        self._saved = time.monotonic()


@frozen
class _Arrays:
    """A file of arrays, one after the other."""

    file: str
    sha256: str
    arrays: list[tuple[str, list[int]]]
    """Type and shape of each."""

    def read(self, folder: Path) -> Iterator[NDArray[Any]]:
        """Yield the arrays."""
        with (folder / self.file).open("rb") as stream:
            for dtype, shape in self.arrays:
                kind = DTYPES[dtype]
                data = bytearray(stream.read(math.prod(shape) * kind.itemsize))
                yield np.frombuffer(data, kind).reshape(shape)


@frozen
class _Inputs:
    """The importance of a layer's inputs in a file."""

    modules: list[list[str]]
    """The modules of each array."""
    arrays: _Arrays


def _write(file: Path, hidden: Iterable[NDArray[Any]]) -> _Arrays:
    """Write arrays, one at a time, and flush them to disk."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    digest, arrays = hashlib.sha256(), []
    with file.open("wb") as stream:
        for array in hidden:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            digest.update(data.data)
            stream.write(data.data)
            arrays.append((names[array.dtype], list(array.shape)))
        stream.flush()
        os.fsync(stream.fileno())
        give_back(stream.fileno(), 0, 0)
    return _Arrays(file.name, digest.hexdigest(), arrays)


def _sealed(note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
