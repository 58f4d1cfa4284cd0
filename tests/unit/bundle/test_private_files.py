"""Canaries in every place of a bundle where a secret may lie: none is in what leaves the machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.bundle.files import SUMS, sums_text
from orchestrator.bundle.private_files import is_private, shareable
from orchestrator.bundle.targets import render_files
from orchestrator.deployment.archive import archive
from orchestrator.deployment.compose_file import read
from orchestrator.deployment.digests import stream_context
from orchestrator.deployment.images import BuiltFrom
from tests.support.bundles import contents_of

CANARY = b"KEY=canary-of-a-secret-0123456789"
PLACES = (
    ".env",
    ".env.bak",
    "secrets/api_keys",
    "secrets/tls.key",
    "secrets/more/tls.pem",
    "two-sparks/.env",
    "two-sparks/.env~",
    "two-sparks/keys/user",
    "two-sparks/keys/host",
    "edited/compose.yaml",
    "model/.env",
    "model/.cache/token",
    "gateway/tls.key",
    "tls.key",
    "id_ed25519",
)
"""What the project knows as private, and what somebody may have left beside it."""


def render(folder: Path, artifacts: Path, *, embed: bool = False) -> Path:
    contents = replace(contents_of("llama3-70b-nvfp4-published", artifacts), embed_model=embed)
    files = {name: text.encode() for name, text in render_files(contents).items()}
    for part in contents.parts:
        files |= {f"{part.name}/{file.path}": (part.artifact.folder / file.path).read_bytes() for file in part.files}
    for name, content in files.items():
        _write(folder / name, content)
    _write(folder / SUMS, sums_text({name: hashlib.sha256(text).hexdigest() for name, text in files.items()}).encode())
    for name in PLACES:
        _write(folder / name, CANARY)
    return folder


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.mark.parametrize("embed", [False, True])
def test_no_secret_is_in_what_docker_gets_to_build_an_image_of(tmp_path: Path, *, embed: bool) -> None:
    folder = render(tmp_path / "bundle", tmp_path / "artifacts", embed=embed)
    context = b"".join(stream_context(folder, "Dockerfile"))
    assert CANARY not in context
    with tarfile.open(fileobj=io.BytesIO(context)) as file:
        names = file.getnames()
    assert ("model/config.json" in names) == embed
    assert {"start_server.sh", "gateway/keys.py", "serve.json"} <= set(names)


def test_a_name_that_is_a_pattern_allows_its_own_file(tmp_path: Path) -> None:
    contents = contents_of("llama3-70b-nvfp4-published", tmp_path)
    (part,) = contents.parts
    odd = replace(part, files=(replace(part.files[0], path="a[1]*.json"),))
    ignored = render_files(replace(contents, parts=(odd,), embed_model=True))[".dockerignore"]
    (tmp_path / ".dockerignore").write_text(ignored)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a[1]*.json").touch()
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream_context(tmp_path, "Dockerfile")))) as file:
        assert "model/a[1]*.json" in file.getnames()


def test_no_secret_is_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = render(tmp_path / "bundle", tmp_path / "artifacts")
    _write(folder / "images" / "0" / "00000.part", CANARY)
    monkeypatch.setattr("orchestrator.deployment.images.ensure", lambda *_: "sha256:1")
    monkeypatch.setattr(
        "orchestrator.deployment.images.find", lambda *_: SimpleNamespace(id="sha256:1", attrs={"Size": 3})
    )
    monkeypatch.setattr("orchestrator.deployment.images.architecture_of", lambda *_: "arm64")
    file = tmp_path / "bundle.tar"
    wanted = [BuiltFrom(service, folder) for service in read(folder, {}).chosen(()).values()]
    archive(_Docker(), folder, wanted, file, observer=lambda _: None)  # type: ignore[arg-type]
    assert CANARY not in file.read_bytes()
    with tarfile.open(file) as written:
        names = {name.partition("/")[2] for name in written.getnames()}
    assert {"secrets/README", "model/config.json", "compose.yaml", "images/0/00000.part", SUMS} <= names


class _Docker:
    """A Docker whose every image has three bytes."""

    class api:  # noqa: N801 - as docker-py names it
        timeout = 60
        base_url = "tcp://elsewhere"

        @staticmethod
        def get_image(_: str) -> Iterator[bytes]:
            return iter([b"one"])


def test_what_may_leave_is_what_the_build_lists_and_nothing_private(tmp_path: Path) -> None:
    folder = render(tmp_path / "bundle", tmp_path / "artifacts")
    listed: dict[str, Any] = {name: hashlib.sha256(CANARY).hexdigest() for name in PLACES if is_private(name)}
    with (folder / SUMS).open("a") as sums:  # a damaged list makes no secret public
        sums.write(sums_text(listed))
    leaving = shareable(folder)
    assert not set(leaving) & set(PLACES)
    assert "secrets/README" in leaving
