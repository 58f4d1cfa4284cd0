"""Containers and images are created again when what they are made of has changed, and only then."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.bundle.targets import render_files
from orchestrator.deployment.compose_file import SERVER, ComposeFile, read
from orchestrator.deployment.container import BundleService, create_arguments, specification
from orchestrator.deployment.digests import context_digest, mount_digest, stream_context
from tests.support.bundles import contents_of

RECIPE = "llama3-8b-nvfp4"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / RECIPE
    contents = render_files(contents_of(RECIPE, tmp_path / "artifacts")) | {"model/config.json": "{}", ".env": ""}
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_context_of_a_build_holds_what_the_dockerfile_copies_and_nothing_else(bundle: Path) -> None:
    (bundle / "secrets" / "api_keys").write_text("a secret")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream_context(bundle, "Dockerfile")))) as archive:
        entries = {entry.name: entry for entry in archive}
    assert {"Dockerfile", "start_server.sh", "serve.json", "gateway/__main__.py"} <= set(entries)
    assert not [name for name in entries if name.startswith(("model/", "secrets", ".env", "compose"))]
    assert {(entry.uid, entry.mtime) for entry in entries.values()} == {(0, 0)}


def replace_file(bundle: Path) -> None:
    (bundle / "gateway" / "routes.py").write_text("# another")


def add_file(bundle: Path) -> None:
    (bundle / "gateway" / "more.py").touch()


def edit_dockerfile(bundle: Path) -> None:
    with (bundle / "Dockerfile").open("a") as stream:
        stream.write("LABEL more=1\n")


@pytest.mark.parametrize("change", [replace_file, add_file, edit_dockerfile])
def test_an_image_is_another_when_a_file_of_it_is(bundle: Path, change: Callable[[Path], None]) -> None:
    before = context_digest(bundle, "Dockerfile")
    (bundle / "model" / "config.json").write_text('{"not": "in it"}')
    os.utime(bundle / "serve.json", (1, 1))
    assert context_digest(bundle, "Dockerfile") == before
    change(bundle)
    assert context_digest(bundle, "Dockerfile") != before


def test_a_bundle_that_was_written_anew_is_another_mount_even_with_the_same_files(bundle: Path) -> None:
    model = bundle / "model"
    before = mount_digest(model)
    assert mount_digest(model) == before
    fresh = bundle / "fresh"
    fresh.mkdir()
    os.link(model / "config.json", fresh / "config.json")
    model.rename(bundle / "old")
    fresh.rename(model)
    assert mount_digest(model) != before


def arguments(bundle: Path, compose: ComposeFile) -> dict[str, object]:
    placed = BundleService(bundle, compose, SERVER)
    limits = placed.service.ulimits
    return create_arguments(placed, image="sha256:1", content="2", ulimits=limits, version="1.41")


def test_the_engine_is_told_everything_that_compose_would_tell_it(bundle: Path) -> None:
    told = arguments(bundle, read(bundle, {}))
    host = told["host_config"]
    assert isinstance(host, dict)
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"] is True
    assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8355"}]}
    assert host["DeviceRequests"][0]["Count"] == 1
    assert host["ShmSize"] == 16 << 30
    assert {mount["Target"]: mount["ReadOnly"] for mount in host["Mounts"]} == {
        "/opt/nim/model": True,
        "/run/secrets": True,
        "/opt/nim/.cache": False,
    }
    assert told["stop_timeout"] == 50


def test_a_container_is_another_when_its_settings_image_or_files_are(bundle: Path) -> None:
    def named(image: str = "1", content: str = "2", **shell: str) -> str:
        return specification(BundleService(bundle, read(bundle, shell), SERVER), image, content)

    assert named() == named()
    others = {named(image="3"), named(content="3"), named(PORT="1"), named(NIM_LOG_LEVEL="DEBUG")}
    assert len(others | {named()}) == 5
