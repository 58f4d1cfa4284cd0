"""The references of what a build prints, keeps and reports: the dry-run's document, the store, the events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from docs.generate.markdown import block, classes_of, code, fields_of, first_line, page, table
from docs.generate.recipes import SETTINGS
from orchestrator import events
from orchestrator.app import planning, record
from orchestrator.app.recipe_name import RecipeName
from orchestrator.cli.dry_run import document
from orchestrator.store import artifact, cost, store

_EXAMPLE = "llama3-70b-nvfp4-engine"
_STEP = "engine"

_DRY_RUN = """\
`orchestrator build RECIPE --dry-run --json` prints one document; with `--all` in place of a recipe, a list of them. It
is made from the same values that a build runs, not by a second path, and needs no network, Docker, GPU or token. The
exit status is 4 where the recipe is refused; for the whole catalogue only where a recipe is refused that does not say
so itself (`expected_refusals`), or is not refused although it does."""

_DOCUMENT = {
    "recipe": "The recipe's name.",
    "lock": "The lock file that pins its revisions, or null.",
    "steps": "The steps in their order; empty where a refusal leaves none.",
    "refusals": "Why it cannot work: `code`, `message` and `hint` of each reason; empty where it can.",
}
_STEPS = {
    "name": "The step's name, as `--from` and `--until` take it.",
    "executor": "`process` (this machine's Python) or `docker`.",
    "image": "The image's reference, with its digest where the lock has one; null without a container.",
    "argv": "The command as the container sees it. A step of our own code starts NVIDIA's tools behind a bare `--`.",
    "mounts": "`source`, `target` and `read_only` of each folder or file; `/out` alone can be written.",
    "environment": "What the step itself sets.",
    "secrets": "Names of the secrets that the step may read; their values appear nowhere.",
    "network": "Whether it may use the network.",
    "gpus": "How many GPUs it is given.",
    "outputs": "Patterns below `/out`; each must match something that is not empty and parses, or the step has failed.",
    "decision": "`run`, `reuse` (its result is in the store) or `later` (depends on what an earlier step will leave).",
}
_WORK = """\
`$WORK` stands for the folder of what will be made. The printed form sets it and prints each command as a line for a
shell."""

_STORE = """\
Results lie in `$XDG_DATA_HOME/orchestrator` (`~/.local/share/orchestrator`), in a checkout in `.orchestrator/`, or
where `--store` says: [where everything lies](../how-to/install.md#where-everything-lies). All of it may be deleted
while nothing is being built: the next build makes it again."""

_OTHERS = (
    ("`runs/<recipe>.events`", "what the newest build of a recipe did; read by `status`, `logs`, `attach` and `gc`"),
    ("`commits.json`", "which commit a branch was when a build last asked for it; what `--offline` goes by"),
    ("`models/<repository>@<commit>.json`", "the configurations and headers of a model on the Hub, for plans"),
    ("`logs/<recipe>/<step>.log`", "the log of a step's last failed try"),
    (
        "`deployed/<recipe>`",
        "a server was brought up, not yet taken down: `status` and `logs` ask Docker about it",
    ),
)
_COST = """\
`format` and what making the artifact cost; no digest or key depends on it. It may be missing: then the cost is unknown.
`status`, its `--json` and the page of `verify --html` show it, also for a build that found the artifact there. What the
command itself told, `spent`, is the [event](events.md#spent)."""

_MANIFEST = """\
`format`, `key`, `step` and `files`, one entry for each file of `out/`. The digest of an artifact is the SHA-256 of that
list: two artifacts with the same bytes are the same to whatever reads them."""

_RUN = """\
What the newest build did, as lines of JSON; each is one call that appends, so a build that was killed leaves whole
lines except perhaps the last. The first, `begun`, has `process`, `owner`, `started`, the names of all `steps`, and
`beyond`. Each [event](events.md) but lines of log follows with its fields and its name as `event`: `reached`,
`started`, `publishing`, `reused`, `done`, `stopped`, `waiting`, or that of a payload. The last, `ended`, has `status`,
`code`, `message` and `hint`. From them follow what `status` and `logs` know. A `state` is `waiting`, `running`, `done`,
`reused`, `failed` or `interrupted`; `status` calls a running step whose process is gone `abandoned`.

A build writes a new file. Until it reaches a step, the results of earlier builds stay needed. Versions up to 28
November 2026 kept `runs/<recipe>.json` besides; it is read until the next build removes it."""


def dry_run() -> str:
    """Write the page of the dry-run's document.

    Raises:
        LookupError: The document has other keys than the page explains.
    """
    found = document(SETTINGS, planning.plan(SETTINGS, RecipeName(_EXAMPLE)))
    step = next(step for step in found["steps"] if step["name"] == _STEP)
    return page(
        "The dry-run's document",
        _DRY_RUN,
        f"## The document\n\n{_explained(found, _DOCUMENT)}",
        f"## A step\n\n{_explained(step, _STEPS)}\n\n{_WORK}",
        f"## An example\n\nThe step `{_STEP}` of `{_EXAMPLE}`:\n\n{block(json.dumps(step, indent=2), 'json')}",
    )


def _explained(found: dict[str, Any], words: dict[str, str]) -> str:
    if set(found) != set(words):
        message = f"the document has {', '.join(found)}; the page explains {', '.join(words)}"
        raise LookupError(message)
    return table(("key", "meaning"), [(code(key), words[key]) for key in found])


def store_layout() -> str:
    """Write the page of the store."""
    rule, _, layout = (store.__doc__ or "").partition("\n\n")
    return page(
        "The store",
        _STORE,
        f"{rule}\n\n{block(layout)}\n\nBeside them:\n\n{table(('file', 'what'), _OTHERS)}",
        f"## manifest.json\n\n{_MANIFEST}\n\n{_classes(artifact, ('StoredFile',))}",
        f"## cost.json\n\n{_COST}\n\n{_classes(cost, ('Cost',))}",
        f"## runs/&lt;recipe&gt;.events\n\n{_RUN}\n\n{_classes(record, ('Record', 'Entry', 'Ended'))}",
    )


_EVENTS = """\
Below the command line nothing prints: a build reports events, and the command line shows them. A payload, which runs in
another process or container, writes some of them, `progress`, `warned`, `checked`, `spent` and `failure`, as lines of
its standard output; every other line is log. Such a line is `@orchestrator ` and a JSON object with the key `event`:"""

_LINE = '@orchestrator {"event": "progress", "done": 12, "total": 95, "unit": "tensors", "note": "lm_head.weight"}'


def event_catalogue() -> str:
    """Write the page of the events."""
    names = [node.name for node in classes_of(events) if node.name != "Observer"]
    return page("Events", f"{_EVENTS}\n\n{block(_LINE)}", _classes(events, names))


def _classes(module: ModuleType, names: Iterable[str]) -> str:
    nodes = {node.name: node for node in classes_of(module)}
    parts = []
    for name in names:
        fields = [  # neither where it lies nor what a process keeps for itself is in it
            field for field in fields_of(nodes[name]) if field.type != "Path" and not field.name.startswith("_")
        ]
        rows = [(code(field.name), code(field.type), field.words) for field in fields]
        words = first_line(vars(module)[name].__doc__)
        parts.append(f"### {name}\n\n{words}\n\n{table(('field', 'type', 'meaning'), rows)}")
    return "\n\n".join(parts)
