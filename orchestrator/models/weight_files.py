"""Decides which files of a folder or repository belong to a model, by their names and the index of its weights.

Runtimes read every `*.safetensors` file of a folder, so a file that does not belong to the model must not be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from orchestrator.errors import CheckpointError, PathEscapesError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_ENDING = ".safetensors"
_NUMBERED = re.compile(r"model-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_OTHER_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".onnx", ".h5", ".msgpack", ".npz")
"""Weights in other formats. transformers calls a pickle `.bin`."""
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.bin")
_SHOWN = 5


def named_files(index: object, where: str) -> Mapping[str, str]:
    """Read an index: the weight file of each tensor.

    Args:
        index: The content of `model.safetensors.index.json`.
        where: Its name, for messages.

    Raises:
        CheckpointError: It is no index, or names a file in another folder.
    """
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(shard, str) for shard in placed.values()):
        message = f"{where}: weight_map must be an object that gives each tensor's file, and must not be empty"
        raise CheckpointError(message)
    for shard in placed.values():
        if "/" in shard or "\0" in shard or not shard.endswith(_ENDING):
            message = f"{where}: found the file name {shard!r}, expected a safetensors file beside the index"
            raise CheckpointError(message)
    return placed


def own_weights(names: Collection[str], read_index: Callable[[], object], where: str) -> frozenset[str]:
    """Return the weight files of the model itself; none if the model has no weights in safetensors.

    Without an index this is `model.safetensors`, or else a complete set of numbered files.

    Args:
        names: Paths of all files, relative to the model's folder.
        read_index: Reads the content of the index. It is called if `names` has one.
        where: The model, for messages.

    Raises:
        CheckpointError: A file that the index or the numbers name is missing.
    """
    if INDEX in names:
        return _complete(names, named_files(read_index(), f"{where}: {INDEX}").values(), where, f"{INDEX} names")
    if SINGLE in names:
        return frozenset({SINGLE})
    counts = {int(found["count"]) for name in names if (found := _NUMBERED.fullmatch(name))}
    numbered = [f"model-{n:05d}-of-{count:05d}{_ENDING}" for count in counts for n in range(1, count + 1)]
    return _complete(names, numbered, where, "the numbers in the names of the files announce")


def _complete(names: Collection[str], expected: Iterable[str], where: str, who: str) -> frozenset[str]:
    shards = frozenset(expected)
    missing = sorted(shards.difference(names))
    if missing:
        there = ", ".join(_few(name for name in names if name.endswith(_ENDING))) or "no safetensors file"
        message = f"{where}: {who} {', '.join(_few(missing))}, which is missing; found {there}"
        raise CheckpointError(message, hint="Get the missing file, or use a revision that has it.")
    return shards


def unrelated_files(names: Collection[str], own: Collection[str]) -> frozenset[str]:
    """Return the files of other models: weights that are not `own`, their index, and folders that have weights.

    Args:
        names: Paths of all files, relative to the model's folder.
        own: The result of `own_weights`.
    """
    folders = {name.partition("/")[0] for name in names if "/" in name and _is_weights(name)}
    return frozenset(name for name in names if _is_unrelated(name, own, folders))


def _is_unrelated(name: str, own: Collection[str], folders: Collection[str]) -> bool:
    folder, separator, _ = name.partition("/")
    if separator:
        return folder in folders
    if name.endswith(_ENDING):
        return name not in own
    is_other_index = name.endswith(f"{_ENDING}.index.json") and name != INDEX
    return bool(own) and (is_other_index or name in _ADAPTER_FILES)


def _is_weights(name: str) -> bool:
    return name.endswith((_ENDING, *_OTHER_ENDINGS))


def require_no_link_out(folder: Path, files: Iterable[Path]) -> None:
    """Refuse links to files outside of a model's folder, such as a private key, which would be published with it.

    Files of the Hub's cache are links to `blobs` of the same repository.

    Args:
        folder: The model's folder.
        files: Paths of its files.

    Raises:
        PathEscapesError: Names the first such link.
    """
    root = folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    for file in files:
        target = file.resolve()
        if not (target.is_relative_to(root) or target.is_relative_to(blobs)):
            message = f"{file} is a link to {target}, which is outside of the model's folder"
            raise PathEscapesError(message, hint="put the file itself into the folder, or remove the link")


def kind_of_weights(names: Collection[str]) -> tuple[str, str]:
    """Describe a repository that has no weights of a model in safetensors.

    Args:
        names: Paths of all its files.

    Returns:
        What it has, and what to do instead.
    """
    for matches, kind, hint in _KINDS:
        found = _few(name for name in names if matches(PurePosixPath(name).name))
        if found:
            return f"{kind}: {', '.join(found)}", hint
    return "no weights", "name the repository of the model itself"


def _ends(*endings: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(endings)


_KINDS: tuple[tuple[Callable[[str], bool], str, str], ...] = (
    (
        lambda name: name.startswith("adapter_"),
        "an adapter (LoRA) only",
        "merge it into its base model, which adapter_config.json names, or use a repository with merged weights",
    ),
    (
        _ends(".gguf"),
        "weights in GGUF only",
        "name the repository that the GGUF files were made from; its model card says which",
    ),
    (
        lambda name: name.startswith("consolidated"),
        "consolidated files only, in the layout of the model's authors",
        "name a repository in the layout of transformers; its name often ends in -hf",
    ),
    (
        _ends(".bin", ".pt", ".pth", ".ckpt", ".pkl"),
        "pickles only, which can run code when they are loaded",
        "use a revision with safetensors, or convert it: save_pretrained of transformers writes them",
    ),
    (
        _ends(".onnx", ".h5", ".msgpack", ".npz"),
        "weights for other programs only",
        "name the repository of the model itself, with weights in safetensors",
    ),
    (
        _ends(_ENDING),
        "safetensors files only that no index names",
        f"the folder of a model has {SINGLE}, or {INDEX} with the files that it names",
    ),
)
"""What each file name tells of a repository, the most telling first."""


def _few(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    return found[:_SHOWN] + ["…"] * (len(found) > _SHOWN)
