"""Expands images.yaml: images that extend others, and faults by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from orchestrator.documents.yaml_text import Data, Document, KeyPath
from orchestrator.errors import CatalogError
from orchestrator.values import frozen

Table = Mapping[str, Data]


@frozen
class Layer:
    """The images of a file and of those below it, each with its `extends`. Their faults are names."""

    images: Table = field(default_factory=dict)
    faults: Table = field(default_factory=dict)


def resolve(document: Document, below: Layer) -> tuple[dict[str, Data], Layer]:
    """Return the complete entry of every image of a file, ready for validation.

    An image's `extends` names another image whose entry it inherits: mappings merge, lists and values are replaced.
    It finds images of its file first, then those below. Its own name means the one below. `faults` of an image are
    names from the file's own `faults` or those below. An unexpected shape is passed on unchanged, because
    validation has the better message.

    Args:
        document: The file.
        below: The layer below it.

    Returns:
        The file's own images, and the layer for a file above.

    Raises:
        CatalogError: An image extends a missing one or itself, or names an unknown fault.
    """
    rest = {key: value for key, value in document.data.items() if key != "faults"}
    own, faults = document.data.get("images"), document.data.get("faults", {})
    known = {**below.faults, **(faults if isinstance(faults, dict) else {})}
    if not isinstance(own, dict):
        return rest, Layer(below.images, known)
    extended = {name: _extended(document, own, below.images, name, ()) for name in own}
    whole = {name: _with_faults(document, name, entry, known) for name, entry in extended.items()}
    return {**rest, "images": whole}, Layer({**below.images, **extended}, known)


def _extended(document: Document, own: Table, below: Table, name: str, through: tuple[str, ...]) -> Data:
    entry = own[name]
    if not isinstance(entry, dict) or "extends" not in entry:
        return entry
    base, path = entry["extends"], ("images", name, "extends")
    changes: dict[str, Data] = {key: value for key, value in entry.items() if key != "extends"}
    if isinstance(base, str) and base in below and (base == name or base not in own):
        return _merged(below[base], changes)
    if not isinstance(base, str) or base not in own:
        raise _error(document, path, f"image `{name}` extends `{base}`, which is not here")
    if base in (name, *through):
        raise _error(document, path, f"image `{name}` extends itself by way of `{base}`")
    return _merged(_extended(document, own, below, base, (name, *through)), changes)


def _merged(base: Data, own: Data) -> Data:
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    return base | {key: _merged(base[key], value) if key in base else value for key, value in own.items()}


def _with_faults(document: Document, name: str, entry: Data, known: Table) -> Data:
    names = entry.get("faults") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(names, list):
        return entry
    for fault in names:
        if not isinstance(fault, str) or fault not in known:
            raise _error(document, ("images", name, "faults"), f"image `{name}` names an unknown fault `{fault}`")
    return {**entry, "faults": [known[str(fault)] for fault in names]}


def _error(document: Document, path: KeyPath, problem: str) -> CatalogError:
    position = next((document.positions[path[:end]] for end in (3, 2, 1) if path[:end] in document.positions), None)
    return CatalogError(f"{position}: {problem}" if position else problem)
