"""Finds results that an earlier version kept inside its own package, where an upgrade may delete them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote

from orchestrator.app.settings import Settings, data_home
from orchestrator.errors import HomeMissingError
from orchestrator.values import frozen

_PACKAGE = Path(__file__).resolve().parent.parent
_DATA = Path("orchestrator") / "_project"
_DISTRIBUTIONS = ("orchestrator", "trtllm-orchestrator")
"""The distribution's old and new name."""


@frozen
class Leftover:
    """A folder of results inside a package."""

    what: str
    folder: Path
    commands: tuple[str, ...]
    """Shell lines that move it."""


def leftovers(settings: Settings) -> tuple[Leftover, ...]:
    """Find results that earlier versions left, and say where to move them."""
    return tuple(found for data in _packages(settings.environment) for found in _in_package(data, settings))


def _in_package(data: Path, settings: Settings) -> Iterator[Leftover]:
    store, dist = data / ".orchestrator", data / "dist"
    if _has_results(store / "artifacts") and settings.store.root != store.resolve():
        yield Leftover("results", store, _moving_store(store, settings.store.root))
    if _has_results(dist) and settings.dist != dist.resolve():
        yield Leftover("deployments", dist, _moving_all(dist, settings.dist))


def _has_results(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _moving_store(old: Path, new: Path) -> tuple[str, ...]:
    """Move a whole store; only its artifacts if the new store exists, since each artifact is independent."""
    if new.exists():
        return _moving_all(old / "artifacts", new / "artifacts")
    return (f"mkdir -p {quote(str(new.parent))}", f"mv {quote(str(old))} {quote(str(new))}")


def _moving_all(old: Path, new: Path) -> tuple[str, ...]:
    return (f"mkdir -p {quote(str(new))}", f"mv -n {quote(str(old))}/* {quote(str(new))}/")


def _packages(environment: Mapping[str, str]) -> Iterator[Path]:
    """List the data folders inside our packages: in this Python and in the environments of uv and pipx."""
    places = [_PACKAGE / _DATA.name, *(Path(entry) / _DATA for entry in sys.path if entry)]
    for tools in _tool_folders(environment):
        for name in _DISTRIBUTIONS:
            places.extend(sorted((tools / name).glob(f"lib/python3*/site-packages/{_DATA}")))
    yield from dict.fromkeys(place.resolve() for place in places if place.is_dir())


def _tool_folders(environment: Mapping[str, str]) -> Iterator[Path]:
    """List the folders in which uv and pipx keep an environment for each tool."""
    try:
        home = data_home(environment)
    except HomeMissingError:
        return
    uv, pipx = environment.get("UV_TOOL_DIR"), environment.get("PIPX_HOME")
    yield Path(uv) if uv else home / "uv" / "tools"
    yield from (Path(pipx) / "venvs",) if pipx else (home / "pipx" / "venvs", home.parent / "pipx" / "venvs")
