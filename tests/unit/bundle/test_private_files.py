"""Which files of a bundle may leave its machine. What really leaves is in tests/contract/test_no_secret_leaves.py."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

from orchestrator.bundle.files import SUMS, sums_text
from orchestrator.bundle.private_files import is_private, shareable
from orchestrator.bundle.targets import render_files
from orchestrator.deployment.digests import stream_context
from tests.support import canaries
from tests.support.bundles import contents_of


def test_a_name_that_is_a_pattern_allows_its_own_file(tmp_path: Path) -> None:
    contents = contents_of("llama3-70b-nvfp4-published", tmp_path)
    (part,) = contents.parts
    odd = replace(part, files=(replace(part.files[0], path="a[1]*.json"),))
    ignored = render_files(replace(contents, parts=(odd,), embed_model=True))[".dockerignore"]
    (tmp_path / ".dockerignore").write_text(ignored)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a[1]*.json").touch()
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream_context(tmp_path, "Dockerfile")))) as file:
        assert "model/a[1]*.json" in file.getnames()


def test_what_may_leave_is_what_the_build_lists_and_nothing_private(tmp_path: Path) -> None:
    canaries.fill(tmp_path)
    (tmp_path / "secrets" / "README").write_text("keys go here")
    private = [name for name in canaries.PLACES if is_private(name)]
    assert len(private) > len(canaries.PLACES) / 2
    listed = dict.fromkeys(("secrets/README", "gone", *private), "0" * 64)  # a damaged list makes no secret public
    (tmp_path / SUMS).write_text(sums_text(listed))
    assert shareable(tmp_path) == ("secrets/README",)
