"""How far a walk over a model's layers is, noted so that it can go on after it was killed.

Noted are what was found in all layers so far, a few kilobytes, and what flows into the next layer. Weights are not:
encoding them again takes little beside running the model, and gives the same bytes. A note counts only if it is whole
(its digests say so) and belongs to the same work (its fingerprint does); otherwise the work starts over.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization.files import give_back, read_json, write_json
from orchestrator.quantization.tensors import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.samples import Batch

Found = TypeVar("Found", bound="DataclassInstance")
"""What was found in one layer: a dataclass of numbers, texts and more of them."""

_FORMAT = 3
"""Raised when what is noted means something else: the notes of a key outlive the code that wrote them."""
_NOTE = "progress.json"


def fingerprint(plan: Plan, batches: Sequence[Batch], device: str, *more: Checkpoint) -> str:
    """Name the work: equal where what is found in every layer is.

    Args:
        plan: The model that runs.
        batches: What runs through it.
        device: As torch names it.
        more: Checkpoints that decide as well.
    """
    digest = hashlib.sha256()
    tensors = [_described(checkpoint) for checkpoint in (plan.checkpoint, *more)]
    versions = [_version(name) for name in ("torch", "transformers")]
    digest.update(json.dumps([_FORMAT, plan.config, tensors, versions, device], sort_keys=True).encode())
    for batch in batches:
        digest.update(f"{batch.tokens.shape}".encode() + batch.tokens.tobytes() + batch.mask.tobytes())
    return digest.hexdigest()


def _described(checkpoint: Checkpoint) -> list[Any]:
    """List a checkpoint's tensors, and when its files were written: their bytes are not read for a fingerprint."""
    tensors = checkpoint.tensors.values()
    written = {tensor.file.name: tensor.file.stat().st_mtime_ns for tensor in tensors}
    return [[[t.name, t.dtype, t.shape, t.file.name, t.begin] for t in tensors], written]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


@dataclass
class Scratch(Generic[Found]):
    """What is noted, and where; without a folder nothing is kept."""

    folder: Path | None
    fingerprint: str
    measured: list[Found] = field(default_factory=list)
    done: int = 0
    """How many layers were measured when the note was read."""
    _hidden: _Hidden | None = None
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: Path | None, work: str, restored: Callable[[Mapping[str, Any]], Found]) -> Scratch[Found]:
        """Read the note of an earlier run of the same work, if there is a whole one.

        Args:
            folder: Where notes are.
            work: Its `fingerprint`.
            restored: Makes what was found in a layer of what `dataclasses.asdict` made of it.
        """
        made = cls(folder, work)
        if folder is None or not (folder / _NOTE).is_file():
            return made
        try:
            note = read_json(folder / _NOTE)
            if note.pop("sha256") != _sealed(note) or note["fingerprint"] != work:
                return made
            measured = [restored(layer) for layer in note["measured"]]
            hidden = None if note["hidden"] is None else _Hidden(**note["hidden"])
            whole = hidden is None or _digest(folder / hidden.file) == hidden.sha256
        except (CheckpointError, KeyError, TypeError, OSError):
            return made
        if whole:
            made.measured, made.done, made._hidden = measured, len(measured), hidden
        return made

    def hidden(self) -> Iterator[NDArray[Any]]:
        """Yield what flows into the next layer, an array for each batch."""
        assert self.folder is not None  # noqa: S101 - something was read from it
        assert self._hidden is not None  # noqa: S101 - the last layer's note, which has none, needs none
        with (self.folder / self._hidden.file).open("rb") as stream:
            for dtype, shape in self._hidden.arrays:
                kind = DTYPES[dtype]
                data = bytearray(stream.read(math.prod(shape) * kind.itemsize))
                yield np.frombuffer(data, kind).reshape(shape)

    def is_due(self, seconds: float) -> bool:
        """Tell whether so many seconds went by since the last note."""
        return time.monotonic() - self._saved >= seconds

    def save(self, hidden: Iterable[NDArray[Any]]) -> None:
        """Note all layers measured so far, and what flows into the next one; nothing after the last."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        written = _write(self.folder / f"hidden-{len(self.measured):05d}", hidden)
        note = {
            "fingerprint": self.fingerprint,
            "measured": [asdict(layer) for layer in self.measured],
            "hidden": asdict(written) if written.arrays else None,
        }
        partial = self.folder / f"{_NOTE}.part"
        write_json(partial, {"sha256": _sealed(note), **note})
        partial.replace(self.folder / _NOTE)
        for other in self.folder.glob("hidden-*"):
            if not written.arrays or other.name != written.file:
                other.unlink()
        self._saved = time.monotonic()


@dataclass(frozen=True)
class _Hidden:
    """A file of arrays, one after the other."""

    file: str
    sha256: str
    arrays: list[tuple[str, list[int]]]
    """Type and shape of each."""


def _write(file: Path, hidden: Iterable[NDArray[Any]]) -> _Hidden:
    """Write arrays, one at a time, and make them durable."""
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
    return _Hidden(file.name, digest.hexdigest(), arrays)


def _sealed(note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
