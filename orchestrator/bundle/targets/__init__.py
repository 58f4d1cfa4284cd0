"""Lists the targets of a bundle: one module each, all with `files(contents)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
from orchestrator.errors import BundleTargetError
from orchestrator.planner.rules.machine import PODS_APART
from orchestrator.recipe.model import Cluster
from orchestrator.values import frozen

Files = Callable[[BundleContents], dict[str, str]]
"""Gives the content of files by their path in the bundle; one that begins with `#!` becomes a program."""


def _not_for_clusters(contents: BundleContents) -> str:
    if contents.recipe.serve.cluster == Cluster():
        return ""
    return "serve.cluster has settings that only a cluster can follow"


def _nothing(_: BundleContents) -> str:
    return ""


@frozen
class Target:
    """A deployment target."""

    files: Files
    machines: int = 1
    """Machines that serve together."""
    refusal: Callable[[BundleContents], str] = _nothing
    """Says which setting of a recipe it cannot follow; empty if it follows all."""
    pods: bool = False
    """Whether it serves in the pods of a cluster."""

    def obstacle(self, contents: BundleContents) -> str:
        """Say why it cannot serve a recipe; empty if it can."""
        if contents.nodes != self.machines:
            return f"{_machines(contents.nodes)} this recipe, and it starts {self.machines}"
        return self.refusal(contents)


def _machines(count: int) -> str:
    return "one machine serves" if count == 1 else f"{count} machines together serve"


TARGETS: Mapping[str, Target] = {
    "compose": Target(compose.files, refusal=_not_for_clusters),
    "two-sparks": Target(two_sparks.files, machines=2, refusal=_not_for_clusters),
    "systemd": Target(systemd.files, refusal=_not_for_clusters),
    "kubernetes": Target(kubernetes.files, pods=True),
    "helm": Target(helm.files, pods=True),
    "nim-operator": Target(nim_operator.files, refusal=nim_operator.refusal, pods=True),
    "kserve": Target(kserve.files, pods=True),
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
        BundleTargetError: A target is unknown, or does not support the recipe; or its settings leave none.
    """
    obstacles = {name: target.obstacle(contents) for name, target in TARGETS.items()}
    possible = tuple(name for name, obstacle in obstacles.items() if not obstacle)
    for name in names:
        if name not in possible:
            message = _unsupported(contents, name) if name in TARGETS else f"there is no target `{name}`"
            raise BundleTargetError(message, hint=f"there are: {', '.join(possible) or 'none'}")
    if not possible and any(target.machines == contents.nodes for target in TARGETS.values()):
        reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items())
        message = f"{contents.recipe.name} cannot be deployed: {reasons}"
        raise BundleTargetError(message, hint="leave out the settings that are named here")
    chosen = tuple(name for name in possible if name in names) if names else possible
    return replace(contents, targets=chosen)


def _unsupported(contents: BundleContents, name: str) -> str:
    target = TARGETS[name]
    why = f": {PODS_APART}" if target.pods and contents.nodes > 1 else ""
    return f"{contents.recipe.name} cannot be deployed on {name}: {target.obstacle(contents)}{why}"


def left_out(contents: BundleContents) -> Mapping[str, str]:
    """Return the settings for which targets were not chosen although as many machines serve, by the targets' names."""
    alike = {name: target for name, target in TARGETS.items() if target.machines == contents.nodes}
    refusals = {name: target.refusal(contents) for name, target in alike.items() if name not in contents.targets}
    return {name: refusal for name, refusal in refusals.items() if refusal}


def render_files(contents: BundleContents) -> dict[str, str]:
    """Render every file of a bundle that is not an artifact's, by its path."""
    rendered: dict[str, str] = {}
    for files in (*COMMON, *(TARGETS[name].files for name in contents.targets)):
        rendered |= files(contents)
    return dict(sorted(rendered.items()))
