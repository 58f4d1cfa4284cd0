"""Write the generated pages, or with `--check` fail where one is stale."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generate import catalogue, commands, errors, examples, families, gateway, recipes, runs
from docs.generate.markdown import ROOT

PAGES: Mapping[str, Callable[[], str]] = {
    "recipe.md": recipes.reference,
    "recipes.md": recipes.shipped,
    "commands.md": commands.reference,
    "errors.md": errors.reference,
    "catalogue.md": catalogue.reference,
    "gateway.md": gateway.reference,
    "dry-run.md": runs.dry_run,
    "store.md": runs.store_layout,
    "events.md": runs.event_catalogue,
    "families.md": families.reference,
}
"""The pages of docs/reference that are generated whole."""

SECTIONS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"plan-in-short": examples.plan_in_short, "runtimes": catalogue.runtimes},
    "docs/explanation/planning.md": {"compare": examples.comparison},
    "docs/how-to/check-if-it-fits.md": {
        "plan": examples.plan_that_works,
        "compare": examples.comparison,
        "refusal": examples.plan_that_is_refused,
    },
}
"""The generated parts of pages that people write: what is between `<!-- NAME: … -->` and `<!-- end of NAME -->`."""


def contents() -> dict[Path, str]:
    """Give every generated file as it should be."""
    pages = {ROOT / "docs" / "reference" / name: write() for name, write in PAGES.items()}
    return {**pages, **{ROOT / name: _with_sections(ROOT / name, parts) for name, parts in SECTIONS.items()}}


def stale() -> tuple[Path, ...]:
    """Name the files that do not say what the code says now."""
    return tuple(file for file, text in contents().items() if not file.is_file() or file.read_text("utf-8") != text)


def _with_sections(file: Path, sections: Mapping[str, Callable[[], str]]) -> str:
    text = file.read_text("utf-8")
    for name, write in sections.items():
        begin, end = f"<!-- {name}: written by python -m docs.generate -->", f"<!-- end of {name} -->"
        found = re.findall(f"{re.escape(begin)}.*?{re.escape(end)}", text, flags=re.DOTALL)
        if len(found) != 1:
            message = f"{file.name} has {len(found)} sections between {begin} and {end}; one is expected"
            raise LookupError(message)
        text = text.replace(found[0], f"{begin}\n\n{write()}\n\n{end}")
    return text


def main() -> None:
    """Read the command line and write or check."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a page is stale")
    found = stale()
    if parser.parse_args().check:
        if found:
            names = ", ".join(str(file.relative_to(ROOT)) for file in found)
            sys.exit(f"{names}: not what the code says now; run: .venv/bin/python -m docs.generate")
        return
    fresh = contents()
    for file in found:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fresh[file], encoding="utf-8")
        sys.stdout.write(f"wrote {file.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
