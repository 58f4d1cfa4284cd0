"""Tells which version of a library is installed here."""

from __future__ import annotations

from importlib import metadata


def installed(name: str) -> str:
    """Return the version of an installed library; `none` if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
