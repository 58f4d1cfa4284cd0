"""What images.yaml abbreviates, written out: an image that extends another, and faults by name."""

from __future__ import annotations

from orchestrator.documents.yaml_text import Data, Document, KeyPath
from orchestrator.errors import CatalogError

Table = dict[str, Data]


def resolve(document: Document) -> Table:
    """Give every image its whole entry, ready for validation.

    An image's `extends` names another image whose entry it takes over: mappings merge, lists and values are replaced.
    `faults` of an image are names of the file's own `faults`. Whatever has an unexpected shape is passed on as it is:
    validation words that better.

    Raises:
        CatalogError: An image extends one that is not there or itself, or names an unknown fault.
    """
    images = document.data.get("images")
    if not isinstance(images, dict):
        return {key: value for key, value in document.data.items() if key != "faults"}
    whole = {name: _with_faults(document, name, _extended(document, images, name, ())) for name in images}
    return {**{key: value for key, value in document.data.items() if key != "faults"}, "images": whole}


def _extended(document: Document, images: Table, name: str, through: tuple[str, ...]) -> Data:
    entry = images[name]
    if not isinstance(entry, dict) or "extends" not in entry:
        return entry
    base = entry["extends"]
    if not isinstance(base, str) or base not in images:
        raise _error(document, ("images", name, "extends"), f"image `{name}` extends `{base}`, which is not here")
    if base in (name, *through):
        raise _error(document, ("images", name, "extends"), f"image `{name}` extends itself by way of `{base}`")
    own: Table = {key: value for key, value in entry.items() if key != "extends"}
    return _merged(_extended(document, images, base, (name, *through)), own)


def _merged(base: Data, own: Data) -> Data:
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    return base | {key: _merged(base[key], value) if key in base else value for key, value in own.items()}


def _with_faults(document: Document, name: str, entry: Data) -> Data:
    names = entry.get("faults") if isinstance(entry, dict) else None
    known = document.data.get("faults", {})
    if not isinstance(entry, dict) or not isinstance(names, list) or not isinstance(known, dict):
        return entry
    for fault in names:
        if not isinstance(fault, str) or fault not in known:
            raise _error(document, ("images", name, "faults"), f"image `{name}` names an unknown fault `{fault}`")
    return {**entry, "faults": [known[str(fault)] for fault in names]}


def _error(document: Document, path: KeyPath, problem: str) -> CatalogError:
    position = document.positions.get(path)
    return CatalogError(f"{position}: {problem}" if position else problem)
