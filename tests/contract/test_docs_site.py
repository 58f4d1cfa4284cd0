"""The site of the documentation: it builds without a warning, has what pages link to, and loads nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.environments import ROOT, mkdocs

_LOADED = re.compile(r"<(?:script|img)[^>]* src=[\"']?https?:|<link[^>]* rel=[\"']?stylesheet[\"']?[^>]*https?:")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ended = build("--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(mkdocs()), "build", "--strict", *arguments]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_link_to_a_file_beside_the_docs_leads_to_its_copy_in_the_site(site: Path) -> None:
    page = (site / "reference" / "recipes.html").read_text("utf-8")

    assert 'href="../project/recipes/llama3-70b-nvfp4.yaml"' in page
    copy = site / "project" / "recipes" / "llama3-70b-nvfp4.yaml"
    assert copy.read_bytes() == (ROOT / "recipes" / "llama3-70b-nvfp4.yaml").read_bytes()


def test_a_page_of_the_repositorys_root_links_back_into_the_docs(site: Path) -> None:
    page = (site / "project" / "CONTRIBUTING.html").read_text("utf-8")

    assert 'href="../how-to/add-a-recipe.html"' in page


def test_every_page_is_in_the_search(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text("utf-8")

    for page in (ROOT / "docs" / "how-to").glob("*.md"):
        name = "index" if page.name == "README.md" else page.stem
        assert f'"how-to/{name}.html"' in index


def test_no_page_loads_anything_from_another_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not _LOADED.search(page.read_text("utf-8")), page


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("# Start\n\n[gone](../recipes/gone.yaml)\n", "utf-8")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[0] + "\nnav: [{Decisions: [README.md]}]\n"
    settings = settings.replace("hooks: [", f"hooks: [{ROOT}/")
    (tmp_path / "mkdocs.yml").write_text(settings, "utf-8")

    ended = build("--config-file", str(tmp_path / "mkdocs.yml"))

    assert ended.returncode != 0
    assert "gone.yaml" in ended.stdout + ended.stderr
