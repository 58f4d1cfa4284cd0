"""What a person reads first."""

from __future__ import annotations

import json
import shlex

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.texts import plain_text


def files(facts: Facts) -> dict[str, str]:
    """Say how to run it and what was measured."""
    text = plain_text("readme/README.md.j2", facts=facts, recipe=facts.recipe, question=_question(facts))
    return {"README.md": text}


def _question(facts: Facts) -> str:
    """Write what a person pastes after `curl --data`."""
    request = {
        "model": facts.model_name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 64,
    }
    return shlex.quote(json.dumps(request, ensure_ascii=False))
