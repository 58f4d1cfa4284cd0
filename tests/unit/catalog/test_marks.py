"""How a folder of a user is told from others."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.catalog.marks import is_marked


def test_a_pipe_named_like_a_recipe_is_no_mark_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    os.mkfifo(tmp_path / "recipes" / "pipe.yaml")
    assert not is_marked(tmp_path)
