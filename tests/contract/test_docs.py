"""The documentation is true: what it shows exists, what it links to is there, what is generated is current."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from docs.generate.errors import codes_in
from docs.generate.recipes import SETTINGS
from orchestrator.cli.main import EXIT_STATUSES, cli
from orchestrator.errors import OrchestratorError

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "reference" / "errors.md"
RECIPES = ROOT / "docs" / "reference" / "recipes.md"
GUIDES = tuple(sorted(page for page in (ROOT / "docs" / "how-to").glob("*.md") if page.name != "README.md"))
PAGES = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]))
PLACEHOLDER = re.compile(r"[A-Z]+|my-model.*")
"""How a page calls a recipe of the reader's own."""

_FENCED = re.compile(r"^ *```[a-z]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_PROGRAMS = {
    "make": "make",
    "orchestrator": "orchestrator",
    ".venv/bin/orchestrator": "orchestrator",
    "orchestrator-ci": "orchestrator",
}


def shown(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of a program in a page's blocks of code."""
    for block in _FENCED.findall(page.read_text("utf-8")):
        for line in block.splitlines():
            yield from _calls(line.strip().removeprefix("$ ").removeprefix("- run: "), program)


def _calls(line: str, program: str) -> Iterator[list[str]]:
    for part in re.split(r" && |; |\$\(", line):
        try:
            words = shlex.split(part.rstrip('")'), comments=True)
        except ValueError:  # not a command line
            continue
        first = 0 if not words or words[0] != "docker" else next((i for i, w in enumerate(words) if w in _PROGRAMS), 0)
        if words and "--tag" not in words and _PROGRAMS.get(words[first]) == program:
            yield words[first + 1 :]


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_that_a_page_shows_is_understood(page: Path) -> None:
    for arguments in shown(page, "orchestrator"):
        for name in _recipes_of(arguments):
            assert name in SETTINGS.book.names or PLACEHOLDER.fullmatch(name), f"{arguments}: no such recipe"


def _recipes_of(arguments: list[str]) -> tuple[str, ...]:
    """Let click read a command line, as far as running it; it raises where the command or an option is unknown."""
    root = click.Context(cli, info_name="orchestrator")
    _, words, _ = cli.make_parser(root).parse_args(list(arguments))
    if not words:  # --help, --version, or an image's own command
        return ()
    name, command, rest = cli.resolve_command(root, words)
    assert command is not None
    found = command.make_context(name, rest, parent=root).params
    named = found.get("recipes") or (found.get("recipe"),)
    return tuple(recipe.name for recipe in named if recipe and recipe.file is None)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_make_target_that_a_page_shows_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for arguments in shown(page, "make"):
        for word in arguments:
            name, _, value = word.partition("=")
            if name == "RECIPE":
                assert value in SETTINGS.book.names
            elif not value:
                assert word in targets


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", page.read_text("utf-8"))):
        place, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in _anchors(target), link


def _sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", _FENCED.sub("", text), re.MULTILINE)


@cache
def _anchors(page: Path) -> frozenset[str]:
    headings = _HEADING.findall(_FENCED.sub("", page.read_text("utf-8")))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def test_every_generated_page_says_what_the_code_says() -> None:
    # In a process of its own: click remembers an option of a command that another test called without its group.
    command = [sys.executable, "-m", "docs.generate", "--check"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_page_of_recipes_lists_every_recipe() -> None:
    rows = r"^\| \[([^\]]+)\]\(../../recipes/\1\.yaml\)"
    listed = re.findall(rows, RECIPES.read_text("utf-8"), re.MULTILINE)

    assert listed == sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))


def test_the_table_of_errors_is_that_of_the_classes() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", ERRORS.read_text("utf-8"), re.MULTILINE)

    assert {(code, int(status)) for code, status in rows} == set(_codes(OrchestratorError))


def _codes(kind: type[OrchestratorError]) -> Iterator[tuple[str, int]]:
    for child in kind.__subclasses__():
        if child.__module__ == OrchestratorError.__module__:
            if "code" in vars(child):
                yield child.code, child.exit_status
            yield from _codes(child)


def test_the_exit_statuses_of_the_reference_are_those_of_the_help_and_the_classes() -> None:
    section = ERRORS.read_text("utf-8").split("## Exit statuses")[1].split("\n## ")[0]
    listed = {
        int(number) for cell in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for number in cell.split(",")
    }

    assert listed == {int(number) for number in re.findall(r"\b\d+\b", EXIT_STATUSES)}
    assert listed == {0, 1, 2, 130, 143} | {status for _, status in _codes(OrchestratorError)}


def test_the_readme_has_at_most_9_kib() -> None:
    assert len(README.read_bytes()) <= 9 * 1024


@pytest.mark.parametrize("page", GUIDES, ids=relative)
def test_every_guide_begins_with_what_is_needed_and_ends_with_how_it_is_seen_to_work(page: Path) -> None:
    sections = _sections(page.read_text("utf-8"))

    assert sections[0] == "What you need"
    assert sections[-1] == "How you see that it worked"
    assert f"]({page.name})" in (page.parent / "README.md").read_text("utf-8")


def test_every_code_of_a_refusal_is_explained() -> None:
    explained = set(re.findall(r"^\| `?([A-Z0-9_]+)`? \| [^\d]", ERRORS.read_text("utf-8"), re.MULTILINE))
    rules = (ROOT / "orchestrator" / "planner" / "rules").glob("*.py")
    used = {code for file in rules for code in codes_in(ast.parse(file.read_text("utf-8")))}
    used |= {fault.code for image in SETTINGS.catalog.images.values() for fault in image.faults}

    assert used <= explained


def test_the_decision_on_libraries_lists_those_that_the_tool_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    page = (ROOT / "docs" / "adr" / "0012-libraries.md").read_text("utf-8")
    listed = [
        name for cell in re.findall(r"^\| ([\w, -]+?)(?: \([^|]*)? \|", page, re.MULTILINE) for name in cell.split(", ")
    ]

    assert sorted(name.lower() for name in listed if name not in {"library", "---"}) == sorted(
        re.split(r"[<>=~!]", wanted)[0].lower() for wanted in project["dependencies"]
    )


def test_every_decision_is_in_the_index_and_says_what_would_change_it() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text("utf-8")
    for page in sorted(folder.glob("[0-9]*.md")):
        text = page.read_text("utf-8")

        assert f"]({page.name})" in index
        assert text.startswith(f"# {page.name[:4]}: ")
        assert _sections(text) == ["Context", "Decision", "Consequences", "What would change it"]
