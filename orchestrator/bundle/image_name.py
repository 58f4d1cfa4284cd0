"""Reads the name under which a bundle's image is pulled."""

from __future__ import annotations

import re

from orchestrator.errors import BundleTargetError
from orchestrator.values import frozen

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<repository>(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?"
)


@frozen
class ImageName:
    """The name of an image."""

    repository: str
    """With the registry, if it has one."""
    tag: str | None
    """None: the bundle's own, which changes with everything that is served."""


def parse_image_name(text: str) -> ImageName:
    """Read `REGISTRY/REPOSITORY[:TAG]`.

    Raises:
        BundleTargetError: It is something else.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        message = f"{text!r} is no name of an image"
        raise BundleTargetError(message, hint="such as registry.example/team/llama, with or without :TAG")
    return ImageName(found["repository"], found["tag"])
