"""The images of a bundle for two Sparks, which `two-sparks/start.sh` builds where they are not there yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from orchestrator.bundle.files import IMAGES, INSTALL, SIGNATURE
from orchestrator.bundle.private_files import shareable
from orchestrator.bundle.targets.two_sparks import BUNDLE_LABEL, FOLDER
from orchestrator.deployment.compose_file import COMPOSE, Build, Service
from orchestrator.deployment.images import BuiltFrom
from orchestrator.documents.yaml_text import parse
from orchestrator.errors import ComposeUnsupportedError
from orchestrator.store.fingerprint import sha256_of

_NODE = "node"
_BASE = "BASE_IMAGE"
_NOT_IN_IMAGES = (f"{IMAGES}/", "model/", INSTALL, SIGNATURE)


def is_for_two(folder: Path) -> bool:
    """Tell whether two Sparks serve a bundle together."""
    return (folder / FOLDER / COMPOSE).is_file()


def images_of(folder: Path, profiles: Sequence[str] = ()) -> list[BuiltFrom]:
    """List the images of a bundle for two Sparks: the bundle's own, and the one that is built over it.

    Raises:
        ComposeUnsupportedError: A profile is asked for; there are none.
    """
    if profiles:
        message = f"{folder.name} is served by two Sparks, and has no profile `{profiles[0]}`"
        raise ComposeUnsupportedError(message, hint="leave out --profile")
    document = parse((folder / FOLDER / COMPOSE).read_bytes(), folder / FOLDER / COMPOSE).data
    node = cast("dict[str, Any]", document)["services"][_NODE]
    base, platform, marks = node["build"]["args"][_BASE], node["platform"], {BUNDLE_LABEL: files_digest(folder)}
    over = Build(context=".", args={_BASE: base})
    return [
        BuiltFrom(Service(image=base, build=Build(context="."), platform=platform), folder, marks),
        BuiltFrom(Service(image=node["image"], build=over, platform=platform), folder / FOLDER, marks),
    ]


def files_digest(folder: Path) -> str:
    """Calculate the digest of the files of which the images are made, and of the others that are small.

    `start.sh` calculates the same: an image with this label need not be built.
    """
    names = [name for name in shareable(folder) if not name.startswith(_NOT_IN_IMAGES)]
    return hashlib.sha256("".join(f"{sha256_of(folder / name)}  {name}\n" for name in names).encode()).hexdigest()
