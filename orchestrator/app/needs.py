"""Calculates what a run will still write, and where, for the whole plan before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.app.plan import PlacedStep, Plan
from orchestrator.planner.disk import StepDisk, disk_of_steps, notes_of_steps
from orchestrator.steps.shape import Shape
from orchestrator.steps.sources import listing_of, sources
from orchestrator.store.space import Need, device_of
from orchestrator.store.store import Store

HINT = "put some of it on another disk: --store, --dist, HF_HUB_CACHE for what is downloaded"


def needs_of(plan: Plan, store: Store, pending: Mapping[str, str], dist: Path | None) -> Iterator[Need]:
    """Calculate what the steps without a result will write.

    Args:
        plan: The plan, with its commits.
        store: The store for results.
        pending: The steps that will run, each with its key if that is known already.
        dist: The folder of the deployment; None if none is written.
    """
    reckoned = {disk.step: disk for disk in disk_of_steps(plan.recipe)}
    noted = notes_of_steps(plan.recipe)
    placed = {placed.step.name: placed for placed in plan.steps}
    for name, key in pending.items():
        if name in reckoned and store.sealed(key) is None:
            yield from _needs_of_step(plan, store, placed[name], reckoned[name], key)
        elif name in noted and store.sealed(key) is None:  # what it still writes is small
            left = int(noted[name].value) - store.size_of_attempts(key)
            yield Need(store.root, max(0, left), f"{name}: notes, until it ends")
    if dist and pending and device_of(dist) != device_of(store.root):
        for mount in Shape(plan.recipe, plan.binder.catalog).served_inputs:
            if mount.step in reckoned:
                yield Need(dist, int(reckoned[mount.step].left.value), f"{mount.step}: a copy for the deployment")


def _needs_of_step(plan: Plan, store: Store, placed: PlacedStep, disk: StepDisk, key: str) -> Iterator[Need]:
    step, size = placed.step, int(disk.left.value)
    if step.name in sources(plan.recipe):
        yield from _needs_of_download(plan, store, placed, size)
    elif step.folders:  # an import uses links if possible
        linked = all(device_of(plan.binder.place(folder.path)) == device_of(store.root) for folder in step.folders)
        yield Need(store.root, 0 if linked else size, f"{step.name}: a copy of the folder")
    else:
        notes = notes_of_steps(plan.recipe).get(step.name)
        noted = int(notes.value) if notes and step.resumable else 0
        there = store.size_of_attempts(key)
        yield Need(store.root, max(0, size + noted - there), f"{step.name}: {disk.what}")


def _needs_of_download(plan: Plan, store: Store, placed: PlacedStep, size: int) -> Iterator[Need]:
    from orchestrator.hub import outstanding  # noqa: PLC0415 - the Hub's client loads slowly

    source, name = sources(plan.recipe)[placed.step.name], placed.step.name
    known = outstanding.known_snapshot(
        source.repo, source.revision, source.kind, source.include, listing_of(placed.step)
    )
    if known:
        yield from outstanding.needs(known, store.root, name)
    else:
        yield from outstanding.expected_needs(source.repo, source.kind, size, store.root, name)
