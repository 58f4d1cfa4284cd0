"""How far a calibrated quantization is, noted so that it can go on after it was killed.

Noted are the largest magnitudes of all layers so far, a few kilobytes, and what flows into the next layer. Weights are
not: encoding them again takes little beside running the model, and gives the same bytes. A note counts only if it is
whole (its digest says so) and belongs to the same work (its fingerprint does); otherwise the work starts over.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization.files import give_back, read_json, write_json
from orchestrator.quantization.tensors import DTYPES
from orchestrator.quantization.watch import Measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.samples import Batch

_FORMAT = 2
_NOTE = "progress.json"


def fingerprint(plan: Plan, batches: Sequence[Batch], device: str) -> str:
    """Name the work: equal where the magnitudes of every layer are."""
    digest = hashlib.sha256()
    tensors = [[t.name, t.dtype, t.shape, t.file.name, t.begin] for t in plan.checkpoint.tensors.values()]
    versions = [_version(name) for name in ("torch", "transformers")]
    digest.update(json.dumps([_FORMAT, plan.config, tensors, versions, device], sort_keys=True).encode())
    for batch in batches:
        digest.update(f"{batch.tokens.shape}".encode() + batch.tokens.tobytes() + batch.mask.tobytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


@dataclass
class Scratch:
    """What is noted, and where; without a folder nothing is kept."""

    folder: Path | None
    fingerprint: str
    measured: list[Measured] = field(default_factory=list)
    done: int = 0
    """How many layers were measured when the note was read."""
    _hidden: _Hidden | None = None

    @classmethod
    def open(cls, folder: Path | None, work: str) -> Scratch:
        """Read the note of an earlier run of the same work, if there is a whole one."""
        made = cls(folder, work)
        if folder is None or not (folder / _NOTE).is_file():
            return made
        try:
            note = read_json(folder / _NOTE)
            measured = [Measured(**layer) for layer in note["measured"]]
            hidden = None if note["hidden"] is None else _Hidden(**note["hidden"])
            whole = hidden is None or _digest(folder / hidden.file) == hidden.sha256
        except (CheckpointError, KeyError, TypeError, OSError):
            return made
        if whole and note.get("fingerprint") == work:
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
        write_json(partial, note)
        partial.replace(self.folder / _NOTE)
        for other in self.folder.glob("hidden-*"):
            if not written.arrays or other.name != written.file:
                other.unlink()


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


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
