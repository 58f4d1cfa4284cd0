"""The OpenAPI description, as clients generate code from it.

UPDATE_GOLDEN=1 writes the file anew. What changes in it changes for every client: read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from orchestrator.bundle.gateway.openapi import describe

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "openapi.json"


def test_the_description_is_the_one_that_clients_know() -> None:
    found = json.dumps(describe(["tiny", "another"]), indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(found, encoding="utf-8")
    assert json.loads(found) == json.loads(GOLDEN.read_text(encoding="utf-8"))
