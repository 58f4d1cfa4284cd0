"""Take a local model folder into the store: by hard link where the file system allows, by copy where not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, to_line
from orchestrator.hub.fetch import link_or_copy
from orchestrator.hub.patterns import MODEL_FILES
from orchestrator.payloads._main import run


def main() -> None:
    """Read the command line and import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    files = sorted({file for pattern in MODEL_FILES for file in options.source.glob(pattern) if file.is_file()})
    if not any(file.suffix == ".safetensors" for file in files):
        message = f"{options.source} holds no safetensors file"
        raise CheckpointError(message, hint="model.path must be a folder in the Hub's layout")
    for number, file in enumerate(files, start=1):
        link_or_copy(file.resolve(), options.output / file.name)
        print(to_line(Progress(number, len(files), "files", file.name)), flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
