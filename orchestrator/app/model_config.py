"""Reads and checks a model's config.json and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigInvalidError
from orchestrator.planner.scheme import Scheme, scheme_of_quant_config

LARGEST = 64_000_000
"""Bytes. Real config.json files are much smaller, even with a list of all experts."""


def read_object(file: Path) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        ConfigInvalidError: The file contains no object.
    """
    try:
        if file.stat().st_size > LARGEST:
            message = f"{file}: found {file.stat().st_size} bytes, expected a configuration of at most {LARGEST}"
            raise ConfigInvalidError(message)
        found = json.loads(file.read_bytes())
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


def an_object(found: object, where: str) -> dict[str, Any]:
    """Check that a value is an object.

    Raises:
        ConfigInvalidError: It is something else.
    """
    if not isinstance(found, dict):
        message = f"{where}: found a {type(found).__name__}, expected an object"
        raise ConfigInvalidError(message)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = f"{where}: found {error.object[error.start]!a} in a name or text, which is half of a character"
        raise ConfigInvalidError(message) from None
    return found


def declared_inside(config: Mapping[str, Any], where: str) -> Scheme | None:
    """Read `quantization_config` of a config.json; None if there is none."""
    inside = config.get("quantization_config")
    if inside is None:
        return None
    return scheme_of_quant_config(an_object(inside, f"{where}: quantization_config"), f"quantization_config of {where}")


def declared_beside(folder: Path) -> Scheme | None:
    """Read a folder's hf_quant_config.json; None if there is none."""
    file = folder / "hf_quant_config.json"
    return scheme_of_quant_config(read_object(file), str(file)) if file.is_file() else None
