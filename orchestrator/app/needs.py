"""Calculates what a run will still write, and where, for the whole plan before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.app.make_plan import Plan
from orchestrator.planner.disk import StepDisk
from orchestrator.steps.sources import Source, listing_of, sources
from orchestrator.steps.step import Step
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
    for placed in plan.steps:
        name = placed.step.name
        if placed.disk is None or name not in pending or store.sealed(pending[name]) is not None:
            continue
        source = sources(plan.recipe).get(name)
        if source:
            yield from _needs_of_download(placed.step, source, placed.disk, store)
        elif placed.step.folders:  # an import uses links if possible
            yield _need_of_import(plan, placed.step, placed.disk, store)
        else:
            size = placed.disk.most - store.size_of_attempts(pending[name])
            yield Need(store.root, max(0, size), f"{name}: {placed.disk.what}")
    if dist and pending and device_of(dist) != device_of(store.root):
        for placed in plan.steps:
            if placed.deployed and placed.disk and placed.disk.result:
                yield Need(dist, int(placed.disk.result.value), f"{placed.step.name}: a copy for the deployment")


def _need_of_import(plan: Plan, step: Step, disk: StepDisk, store: Store) -> Need:
    linked = all(device_of(plan.binder.place(folder.path)) == device_of(store.root) for folder in step.folders)
    return Need(store.root, 0 if linked else disk.most, f"{step.name}: a copy of the folder")


def _needs_of_download(step: Step, source: Source, disk: StepDisk, store: Store) -> Iterator[Need]:
    from orchestrator.hub import outstanding  # noqa: PLC0415 - the Hub's client loads slowly

    known = outstanding.known_snapshot(source.repo, source.revision, source.kind, source.include, listing_of(step))
    if known:
        yield from outstanding.needs(known, store.root, step.name)
    else:
        yield from outstanding.expected_needs(source.repo, source.kind, disk.most, store.root, step.name)
