"""Resolves a plan: finds the commit of each branch, checks trust, and checks local files for `--offline`.

This is separate from planning, which uses no network for models that are known: loading the Hub's client alone would
take half of a plan's time. For the same reason the client is loaded only if a commit is open or the network must not
be used.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.app.commits import known_commits, name_of, remember_commit
from orchestrator.app.make_plan import Plan
from orchestrator.app.planning import Planned, plan_with_lock, snapshot_of
from orchestrator.app.settings import Settings
from orchestrator.errors import ArtifactCorruptError, HubOfflineError
from orchestrator.hub.patterns import is_commit
from orchestrator.hub.trust import require_trusted_code, require_trusted_commit
from orchestrator.recipe.lock import Lock, hub_models, pin_commits
from orchestrator.recipe.model import Recipe
from orchestrator.steps.sources import sources

_CODE_OPTION = "trust_remote_code"


def resolve(settings: Settings, planned: Planned, *, offline: bool = False) -> Plan:
    """Find the commit of each branch, and plan again with the commits.

    Args:
        settings: The environment and the folders.
        planned: The plan.
        offline: Use no network. Refuse if a commit or a file is missing on this machine.

    Raises:
        PlanRefusedError: The plan cannot work. The network was not used.
        HubError: The Hub does not answer, or has no such revision.
        HubOfflineError: With `offline`, a commit or a file is missing on this machine.
        UntrustedCodeError: The recipe does not trust code that it would run.
    """
    planned.plan.raise_refusals()
    recipe = planned.plan.recipe
    pinned = pin_commits(recipe, _commits(settings, recipe, offline=offline))
    _check_trust(pinned)
    resolved = planned.plan
    if pinned != recipe:
        resolved = plan_with_lock(settings, pinned, planned.lock, planned.executor)
    if offline:
        _check_offline_files(settings, resolved, planned.lock)
    return resolved


def _commits(settings: Settings, recipe: Recipe, *, offline: bool) -> dict[tuple[str, str], str]:
    wanted = sorted({(model.repo, model.revision) for model in hub_models(recipe)})
    if all(is_commit(revision) for _, revision in wanted):
        return {(repo, revision): revision for repo, revision in wanted}
    from orchestrator.hub.snapshot import resolve_commit  # noqa: PLC0415 - loads the Hub's client

    root = settings.store.root
    known = known_commits(root) if offline else {}
    found = {}
    for repo, revision in wanted:
        commit = known.get(name_of(repo, revision)) or resolve_commit(repo, revision, offline=offline)
        found[(repo, revision)] = commit
        if not (offline or is_commit(revision)):
            remember_commit(root, repo, revision, commit)
    return found


def _check_offline_files(settings: Settings, plan: Plan, lock: Lock | None) -> None:
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
        message = "\n".join(("files are missing locally:", *lines))
        raise HubOfflineError(message, hint="run it once without --offline")


def _check_trust(recipe: Recipe) -> None:
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
