"""The lock: for each environment a file of pinned and hashed requirements, resolved from pyproject.toml by uv.

    python requirements/lock.py                            write the files again; versions that still fit are kept
    python requirements/lock.py --upgrade                  the same with the newest versions
    python requirements/lock.py --check                    fail where pyproject.toml changed and the files did not
    python requirements/lock.py --newest FOLDER            resolve the newest of everything into a folder
    python requirements/lock.py --lowest FOLDER            resolve the lowest that pyproject.toml allows into a folder

`--check` needs no network. Everything else asks the package index alone, never a wheel of this machine, so the hashes
are the index's. The files hold names, versions, markers and hashes. docs/adr/0029 says why they have this form.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(__file__).resolve().parent
PYPROJECT = ROOT / "pyproject.toml"


@dataclass(frozen=True)
class Environment:
    """A virtual environment that the project makes."""

    name: str
    groups: tuple[str, ...]
    """The dependency groups of pyproject.toml that it holds."""
    project: bool = False
    """Whether it holds the tool's own dependencies as well."""
    base: str | None = None
    """The environment that it is installed over, whose versions it keeps."""
    python: str = "3.11"
    """The oldest Python that it is resolved for."""


ENVIRONMENTS = (
    Environment("build", ("build",)),
    Environment("runtime", ("build",), project=True, base="build"),
    Environment("test", ("build", "test", "bundle"), project=True, base="runtime"),
    Environment("torch", ("build", "torch"), project=True, base="test"),
    Environment("mutants", ("build", "mutants"), base="test"),
    Environment("oracle", ("oracle",)),
    Environment("vllm", ("vllm",)),
    Environment("image", ("image",)),
    Environment("checkov", ("checkov",)),
    Environment("docs", ("docs",)),
    Environment("clients", ("clients",)),
)
"""In the order in which they are resolved: a base comes first."""

_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)", re.MULTILINE)
_BOUND = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:>=|==)(?P<version>[0-9][^,;\s]*)")
_INPUTS = "# resolved from: "
_HEAD = "# Written by `make relock` from pyproject.toml; do not edit.\n"


def main() -> int:
    """Run the command line; 7 where a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--upgrade", action="store_true")
    what.add_argument("--check", action="store_true")
    what.add_argument("--newest", type=Path, metavar="FOLDER")
    what.add_argument("--lowest", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.check:
        problems = list(stale())
    elif given.newest:
        resolve_all(given.newest)
        problems = []
        print("\n".join(changes(given.newest)))
    elif given.lowest:
        resolve_lowest(given.lowest)
        problems = list(too_low(given.lowest))
    else:
        resolve_all(FOLDER, upgrade=given.upgrade)
        problems = []
    for problem in problems:
        print(problem, file=sys.stderr)
    return 7 if problems else 0


def stale() -> Iterator[str]:
    """Name each file of the lock that was not resolved from pyproject.toml as it is now."""
    for environment in ENVIRONMENTS:
        file = FOLDER / f"{environment.name}.txt"
        wanted = f"{_INPUTS}{_inputs(environment)}\n"
        if not file.is_file():
            yield f"{file.relative_to(ROOT)} is missing: run `make relock`"
        elif wanted not in file.read_text("utf-8"):
            yield f"{file.relative_to(ROOT)} was resolved from another pyproject.toml: run `make relock`"


def resolve_all(folder: Path, *, upgrade: bool = False) -> None:
    """Write the file of each environment into a folder.

    Raises:
        subprocess.CalledProcessError: uv found no set of versions that fits; it has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for environment in ENVIRONMENTS:
        options = ["--universal", "--python-version", environment.python, *(["--upgrade"] if upgrade else [])]
        file = folder / f"{environment.name}.txt"
        _resolve(environment, file, options)
        text = re.sub(r"\A(#.*\n)+", "", file.read_text("utf-8"))
        file.write_text(f"{_HEAD}{_INPUTS}{_inputs(environment)}\n{text}", "utf-8")


def resolve_lowest(folder: Path) -> None:
    """Write the test environment with the lowest versions of the tool's own dependencies into a folder.

    The tools of the tests keep the lock's versions: what a user installs is what the lower bounds promise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runtime = Environment("runtime", (), project=True)
    lowest = folder / "lowest.txt"
    _resolve(runtime, lowest, ["--resolution", "lowest-direct", "--python-version", runtime.python])
    direct = {name for name, _ in _bounds(_read()["project"]["dependencies"])}
    pins = [f"{name}=={version}" for name, version in _pins(lowest).items() if name in direct]
    (folder / "constraints.txt").write_text("\n".join(pins) + "\n", "utf-8")
    test = Environment("test", ("build", "test"), project=True, base="constraints")
    _resolve(test, folder / "test.txt", ["--python-version", test.python])


def too_low(folder: Path) -> Iterator[str]:
    """Name each lower bound of a dependency that no set of versions can reach."""
    found = _pins(folder / "lowest.txt")
    for name, bound in _bounds(_read()["project"]["dependencies"]):
        if _release(found[name]) != _release(bound):
            yield f"pyproject.toml: {name}>={bound} cannot be had with the others; the lowest is {found[name]}"


def changes(folder: Path) -> Iterator[str]:
    """Say which versions of a folder's files are not the lock's."""
    for environment in ENVIRONMENTS:
        ours, theirs = _pins(FOLDER / f"{environment.name}.txt"), _pins(folder / f"{environment.name}.txt")
        for name in sorted(ours.keys() | theirs.keys()):
            before, after = ours.get(name, "absent"), theirs.get(name, "absent")
            if before != after:
                yield f"{environment.name}: {name} {before} -> {after}"


def _resolve(environment: Environment, file: Path, options: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-config",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
    ]
    command += [*options, "--output-file", str(file)]
    for group in environment.groups:
        command += ["--group", f"{PYPROJECT}:{group}"]
    if environment.project:
        command.append(str(PYPROJECT))
    if environment.base:
        command += ["--constraint", str(file.with_name(f"{environment.base}.txt"))]
    # Neither a wheel that lies on this machine nor another index may decide what the lock says.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    subprocess.run(command, check=True, cwd=ROOT, env=variables)


def _inputs(environment: Environment) -> str:
    """Name what a file is resolved from: all that pyproject.toml says of its environment."""
    read = _read()
    project = read["project"]
    said = {
        "python": [project["requires-python"], environment.python],
        "dependencies": project["dependencies"] if environment.project else [],
        "groups": {group: read["dependency-groups"][group] for group in environment.groups},
        "base": environment.base,
    }
    return "sha256:" + hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(PYPROJECT.read_text("utf-8"))


def _pins(file: Path) -> dict[str, str]:
    """Read the version of each package of a file, by its name; of several, the last."""
    found = _PINNED.finditer(file.read_text("utf-8"))
    return {_normal(match["name"]): match["version"] for match in found}


def _bounds(requirements: list[str]) -> Iterator[tuple[str, str]]:
    for match in filter(None, map(_BOUND.match, requirements)):
        yield _normal(match["name"]), match["version"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> tuple[str, ...]:
    parts = version.split(".")
    while parts and parts[-1] == "0":
        parts.pop()
    return tuple(parts)


if __name__ == "__main__":
    sys.exit(main())
