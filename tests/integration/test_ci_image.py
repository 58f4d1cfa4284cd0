"""The small image that dry-runs every recipe in a container: built from its Dockerfile, without network at run time."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.base_image import write_root
from tests.support.docker_daemon import Daemon
from tests.support.environments import LOCK, locked_wheels

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]
BASE, IMAGE = "orchestrator-test-pip:1", "orchestrator-test-ci:1"
COPIED = ("pyproject.toml", "README.md", "LICENSE", "orchestrator", "recipes", "docker")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build's context with the wheels of the lock, which set-up left, since containers have no network here."""
    folder = tmp_path_factory.mktemp("context")
    for name in COPIED:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(place, folder / name)
    shutil.copytree(LOCK, folder / "requirements", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(locked_wheels(), folder / "wheels")
    return folder


@pytest.fixture(scope="module")
def image(daemon: Daemon, context: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("base") / "root.tar"
    write_root(root, packages=("pip",), to_come=("numpy", "pydantic_core", "tokenizers"))
    with closing(daemon.connect()) as client:
        client.api.import_image(str(root), repository=BASE, changes=["ENV PATH=/usr/local/bin:/bin"])
        with closing(_packed(context)) as packed:
            client.images.build(
                fileobj=packed,
                custom_context=True,
                dockerfile="docker/ci.Dockerfile",
                tag=IMAGE,
                buildargs={"BASE": BASE, "WHEELS": "wheels"},
                network_mode="none",
                rm=True,
            )
        yield IMAGE


def _packed(folder: Path) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, ".")
    packed.seek(0)
    return packed


def _run(daemon: Daemon, image: str, *arguments: str) -> str:
    with closing(daemon.connect()) as client:
        return str(client.containers.run(image, list(arguments), network_mode="none", remove=True).decode())


def test_the_image_dry_runs_every_recipe_of_the_catalogue(daemon: Daemon, image: str) -> None:
    said = _run(daemon, image)
    for file in (ROOT / "recipes").glob("*.yaml"):
        assert f"✓ {file.stem}:" in said


def test_the_image_plans_one_recipe_for_a_program(daemon: Daemon, image: str) -> None:
    document = json.loads(_run(daemon, image, "build", "llama3-70b-nvfp4", "--dry-run", "--json"))
    assert [step["name"] for step in document["steps"]] == [
        "download",
        "download-calibration",
        "calibration",
        "quantize",
        "held-out",
        "evaluate",
        "verify",
        "benchmark",
    ]
