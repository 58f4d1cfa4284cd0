"""Reads the configuration file of a runtime, and writes a changed copy of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import DocumentError, MachineError
from .starting import ConfigChanges


def write_config(config: ConfigChanges, folder: Path) -> Path:
    """Write the configuration file with its changes into a folder; without changes the bundle's own is used.

    Raises:
        DocumentError: The file cannot be read.
        MachineError: PyYAML is missing.
    """
    if not config.changes:
        return config.file
    document = read_config(config.file)
    for key, value in config.changes.items():
        place = document
        for part in key[:-1]:
            if place.get(part) is None:  # an empty section is null
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                message = f"{config.file}: {part}: expected a mapping"
                raise DocumentError(message)
        place[key[-1]] = value
    changed = folder / config.file.name
    changed.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
    return changed


def read_config(file: Path) -> dict[str, Any]:
    """Read it.

    Raises:
        DocumentError: The file cannot be read.
        MachineError: PyYAML is missing.
    """
    try:
        import yaml  # noqa: PLC0415 - the runtime's image has it; needed for changes only
    except ImportError as error:
        message = f"PyYAML is missing, which is needed to change {file}: change the file instead"
        raise MachineError(message) from error
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        message = f"cannot read {file}: {error}"
        raise DocumentError(message) from error
    if not isinstance(found, dict):
        message = f"{file}: expected a mapping"
        raise DocumentError(message)
    return found
