"""A hook of MkDocs: pages may link to files beside docs/, and the site loads nothing from other servers.

A link that leaves docs/ (`../../recipes/NAME.yaml`, `../CHANGELOG.md`) works for a reader of the page in the
repository. For the site the file is taken along, under `project/`, and the link is rewritten.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PROJECT = PurePosixPath("project")
"""Where the site has the repository's files that are not in docs/."""

_DOCS = PurePosixPath("docs")
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
_ALONE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the repository's root that the navigation names."""
_LOADED = re.compile(r"<(?:script|img|iframe)[^>]* src=[\"']?https?:|<link[^>]* rel=[\"']?stylesheet[^>]*https?:")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the decisions to the navigation."""
    decisions = next(part["Decisions"] for part in config.nav or () if "Decisions" in part)
    decisions += [f"adr/{page.name}" for page in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what pages link to."""
    pending = [file for file in files if file.is_documentation_page() and file.inclusion.is_included()]
    pending += [_along(files, config, PurePosixPath(name)) for name in _ALONE]
    while pending:
        page = pending.pop()
        for link in _LINK.findall(page.content_string):
            target = _target(page, link)
            if not target.is_relative_to(_DOCS) and (ROOT / target).is_file() and not _known(files, target):
                added = _along(files, config, target)
                pending += [added] if added.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - by name
    """Rewrite links to where the site has their files."""
    folder = PurePosixPath(page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        return os.path.relpath(_place(_target(page.file, match[1])), folder)

    return _LINK.sub(rewritten, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001 - called by name
    """Refuse what would be loaded from elsewhere.

    Raises:
        PluginError: The page loads something from another server.
    """
    if found := _LOADED.search(output):
        message = f"{page.file.src_uri} loads something from another server: {found[0]}"
        raise PluginError(message)
    return output


def _along(files: Files, config: MkDocsConfig, target: PurePosixPath) -> File:
    file = File.generated(config, str(PROJECT / target), abs_src_path=str(ROOT / target))
    files.append(file)
    return file


def _known(files: Files, target: PurePosixPath) -> bool:
    return files.get_file_from_path(str(PROJECT / target)) is not None


def _target(page: File, link: str) -> PurePosixPath:
    """Say which file of the repository a page's link means."""
    uri = PurePosixPath(page.src_uri)
    source = uri.relative_to(PROJECT) if uri.is_relative_to(PROJECT) else _DOCS / uri
    return PurePosixPath(os.path.normpath(source.parent / link))


def _place(target: PurePosixPath) -> PurePosixPath:
    """Say where the site has a file of the repository."""
    return target.relative_to(_DOCS) if target.is_relative_to(_DOCS) else PROJECT / target
