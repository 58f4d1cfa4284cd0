"""From a recipe's name to its plan, with the lock applied where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.settings import Settings
from orchestrator.hub.client import resolve_commit
from orchestrator.plan import ExecutorName, Plan, make_plan
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.lock import Lock, hub_models, pin, pin_commits, read_lock
from orchestrator.recipe.model import Recipe


@dataclass(frozen=True)
class Planned:
    """A recipe, its lock and its plan."""

    loaded: LoadedRecipe
    lock_file: Path
    lock: Lock | None
    plan: Plan


def lock_file_of(settings: Settings, name: str) -> Path:
    """Name the place of a recipe's lock."""
    return settings.project.recipes / f"{name}.lock"


def plan_recipe(
    settings: Settings, name: str, overrides: Sequence[str] = (), executor: ExecutorName | None = None
) -> Planned:
    """Plan a recipe without any network: what no lock has resolved stays a branch or tag."""
    loaded = settings.book.load(name, overrides)
    lock_file = lock_file_of(settings, name)
    lock = read_lock(lock_file)
    recipe = pin(loaded.recipe, lock, lock_file) if lock else loaded.recipe
    plan = make_plan(recipe, settings.catalog, lock, executor=executor, secrets=settings.secrets)
    return Planned(loaded, lock_file, lock, plan)


def resolve(settings: Settings, planned: Planned, executor: ExecutorName | None) -> Plan:
    """Ask the Hub for the commits that are still open, and plan again with them."""
    recipe = planned.plan.recipe
    open_models = {(model.repo, model.revision) for model in hub_models(recipe)}
    commits = {(repo, revision): resolve_commit(repo, revision) for repo, revision in sorted(open_models)}
    pinned: Recipe = pin_commits(recipe, commits)
    if pinned == recipe:
        return planned.plan
    return make_plan(pinned, settings.catalog, planned.lock, executor=executor, secrets=settings.secrets)
