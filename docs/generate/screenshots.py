"""Write the pictures of the pages that commands write: `python -m docs.generate.screenshots`.

Needs Chromium. It builds a small recipe in a temporary folder, lets each command write its page, and keeps what a
window shows of it in docs/images/. Pictures are not compared with the code, as browsers and fonts differ.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from docs.generate.markdown import ROOT

IMAGES = ROOT / "docs" / "images"
LARGEST = 150_000
"""Bytes of a picture."""

_BUILT = "tiny-llama-w4a16-nvfp4"
_PAGES: Mapping[str, tuple[str, ...]] = {
    "plan": ("plan", "llama3-70b-nvfp4-published"),
    "compare": ("compare", "llama3-70b"),
    "verify": ("verify", _BUILT),
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WINDOW = "1000,900"


def main() -> None:
    """Write all pictures."""
    browser = _browser()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _orchestrate(folder, "build", _BUILT)
        for name, command in _PAGES.items():
            page = folder / f"{name}.html"
            _orchestrate(folder, *command, "--html", str(page))
            picture = IMAGES / f"{name}.png"
            _take(browser, page, picture, folder / "profile")
            sys.stdout.write(f"wrote {picture.relative_to(ROOT)}, {picture.stat().st_size} bytes\n")


def _browser() -> str:
    for name in _BROWSERS:
        if found := shutil.which(name):
            return found
    sys.exit(f"none of {', '.join(_BROWSERS)} is installed; on Debian: sudo apt-get install -y chromium")


def _orchestrate(folder: Path, *arguments: str) -> None:
    places = ("--project", str(ROOT), "--store", str(folder / "store"), "--dist", str(folder / "dist"))
    command = [sys.executable, "-m", "orchestrator.cli.main", *places, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _take(browser: str, page: Path, picture: Path, profile: Path) -> None:
    look = ("--headless", "--hide-scrollbars", f"--window-size={_WINDOW}", f"--user-data-dir={profile}")
    sandbox = "--no-sandbox"  # a container gives it none, and it only sees what we wrote
    command = [browser, *look, sandbox, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    size = picture.stat().st_size
    if size > LARGEST:
        sys.exit(f"{picture.relative_to(ROOT)} has {size} bytes, more than {LARGEST}: make its window smaller")


if __name__ == "__main__":
    main()
