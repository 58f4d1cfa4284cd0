"""A download made to die at a named point, and its orchestrator with it, as in a power cut.

The download is a process of its own. The armed orchestrator gives it a folder of Python's start-up code and says in
two variables where to die; nothing of this is in the program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.chaos.points import Place, wrap

_POINT, _COUNT, _ORCHESTRATOR = "CHAOS_POINT", "CHAOS_COUNT", "CHAOS_ORCHESTRATOR"
_INSIDE = Path(__file__).parent / "inside"
_ROOT = Path(__file__).resolve().parents[2]

BEFORE = {
    "before-a-chunk-is-safe": "orchestrator.hub.partial:Partial._flush",
    "before-the-blob-has-its-name": "orchestrator.hub.partial:Partial.finish",
    "before-the-file-is-linked": "orchestrator.hub.fetch:link_or_copy",
    "before-a-list-of-files": "orchestrator.hub.listing:listing_text",
}
AFTER = {
    "after-a-chunk-is-safe": "orchestrator.hub.partial:Partial._flush",
    "after-the-file-is-opened": "orchestrator.hub.partial:Partial._take_up",
    "after-the-blob-has-its-name": "orchestrator.hub.partial:Partial.finish",
    "after-the-file-is-found-by-name": "orchestrator.hub.cache:RepoCache.point",
    "after-the-file-is-linked": "orchestrator.hub.fetch:link_or_copy",
}
POINTS = (*BEFORE, *AFTER)


def arm_downloads(point: str, count: int, processes: Any) -> None:  # noqa: ANN401 - a module to patch
    """Have this orchestrator's downloads die at a point, and it with them.

    Args:
        point: One of `POINTS`.
        count: How many more times they may come there.
        processes: The module that starts them.
    """
    start: Callable[..., Any] = processes.subprocess.Popen

    def armed(command: Any, *, env: Mapping[str, str], **options: Any) -> Any:  # noqa: ANN401 - as Popen takes them
        places = os.pathsep.join((str(_INSIDE), str(_ROOT), env["PYTHONPATH"]))
        more = {"PYTHONPATH": places, _POINT: point, _COUNT: str(count), _ORCHESTRATOR: str(os.getpid())}
        return start(command, env={**env, **more}, **options)

    processes.subprocess = SimpleNamespace(**{**vars(processes.subprocess), "Popen": armed})


def arm_this_process() -> None:
    """Do what the variables say; only in the process that downloads."""
    if "orchestrator.payloads.download" not in sys.orig_argv:
        return
    point, orchestrator = os.environ[_POINT], int(os.environ[_ORCHESTRATOR])

    def die() -> None:
        os.kill(orchestrator, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    place = place_of({**BEFORE, **AFTER}[point])
    wrap(place, die, int(os.environ[_COUNT]), first=point in BEFORE)


def place_of(spelled: str) -> Place:
    """Find `module:Class.name` or `module:name`."""
    module, _, path = spelled.partition(":")
    *owners, name = path.split(".")
    owner = __import__(module, fromlist=["x"])
    for each in owners:
        owner = getattr(owner, each)
    return owner, name
