"""The Hub's interface for other packages of the code, in one module."""

from __future__ import annotations

from orchestrator.hub.fetch import link_or_copy
from orchestrator.hub.patterns import MODEL_FILES, RepoType, is_commit
from orchestrator.hub.snapshot import (
    RemoteFile,
    Snapshot,
    resolve_commit,
    snapshot,
)

__all__ = [
    "MODEL_FILES",
    "RemoteFile",
    "RepoType",
    "Snapshot",
    "is_commit",
    "link_or_copy",
    "resolve_commit",
    "snapshot",
]
