"""Reads small files that people write, and turns the operating system's errors into ours."""

from __future__ import annotations

from pathlib import Path

from orchestrator.documents.yaml_text import MAX_BYTES, Document, parse
from orchestrator.errors import BadInputError, NoPermissionError


def read_document(file: Path, missing: type[BadInputError], hint: str = "") -> Document:
    """Read and parse one YAML file.

    Args:
        file: The file.
        missing: The class to raise if the file is missing.
        hint: What to do then.
    """
    if file.exists() and not file.is_file():
        found = "a folder" if file.is_dir() else "a pipe or a device, which may have no end"
        message = f"{file}: not an ordinary file but {found}"
        raise missing(message, hint=hint)
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)  # one more than allowed, so that a huge file is never read whole
    except PermissionError as error:
        message = f"{file}: no permission to read it"
        raise NoPermissionError(message, hint=f"give yourself access: chmod u+r {file}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{file}: there is no such file"
        raise missing(message, hint=hint) from error
    return parse(text, file)
