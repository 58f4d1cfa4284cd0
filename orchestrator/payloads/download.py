"""Download one commit of a Hub repository into a folder, every byte checked; runs on this machine, with network."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.errors import HubNotFoundError
from orchestrator.events import Progress, to_line
from orchestrator.hub.client import MODEL_FILES, RemoteFile, Snapshot, fetch, resolve_commit, snapshot
from orchestrator.payloads._main import run

_WORKERS = 4
"""A killed download loses at most the files under way: few at once lose little."""


def main() -> None:
    """Read the command line and download."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision", required=True, help="a commit; a branch or tag is resolved first")
    parser.add_argument("--repo-type", choices=("model", "dataset"), default="model")
    parser.add_argument("--include", nargs="+", default=list(MODEL_FILES), help="shell patterns")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    commit = resolve_commit(options.repo, options.revision, options.repo_type)
    wanted = snapshot(options.repo, commit, tuple(options.include), options.repo_type)
    if not wanted.files:
        message = f"{options.repo}@{commit} has no file that matches {' '.join(options.include)}"
        raise HubNotFoundError(message, hint="look at its files on the Hub")
    download(wanted, options.output)


def download(wanted: Snapshot, output: Path) -> None:
    """Fetch every file, a few at once, and say how far it is."""
    lock = threading.Lock()
    done = 0

    def one(file: RemoteFile) -> None:
        nonlocal done
        fetch(wanted, file, output)
        with lock:
            done += file.size
            print(to_line(Progress(done, wanted.size, "bytes", file.path)), flush=True)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(one, wanted.files):
            pass
    listing = {
        "repo": wanted.repo,
        "commit": wanted.commit,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256, "git_sha1": f.git_sha1} for f in wanted.files],
    }
    file = output / "download.json"
    file.unlink(missing_ok=True)  # a repository may have one too: a link to the Hub's cache, not to be written through
    file.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(main))
