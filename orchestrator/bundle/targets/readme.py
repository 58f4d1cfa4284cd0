"""Renders a bundle's README.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from itertools import groupby

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.gateway.runtimes import RUNTIMES
from orchestrator.bundle.gateway.variables import VARIABLES, Variable
from orchestrator.bundle.templating import render_text

_CLUSTER = frozenset({"kubernetes", "helm", "nim-operator", "kserve"})
_UPGRADES = {
    "compose": "Compose: `docker compose up --build --detach --wait` starts the new one in the old one's place.",
    "systemd": "systemd: copy the model and the unit as the unit's first lines say, then restart the service.",
    "kubernetes": "Kubernetes: load the new volume, then apply; the old server goes once the new one may come. "
    "`kubectl rollout undo` goes back, to the old image and the old volume.",
    "helm": "Helm: load the new volume, then `helm upgrade`; `helm rollback` goes back.",
    "nim-operator": "NIM Operator: load the new volume, then apply the new service.",
    "kserve": "KServe: load the new volume, then apply the new runtime and the new service.",
}


def files(contents: BundleContents) -> dict[str, str]:
    """Explain how to run, call, monitor, upgrade and remove it, for each target of the bundle."""
    text = render_text(
        "readme/README.md.j2",
        bundle=contents,
        recipe=contents.recipe,
        url=f"http://127.0.0.1:{contents.recipe.serve.port}",
        request=_request(contents),
        in_cluster=bool(_CLUSTER & set(contents.targets)),
        settings=list(_settings()),
        kind=RUNTIMES[contents.image.runtime],
        model_routes=", ".join(f"`{path}`" for path in RUNTIMES[contents.image.runtime].FIELDS),
        upgrades=_UPGRADES,
    )
    return {"README.md": text}


def _request(contents: BundleContents) -> str:
    """Write the request body for `curl --data`."""
    request = {
        "model": contents.model_name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 64,
    }
    return shlex.quote(json.dumps(request, ensure_ascii=False))


def _settings() -> Iterator[tuple[str, list[Variable]]]:
    for topic, variables in groupby(VARIABLES, key=lambda variable: variable.topic):
        yield topic[:1].upper() + topic[1:], list(variables)
