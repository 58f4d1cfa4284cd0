"""Compares the memory that a server takes with what is available, before the running server is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.deployment.container import MEMORY
from orchestrator.deployment.observer import Observer
from orchestrator.errors import MemoryBudgetError
from orchestrator.events import Warned
from orchestrator.units import in_bytes
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker.models.containers import Container

_PREDICTION = "prediction.json"


@frozen
class ServerMemory:
    """What a bundle's server takes, and what a machine with unified memory has. Bytes."""

    weights: int
    serving: int
    """With the cache, as the plan says."""
    available: int

    def check(self, running: Container | None, observer: Observer) -> None:
        """Refuse a server whose weights alone do not fit; warn if its cache will be smaller than planned.

        Args:
            running: The container that it replaces. What that one takes becomes free; None: there is none.
            observer: Gets the warning.

        Raises:
            MemoryBudgetError: The weights do not fit. Nothing was stopped.
        """
        stops = running is not None and running.status == "running"
        freed = int(running.labels.get(MEMORY, self.serving)) if running is not None and stops else 0
        free = self.available + freed
        when = ", once the running server is stopped" if stops else ""
        if free < self.weights:
            message = f"the weights take {in_bytes(self.weights)}, and {in_bytes(free)} of memory are available{when}"
            hint = "nothing was stopped; end what else runs: docker ps; ps aux --sort=-rss | head"
            raise MemoryBudgetError(message, hint=hint)
        if free < self.serving:
            found = f"{in_bytes(free)} of memory are available{when}"
            message = f"the plan gives the server {in_bytes(self.serving)}, and {found}"
            observer(Warned(f"{message}: its cache will be smaller, or it will not start"))


def server_memory(folder: Path, available: int) -> ServerMemory | None:
    """Read what a bundle's server takes; None if that is not known.

    Args:
        folder: The bundle.
        available: Bytes that are available now.
    """
    try:
        document = json.loads((folder / _PREDICTION).read_bytes())
        return ServerMemory(int(document["weights_bytes"]), int(document["peak_memory_bytes"]["serve"]), available)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
