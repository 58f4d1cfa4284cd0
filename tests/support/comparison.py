"""Compares the tensors of two checkpoints byte by byte."""

from __future__ import annotations

from pathlib import Path

from orchestrator.quantization.checkpoint import Checkpoint


def differences(one: Path, other: Path) -> list[str]:
    first, second = Checkpoint.open(one), Checkpoint.open(other)
    names = first.tensors.keys() | second.tensors.keys()
    return sorted(name for name in names if described(first, name) != described(second, name))


def differences_beyond_stored_types(folder: Path, source: Path) -> list[str]:
    """Leave out tensors that ModelOpt writes in another type than the source's, with the source's numbers.

    What is not quantized has the source's type in ours. ModelOpt writes the type in which transformers holds it, which
    is another one in other versions.
    """
    original, ours, theirs = (Checkpoint.open(place) for place in (source, folder / "ours", folder / "theirs"))

    def is_only_stored_otherwise(name: str) -> bool:
        if name not in original.tensors or name not in theirs.tensors or f"{name}_scale" in ours.tensors:
            return False
        as_theirs = original.read(name).astype(theirs.read(name).dtype)
        kept = described(ours, name) == described(original, name)
        return kept and theirs.read(name).tobytes() == as_theirs.tobytes()

    return [name for name in differences(folder / "ours", folder / "theirs") if not is_only_stored_otherwise(name)]


def described(checkpoint: Checkpoint, name: str) -> tuple[str, tuple[int, ...], bytes] | None:
    tensor = checkpoint.tensors.get(name)
    return None if tensor is None else (tensor.dtype, tensor.shape, checkpoint.read(name).tobytes())
