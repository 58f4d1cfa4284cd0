"""Reads a model's configurations and headers: from a folder, from the Hub, or as an earlier command read them there."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from orchestrator.app.commits import known_commits, name_of, remember_commit
from orchestrator.app.settings import Settings
from orchestrator.errors import BadInputError, ConfigInvalidError, OrchestratorError
from orchestrator.hub.patterns import is_commit
from orchestrator.models import ModelShape
from orchestrator.models.files import CONFIG, QUANT_CONFIG, ModelFiles, an_object
from orchestrator.models.headers import Stored, header_length, joined, parse
from orchestrator.models.weight_files import INDEX, own_weights
from orchestrator.store.temporary import replacing

_LARGEST = 64_000_000
"""Bytes. Real config.json files are much smaller, even with a list of all experts."""


def read_object(file: Path) -> dict[str, object]:
    """Read an object from a JSON file.

    Raises:
        ConfigInvalidError: The file contains no object.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            message = f"{file}: not an ordinary file; a pipe or a device may have no end"
            raise ConfigInvalidError(message, hint="give a config.json, or a folder that has one")
        if file.stat().st_size > _LARGEST:
            message = f"{file}: found {file.stat().st_size} bytes, expected a configuration of at most {_LARGEST}"
            raise ConfigInvalidError(message)
        found = json.loads(file.read_text(encoding="utf-8"))  # bytes may be UTF-16 for json
    except FileNotFoundError:
        message = f"{file} is missing"
        raise ConfigInvalidError(message, hint="give a config.json, or a folder that has one") from None
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise ConfigInvalidError(message, hint="give a config.json, or a folder that has one") from None
    except (ValueError, RecursionError) as error:
        message = f"{file}: not JSON: {error}"
        raise ConfigInvalidError(message) from None
    return an_object(found, str(file))


def local_files(place: Path) -> ModelFiles:
    """Read a checkpoint's folder, or a config.json without weights.

    Raises:
        ConfigInvalidError: A configuration is missing or no object.
        CheckpointError: A header contradicts itself, its file or the index.
    """
    if not place.is_dir():
        return ModelFiles(str(place), read_object(place), is_excerpt=True)
    config, beside = read_object(place / CONFIG), place / QUANT_CONFIG
    quantization = read_object(beside) if beside.is_file() else None
    return ModelFiles.of(str(place / CONFIG), config, quantization, _headers(place))


def _headers(folder: Path) -> dict[str, Stored] | None:
    """Read the headers of the model's own weights; None if it has none."""
    index = read_object(folder / INDEX) if (folder / INDEX).is_file() else None
    own = own_weights({path.name for path in folder.iterdir()}, lambda: index, str(folder))
    return joined(((name, _header(folder / name)) for name in sorted(own)), index, str(folder)) if own else None


def _header(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = header_length(stream.read(32), size, str(file))
        stream.seek(8)
        return parse(stream.read(length), str(file), size - 8 - length)


def counted_shape(folder: Path) -> ModelShape | None:
    """Count a checkpoint's tensors by its headers; None if it has none, or is not of a language model."""
    with suppress(BadInputError):
        files = local_files(folder)
        return files.shape if files.weights else None
    return None


def hub_files(settings: Settings, repo: str, revision: str = "main") -> ModelFiles:
    """Read a repository on the Hub. What was read is kept in the store, by commit.

    Raises:
        HubError: One of its kinds.
        ConfigInvalidError: A configuration is not an object.
        CheckpointError: A file's content does not fit its name.
        ModelUnsupportedError: Its weights are GGUF files.
    """
    from orchestrator.hub.headers import look_at  # noqa: PLC0415 - loads the Hub's client
    from orchestrator.hub.snapshot import resolve_commit  # noqa: PLC0415 - as above

    commit = resolve_commit(repo, revision)
    found = remembered_files(settings, repo, commit)
    if found is None:
        found = look_at(repo, commit)
        with suppress(OSError, OrchestratorError):  # a store that cannot be written is no reason to fail
            file = _remembered(settings, repo, commit)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as fresh:
                fresh.write_text(json.dumps(found.to_document()), encoding="utf-8")
            if not is_commit(revision):
                remember_commit(settings.store.root, repo, revision, commit)
    return found


def remembered_files(settings: Settings, repo: str, revision: str) -> ModelFiles | None:
    """Return what an earlier command read of a repository; None if it is not in the store, or damaged."""
    commit = revision if is_commit(revision) else known_commits(settings.store.root).get(name_of(repo, revision), "")
    try:
        document = json.loads(_remembered(settings, repo, commit).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return ModelFiles.from_document(document, f"{repo}@{commit[:12]}", commit)


def _remembered(settings: Settings, repo: str, commit: str) -> Path:
    return settings.store.root / "models" / f"{repo.replace('/', '--')}@{commit}.json"
