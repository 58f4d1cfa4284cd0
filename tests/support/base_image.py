"""A container image made of this machine's own Python, because no registry can be reached: a few seconds, 100 MB.

It holds the interpreter that runs the tests, its standard library, NumPy and ml_dtypes, the shared libraries that all
of these need, busybox, and bash for scripts that ask for it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AIOHTTP = (
    "aiohttp",
    "aiohappyeyeballs",
    "aiosignal",
    "attr",
    "frozenlist",
    "idna",
    "multidict",
    "propcache",
    "typing_extensions",
    "yarl",
)
"""With all that it needs; trtllm-serve needs it, so a bundle's gateway finds it in the real image."""
PACKAGES = ("numpy", "ml_dtypes", "yaml", *_AIOHTTP)
APPLETS = (
    "sh",
    "cat",
    "chmod",
    "chown",
    "cp",
    "date",
    "echo",
    "dirname",
    "env",
    "false",
    "head",
    "id",
    "kill",
    "ls",
    "mkdir",
    "rm",
    "sleep",
    "true",
)
_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}
)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"


def write_root(file: Path, packages: Iterable[str] = PACKAGES, *, to_come: Iterable[str] = ()) -> None:
    """Write the image's root file system as a tar archive.

    Args:
        file: Where to.
        packages: The packages that it holds.
        to_come: Packages that will be installed in it, whose shared libraries must be there.
    """
    python = Path(sys.executable).resolve()
    with tarfile.open(file, "w") as archive:
        root = _Root(archive)
        for name in ("root", "tmp", "run/secrets", "proc", "sys", "dev", "etc"):
            root.folder(name, 0o1777 if name == "tmp" else 0o755)
        root.text("etc/passwd", _PASSWD)
        root.file(Path("/etc/ld.so.cache"))
        root.file(python)
        for name in ("python3", "python"):
            root.link(f"usr/local/bin/{name}", str(python))
        root.tree(Path(sysconfig.get_path("stdlib")))
        site = _site_packages(python)
        for package in packages:
            for folder in _folders(package):
                root.tree(folder, site / folder.name)
                root.file(folder, site / folder.name)
        busybox = shutil.which("busybox", path=f"{os.environ.get('PATH', '')}:/bin:/usr/bin")
        if busybox:
            root.file(Path(busybox), Path("/bin/busybox"))
            for applet in APPLETS:
                root.link(f"bin/{applet}", "/bin/busybox")
        later = [file for package in to_come for folder in _folders(package) for file in folder.rglob("*.so")]
        bash = shutil.which("bash")
        if bash:
            root.file(Path(bash), Path("/bin/bash"))
        for library in _libraries(root.binaries + later + ([Path(busybox)] if busybox else [])):
            root.file(library)


class _Root:
    """Adds files to the archive, each place once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._names: set[str] = set()
        self.binaries: list[Path] = []

    def _is_new(self, name: str) -> bool:
        new = name not in self._names
        self._names.add(name)
        return new

    def folder(self, name: str, mode: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        if self._is_new(name):
            self._archive.addfile(entry)

    def link(self, name: str, to: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, to
        if self._is_new(name):
            self._archive.addfile(entry)

    def text(self, name: str, text: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        if self._is_new(name):
            self._archive.addfile(entry, io.BytesIO(text.encode()))

    def file(self, source: Path, place: Path | None = None) -> None:
        name = os.path.normpath(place or source).lstrip("/")  # ldd answers with …/numpy/_core/../../numpy.libs/…
        if not source.is_file() or not self._is_new(name):
            return
        entry = self._archive.gettarinfo(source.resolve(), name)
        entry.uid = entry.gid = 0
        entry.type, entry.linkname = tarfile.REGTYPE, ""  # never a link to another name of the same file
        entry.size = source.stat().st_size
        with source.open("rb") as stream:
            self._archive.addfile(entry, stream)
        if ".so" in source.name or os.access(source, os.X_OK):
            self.binaries.append(source)

    def tree(self, source: Path, place: Path | None = None) -> None:
        for folder, folders, files in os.walk(source):
            folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
            for name in files:
                file = Path(folder) / name
                if file.suffix not in (".a", ".pyi", ".exe") and ".opt-" not in name:
                    self.file(file, (place or source) / file.relative_to(source))


def _folders(package: str) -> Iterator[Path]:
    """Find a package's folder, or the one file that it is, and the folder of the libraries that its wheel brought."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
    yield folder
    yield from folder.parent.glob(f"{package}.libs")


def _site_packages(python: Path) -> Path:
    command = (python, "-I", "-c", "import site; print(site.getsitepackages()[0])")
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def _libraries(binaries: list[Path]) -> set[Path]:
    """Find the shared libraries that these files need, the loader included, at the paths where they are looked up."""
    answer = subprocess.run(("ldd", *binaries), check=False, capture_output=True, text=True)
    words = (word for line in answer.stdout.splitlines() if not line.endswith(":") for word in line.split())
    return {Path(word) for word in words if word.startswith("/")}
