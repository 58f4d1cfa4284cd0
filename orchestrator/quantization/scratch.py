"""How far a calibrated quantization is, noted so that it can go on after it was killed.

Noted are the largest magnitudes of all layers so far, a few kilobytes, and what flows into the next layer. Weights are
not: encoding them again takes little beside running the model, and gives the same bytes. A note counts only if it is
whole (its digest says so) and belongs to the same work (its fingerprint does); otherwise the work starts over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.model import Measured
from orchestrator.quantization.tensors import DTYPES, TensorSpec
from orchestrator.quantization.writer import CheckpointWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.samples import Batch

_FORMAT = 1
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
    _hidden: str | None = None

    @classmethod
    def open(cls, folder: Path | None, work: str) -> Scratch:
        """Read the note of an earlier run of the same work, if there is a whole one."""
        made = cls(folder, work)
        if folder is None or not (folder / _NOTE).is_file():
            return made
        try:
            note = read_json(folder / _NOTE)
            measured = [Measured(**layer) for layer in note["measured"]]
            whole = note["hidden"] is None or _digest(folder / note["hidden"]) == note["sha256"]
        except (CheckpointError, KeyError, TypeError, OSError):
            return made
        if whole and note.get("fingerprint") == work:
            made.measured, made.done, made._hidden = measured, len(measured), note["hidden"]
        return made

    def hidden(self) -> list[NDArray[Any]]:
        """Return what flows into the next layer, an array for each batch."""
        assert self.folder is not None  # noqa: S101 - something was read from it
        assert self._hidden is not None  # noqa: S101 - the last layer's note, which has none, needs none
        kept = Checkpoint.open(self.folder / self._hidden)
        return [kept.read(f"{number}") for number in range(len(kept.tensors))]

    def save(self, hidden: Sequence[NDArray[Any]]) -> None:
        """Note all layers measured so far, and what flows into the next one; nothing after the last."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"hidden-{len(self.measured):05d}" if hidden else None
        if name:
            _write(self.folder / name, hidden)
        note = {
            "fingerprint": self.fingerprint,
            "measured": [asdict(layer) for layer in self.measured],
            "hidden": name,
            "sha256": _digest(self.folder / name) if name else None,
        }
        partial = self.folder / f"{_NOTE}.part"
        write_json(partial, note)
        partial.replace(self.folder / _NOTE)
        for other in self.folder.glob("hidden-*"):
            if other.name != name:
                shutil.rmtree(other, ignore_errors=True)


def _write(folder: Path, hidden: Sequence[NDArray[Any]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    names = {dtype: name for name, dtype in DTYPES.items()}
    specs = [TensorSpec(f"{number}", names[array.dtype], array.shape) for number, array in enumerate(hidden)]
    with CheckpointWriter(folder, [specs]) as writer:
        for spec, array in zip(specs, hidden, strict=True):
            writer.write(spec.name, array)


def _digest(folder: Path) -> str:
    with (folder / "model.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
