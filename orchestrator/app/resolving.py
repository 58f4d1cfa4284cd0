"""Resolves what a plan leaves open until it runs: commits, trust, and local files for `--offline`.

This is separate from planning, which needs no network: loading the Hub's client alone would take half of a plan's
time. For the same reason the client is loaded only if a commit is open or the network must not be used.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.app.commits import known_commits, name_of, remember_commit
from orchestrator.app.plan import ExecutorName, Plan
from orchestrator.app.planning import Planned, plan_with, snapshot_of
from orchestrator.app.settings import Settings
from orchestrator.errors import ArtifactCorruptError, HubOfflineError
from orchestrator.hub.patterns import is_commit
from orchestrator.hub.trust import require_trusted_code, require_trusted_commit
from orchestrator.recipe.lock import Lock, hub_models, pin_commits
from orchestrator.recipe.model import Recipe
from orchestrator.steps.sources import sources

_CODE_OPTION = "trust_remote_code"


def resolve(settings: Settings, planned: Planned, executor: ExecutorName | None, *, offline: bool = False) -> Plan:
    """Ask the Hub for open commits, and plan again with them. Check trust if it is needed."""
    recipe = planned.plan.recipe
    pinned = pin_commits(recipe, _commits(settings, recipe, offline=offline))
    _insist_on_trust(pinned)
    if pinned == recipe:
        return planned.plan
    return plan_with(settings, pinned, planned.lock, executor)


def _commits(settings: Settings, recipe: Recipe, *, offline: bool) -> dict[tuple[str, str], str]:
    wanted = sorted({(model.repo, model.revision) for model in hub_models(recipe)})
    if all(is_commit(revision) for _, revision in wanted):
        return {(repo, revision): revision for repo, revision in wanted}
    from orchestrator.hub.snapshot import resolve_commit  # noqa: PLC0415 - loads the Hub's client

    root = settings.store.root
    told = known_commits(root) if offline else {}
    found = {}
    for repo, revision in wanted:
        commit = told.get(name_of(repo, revision)) or resolve_commit(repo, revision, offline=offline)
        found[(repo, revision)] = commit
        if not (offline or is_commit(revision)):
            remember_commit(root, repo, revision, commit)
    return found


def insist_on_offline(settings: Settings, plan: Plan, lock: Lock | None) -> None:
    """Check, for `--offline`, that all downloads are in the store or in the Hub's cache.

    Raises:
        HubOfflineError: Names all that is missing.
    """
    from orchestrator.hub.offline import missing_files  # noqa: PLC0415 - loads the Hub's client
    from orchestrator.hub.snapshot import resolve_commit  # noqa: PLC0415

    lines = []
    wanted = sources(plan.recipe)
    for placed in plan.steps:
        source = wanted.get(placed.step.name)
        key = plan.binder.key(placed.step, placed.executor, {}) if source else ""
        if source and not _in_store(settings, key):
            commit = resolve_commit(source.repo, source.revision, source.kind, offline=True)
            known = lock.find(source.repo, commit, source.kind) if lock else None
            missing = missing_files(
                source.repo, commit, source.kind, source.include, snapshot_of(known) if known else None
            )
            if missing:
                lines.append(f"{placed.step.name}: {source.repo}@{commit}: {missing}")
    if lines:
        message = "\n".join(("not everything is here:", *lines))
        raise HubOfflineError(message, hint="run it once without --offline")


def _insist_on_trust(recipe: Recipe) -> None:
    wanted = sources(recipe)
    for source in wanted.values():
        require_trusted_commit(source.repo, source.revision, source.trusted)
    model = wanted.get("download")
    places: Mapping[str, Mapping[str, object]] = {
        "quantization.options": recipe.quantization.options,
        "engine.convert": recipe.engine.convert,
        "engine.build": recipe.engine.build,
        "serve.options": recipe.serve.options,
    }
    for place, options in places.items():
        if model and options.get(_CODE_OPTION):
            require_trusted_code(model.repo, model.revision, f"{place}.{_CODE_OPTION}", model.trusted)


def _in_store(settings: Settings, key: str) -> bool:
    try:
        return settings.store.find(key) is not None
    except ArtifactCorruptError:
        return False
