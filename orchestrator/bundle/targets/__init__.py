"""Lists the targets of a bundle: one module each, all with `files(contents)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets import (
    compose,
    dockerfile,
    helm,
    kserve,
    kubernetes,
    metadata,
    model_card,
    nim_operator,
    readme,
    server,
    supply_chain,
    systemd,
    two_sparks,
)
from orchestrator.bundle.targets.cluster import one_machine
from orchestrator.errors import BundleTargetError

Files = Callable[[BundleContents], dict[str, str]]
"""Gives the content of files by their path in the bundle; one that begins with `#!` becomes a program."""


def _always(_: BundleContents) -> bool:
    return True


@dataclass(frozen=True)
class Target:
    """A deployment target."""

    files: Files
    applies: Callable[[BundleContents], bool] = _always
    """Tells whether it supports a recipe."""


TARGETS: Mapping[str, Target] = {
    "compose": Target(compose.files, one_machine),
    "two-sparks": Target(two_sparks.files, two_sparks.two_machines),
    "systemd": Target(systemd.files, one_machine),
    "kubernetes": Target(kubernetes.files, one_machine),
    "helm": Target(helm.files, one_machine),
    "nim-operator": Target(nim_operator.files, one_machine),
    "kserve": Target(kserve.files, one_machine),
}
"""The names for `--target`, in the order of README.md."""

COMMON: tuple[Files, ...] = (
    metadata.files,
    server.files,
    dockerfile.files,
    model_card.files,
    supply_chain.files,
    readme.files,
)
"""The files of every bundle."""


def choose(contents: BundleContents, names: Sequence[str]) -> BundleContents:
    """Decide which targets to render.

    Args:
        contents: The contents of the bundle.
        names: The requested targets; none: all supported ones.

    Raises:
        BundleTargetError: A target is unknown, or does not support the recipe.
    """
    possible = tuple(name for name, target in TARGETS.items() if target.applies(contents))
    for name in names:
        if name not in possible:
            unsupported = f"{contents.recipe.name} cannot be deployed on {name}"
            message = unsupported if name in TARGETS else f"there is no target `{name}`"
            raise BundleTargetError(message, hint=f"there are: {', '.join(possible)}")
    chosen = tuple(name for name in possible if name in names) if names else possible
    return replace(contents, targets=chosen)


def render_files(contents: BundleContents) -> dict[str, str]:
    """Render every file of a bundle that is not an artifact's, by its path."""
    rendered: dict[str, str] = {}
    for files in (*COMMON, *(TARGETS[name].files for name in contents.targets)):
        rendered |= files(contents)
    return dict(sorted(rendered.items()))
