"""Take a local model folder into the store: by hard link if the file system allows, else by copy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress
from orchestrator.hub.fetch import link_or_copy
from orchestrator.hub.patterns import MODEL_FILES
from orchestrator.payloads._main import run
from orchestrator.payloads._report import Reporter


def main() -> None:
    """Read the command line and import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    files = sorted({file for pattern in MODEL_FILES for file in options.source.glob(pattern) if file.is_file()})
    if not any(file.suffix == ".safetensors" for file in files):
        message = f"{options.source} has no safetensors file"
        raise CheckpointError(message, hint="model.path must be a folder in the Hub's layout")
    report = Reporter()
    for number, file in enumerate(files, start=1):
        link_or_copy(file.resolve(), options.output / file.name)
        report(Progress(number, len(files), "files", file.name))


if __name__ == "__main__":
    sys.exit(run(main))
