"""Take a local model folder into the store: by hard link if the file system allows, else by copy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress
from orchestrator.hub.fetch import link_or_copy
from orchestrator.hub.patterns import MODEL_FILES
from orchestrator.models.weight_files import INDEX, kind_of_weights, own_weights, require_no_link_out, unrelated_files
from orchestrator.payloads._main import run
from orchestrator.payloads._report import Reporter
from orchestrator.quantization.files import read_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    files, report = _files(options.source), Reporter()
    for number, file in enumerate(files, start=1):
        link_or_copy(file.resolve(), options.output / file.name)
        report(Progress(number, len(files), "files", file.name))


def _files(source: Path) -> list[Path]:
    """List the files that belong to the model of a folder.

    Raises:
        CheckpointError: The folder has no weights in safetensors, or a weight file is missing.
        PathEscapesError: A file is a link out of the folder.
    """
    names = {path.name for path in source.iterdir()}
    own = own_weights(names, lambda: read_json(source / INDEX), str(source))
    if not own:
        has, hint = kind_of_weights(names)
        message = f"{source} has {has}"
        raise CheckpointError(message, hint=f"model.path must be a folder in the Hub's layout: {hint}")
    left_out = unrelated_files(names, own)
    matching = {file for pattern in MODEL_FILES for file in source.glob(pattern) if file.name not in left_out}
    files = sorted(file for file in matching if file.is_symlink() or file.is_file())
    require_no_link_out(source, files)
    return files


if __name__ == "__main__":
    sys.exit(run(main))
