"""Download one commit of a Hub repository into a folder, every byte checked; runs on this machine, with network.

It may be killed at any moment: what arrived stays in the Hub's cache, and the next run continues from there.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants

from orchestrator.errors import HubNotFoundError, LockInvalidError
from orchestrator.events import Progress
from orchestrator.hub.fetch import Fetcher
from orchestrator.hub.listing import RemoteFile, Snapshot, listing_text, read_listing
from orchestrator.hub.offline import listing_file
from orchestrator.hub.outstanding import needs
from orchestrator.hub.patterns import MODEL_FILES, is_commit
from orchestrator.hub.snapshot import own_files, resolve_commit, snapshot
from orchestrator.hub.stop import Stop, StoppedError
from orchestrator.hub.trust import Trusted, refuse_untrusted_code, require_trusted_commit
from orchestrator.payloads._main import run
from orchestrator.payloads._report import Reporter
from orchestrator.store.space import require_space

_WORKERS = 4
"""Files that are downloaded at once; each may lose two chunks when the process is killed."""
_GRACE = 0.7
"""Seconds in which the threads save their progress."""


def main() -> None:
    """Read the command line and download."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the token is in our memory
    options = _parser().parse_args()
    trusted = None
    if options.trust_commit:
        trusted = Trusted(options.trust_commit, tuple(options.trust_files), options.trust_remote_code)
    include = (*options.include, *(trusted.patterns if trusted else ()))
    wanted = _wanted(options, include)
    require_trusted_commit(wanted.repo, wanted.commit, trusted)
    if not wanted.files:
        message = f"{wanted.repo}@{wanted.commit} has no file that matches {' '.join(include)}"
        raise HubNotFoundError(message, hint="look at its files on the Hub")
    with _lock_named(wanted, locked=bool(options.files)):
        download(wanted, options.output, trusted, include)


@contextmanager
def _lock_named(wanted: Snapshot, *, locked: bool) -> Iterator[None]:
    """Say that a commit or file that the Hub no longer has comes from the lock."""
    try:
        yield
    except HubNotFoundError as error:
        if not locked:
            raise
        message = f"{error.message}; the recipe's lock pins {wanted.repo} to commit {wanted.commit}"
        hint = "see what moved with `orchestrator lock RECIPE --check`, then write the lock again"
        raise HubNotFoundError(message, hint=hint) from error


def download(wanted: Snapshot, output: Path, trusted: Trusted | None, include: tuple[str, ...]) -> None:
    """Fetch every file, a few at once, and report the progress. First come the files that may forbid the others."""
    stop, report = Stop(), Reporter()
    count = _Count(wanted, report)
    fetcher = Fetcher(wanted, output, stop, count, report)
    if constants.HF_HUB_OFFLINE:
        fetcher.require_all_cached(include)
    require_space(needs(wanted, output, "download"), "set HF_HUB_CACHE to a folder on a larger disk")
    fetcher.prepare(listing_file(wanted.repo, wanted.commit, wanted.kind, include))
    first = [file for file in wanted.files if file.path.endswith(".json")]
    _each(first, fetcher.fetch, stop)
    refuse_untrusted_code(wanted.repo, wanted.commit, output, trusted)
    _each([file for file in wanted.files if file not in first], fetcher.fetch, stop)
    _write_listing(wanted, output)


def _wanted(options: argparse.Namespace, include: tuple[str, ...]) -> Snapshot:
    """Take the list of files from the lock, from the cache (a commit never changes), or from the Hub."""
    if options.files:
        locked = read_listing(options.files)
        if (locked.repo, locked.kind, locked.commit) != (options.repo, options.repo_type, options.revision):
            message = f"{options.files} lists {locked.repo}@{locked.commit}, not {options.repo}@{options.revision}"
            raise LockInvalidError(message)
        return own_files(locked, include)
    if is_commit(options.revision):
        known = listing_file(options.repo, options.revision, options.repo_type, include)
        if known.is_file():
            return own_files(read_listing(known), include)
    commit = resolve_commit(options.repo, options.revision, options.repo_type)
    return snapshot(options.repo, commit, include, options.repo_type)


def _write_listing(wanted: Snapshot, output: Path) -> None:
    fields = json.loads(listing_text(wanted))
    del fields["kind"]
    file = output / "download.json"
    file.unlink(missing_ok=True)  # a repository may have one too: a link to the Hub's cache, not to be written through
    file.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


class _Count:
    """Adds up the bytes that the threads report."""

    def __init__(self, wanted: Snapshot, report: Reporter) -> None:
        self._total = wanted.size
        self._report = report
        self._done = 0
        self._there: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, file: RemoteFile, there: int) -> None:
        """Record the number of bytes of a file that are there."""
        with self._lock:
            self._done += there - self._there.get(file.path, 0)
            self._there[file.path] = there
            note = file.path if there == file.size else f"{file.path} {100 * there // file.size} %"
            self._report(Progress(self._done, self._total, "bytes", note, file.path, there, file.size))


def _each(files: Sequence[RemoteFile], fetch: Callable[[RemoteFile], None], stop: Stop) -> None:
    """Process files in a few threads; the first failure ends all of them.

    They are daemons: one that waits for a silent server must not hold up an interrupt. What it had is in its journal.
    """
    pending = deque(files)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while pending and not failures:
                fetch(pending.popleft())
        except (StoppedError, IndexError):
            return
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_WORKERS, len(files)))]
    for thread in threads:
        thread.start()
    try:
        while not failures and (busy := [thread for thread in threads if thread.is_alive()]):
            busy[0].join(0.1)
    finally:
        if failures or any(thread.is_alive() for thread in threads):
            stop.set()
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision", required=True, help="a commit; a branch or tag is resolved first")
    parser.add_argument("--repo-type", choices=("model", "dataset"), default="model")
    parser.add_argument("--include", nargs="+", default=list(MODEL_FILES), help="shell patterns")
    parser.add_argument("--files", type=Path, help="the list of files as the lock has it")
    parser.add_argument("--trust-commit", help="the one commit that may bring code")
    parser.add_argument("--trust-files", nargs="+", default=[], help="further shell patterns, of that commit")
    parser.add_argument("--trust-remote-code", action="store_true", help="allow that commit's Python code")
    parser.add_argument("--output", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
