"""Digests of images, read from a real registry on this machine and from stand-ins that want a login."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from orchestrator.errors import ImageUnavailableError, RegistryAccessError, RegistryError
from orchestrator.registry.digests import Reference, docker_credentials, image_digests

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYERS = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER = b"a layer of an image"
KEY = "nvapi-canary-0123456789"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def push_blob(repository: str, content: bytes) -> dict[str, object]:
    place = requests.post(f"http://{repository.replace('/', '/v2/', 1)}/blobs/uploads/", timeout=10).headers["Location"]
    sign = "&" if "?" in place else "?"
    requests.put(f"{place}{sign}digest={digest(content)}", data=content, timeout=10).raise_for_status()
    return {"digest": digest(content), "size": len(content)}


def push_manifest(repository: str, tag: str, kind: str, fields: dict[str, object]) -> dict[str, object]:
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, **fields}).encode()
    url = f"http://{repository.replace('/', '/v2/', 1)}/manifests/{tag or digest(content)}"
    requests.put(url, data=content, headers={"Content-Type": kind}, timeout=10).raise_for_status()
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


def push_image(repository: str, architecture: str, tag: str = "") -> dict[str, object]:
    config = push_blob(repository, json.dumps({"architecture": architecture, "os": "linux"}).encode())
    layer = {"mediaType": LAYERS, **push_blob(repository, LAYER)}
    return push_manifest(repository, tag, MANIFEST, {"config": {"mediaType": CONFIG, **config}, "layers": [layer] * 2})


def push_index(repository: str, tag: str, architectures: tuple[str, ...] = ("amd64", "arm64")) -> dict[str, str]:
    """Push an index as `docker buildx` leaves it, with a record of how it was made.

    Returns:
        Its digest, and that of each image.
    """
    images = {name: push_image(repository, name) for name in architectures}
    record = push_image(repository, "unknown")
    entries = [image | {"platform": {"os": "linux", "architecture": name}} for name, image in images.items()]
    entries.append(record | {"platform": {"os": "unknown", "architecture": "unknown"}})
    index = push_manifest(repository, tag, INDEX, {"manifests": entries})
    return {"index": str(index["digest"]), **{name: str(image["digest"]) for name, image in images.items()}}


def test_an_index_gives_a_digest_of_its_own_and_one_per_architecture(registry: str) -> None:
    pushed = push_index(f"{registry}/nvidia/release", "1.0")
    found = image_digests(f"{registry}/nvidia/release:1.0")
    assert found.index == pushed["index"]
    assert found.platforms == {"amd64": pushed["amd64"], "arm64": pushed["arm64"]}
    assert found.sizes == {"amd64": 2 * len(LAYER), "arm64": 2 * len(LAYER)}


def test_an_image_without_an_index_is_its_own(registry: str) -> None:
    pushed = push_image(f"{registry}/nvidia/single", "arm64", "1.0")
    found = image_digests(f"{registry}/nvidia/single:1.0")
    assert (found.index, found.platforms) == (pushed["digest"], {"arm64": pushed["digest"]})


def test_a_tag_that_moved_has_another_digest_and_the_old_one_is_still_found(registry: str) -> None:
    name = f"{registry}/nvidia/moving"
    before = push_index(name, "1.0")["index"]
    after = push_index(name, "1.0", ("arm64",))["index"]
    assert before != after
    assert image_digests(f"{name}:1.0").index == after
    assert image_digests(f"{name}@{before}").index == before


def test_an_image_that_is_not_there_is_said_so(registry: str) -> None:
    with pytest.raises(ImageUnavailableError, match="nothing/here:9"):
        image_digests(f"{registry}/nothing/here:9")


def test_a_registry_that_does_not_answer_is_said_so() -> None:
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9 cannot be reached"):
        image_digests("127.0.0.1:9/some/image")


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag"),
    [
        ("nvcr.io/nvidia/tensorrt-llm/release:1.2.1", "nvcr.io", "nvidia/tensorrt-llm/release", "1.2.1"),
        ("debian", "docker.io", "library/debian", "latest"),
        ("owner/name:tag", "docker.io", "owner/name", "tag"),
        ("localhost:5000/name", "localhost:5000", "name", "latest"),
        ("h.io/a/b:t@sha256:00", "h.io", "a/b", "sha256:00"),
    ],
)
def test_a_name_is_taken_apart_as_docker_does(text: str, host: str, repository: str, tag: str) -> None:
    assert Reference.parse(text) == Reference(host, repository, tag)


@dataclass
class Keyed:
    """A registry with a token service, over TLS, as NVIDIA's and Docker's are."""

    host: str
    certificate: Path
    keys: dict[str, str] = field(default_factory=dict)
    """By user name; empty: everybody gets a token."""
    status: int = 0
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run(
            [*command, "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed (apt-get install openssl)")
    world = Keyed("", certificate)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"digest": "sha256:" + "a" * 64, "platform": {"os": "linux", "architecture": "arm64"}}],
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Stay quiet."""

        def do_GET(self) -> None:
            said = self.headers.get("Authorization", "")
            world.asked.append(f"{self.path} {said}")
            if self.path.startswith("/token"):
                user, _, password = base64.b64decode(said.removeprefix("Basic ")).decode().partition(":")
                good = not world.keys or world.keys.get(user) == password
                self._answer(200 if good else 401, json.dumps({"token": "a-token"}).encode())
            elif world.status:
                self._answer(world.status, b"")
            elif said != "Bearer a-token":
                realm = f'Bearer realm="https://{world.host}/token",service="s",scope="repository:a/b:pull"'
                self._answer(401, b"", realm)
            else:
                self._answer(200, manifest)

        def _answer(self, status: int, content: bytes, challenge: str = "") -> None:
            self.send_response(status)
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    world.host = f"localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_image_whose_size_nobody_tells_is_resolved_all_the_same(keyed: Keyed) -> None:
    found = image_digests(f"{keyed.host}/a/b:1", lambda _host: None, verify=str(keyed.certificate))
    assert (found.platforms, found.sizes) == ({"arm64": "sha256:" + "a" * 64}, {})


def ask(keyed: Keyed, credentials: tuple[str, str] | None = None) -> str:
    return image_digests(f"{keyed.host}/a/b:1", lambda _host: credentials, verify=str(keyed.certificate)).index


def test_a_public_image_is_read_with_a_token_for_nobody(keyed: Keyed) -> None:
    assert ask(keyed).startswith("sha256:")
    assert any(line.startswith("/token") and "Basic" not in line for line in keyed.asked)


def test_a_private_image_is_read_with_the_key(keyed: Keyed) -> None:
    keyed.keys = {"$oauthtoken": KEY}
    assert ask(keyed, ("$oauthtoken", KEY)).startswith("sha256:")
    assert all(KEY not in line for line in keyed.asked)  # in plain words; it travels as HTTP's basic authorization


@pytest.mark.parametrize("credentials", [None, ("$oauthtoken", KEY + "wrong")])
def test_a_key_that_is_missing_or_wrong_is_said_and_not_shown(
    keyed: Keyed, credentials: tuple[str, str] | None
) -> None:
    keyed.keys = {"$oauthtoken": KEY}
    with pytest.raises(RegistryAccessError) as caught:
        ask(keyed, credentials)
    assert "docker login" in caught.value.hint
    assert KEY not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, RegistryAccessError), (404, ImageUnavailableError), (429, RegistryError), (500, RegistryError)],
)
def test_what_a_registry_answers_is_said_in_our_words(keyed: Keyed, status: int, kind: type[Exception]) -> None:
    keyed.status = status
    with pytest.raises(kind):
        ask(keyed)


def docker_config(folder: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(fields))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_credentials_are_those_of_docker_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"auth": base64.b64encode(f"$oauthtoken:{KEY}".encode()).decode()}
    docker_config(tmp_path, monkeypatch, {"auths": {"nvcr.io": entry}})
    assert docker_credentials("nvcr.io") == ("$oauthtoken", KEY)
    assert docker_credentials("ghcr.io") is None


def test_credentials_may_come_from_a_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-canary"
    answer = json.dumps({"ServerURL": "nvcr.io", "Username": "$oauthtoken", "Secret": KEY})
    helper.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    docker_config(tmp_path, monkeypatch, {"credHelpers": {"nvcr.io": "canary"}})
    assert docker_credentials("nvcr.io") == ("$oauthtoken", KEY)


def test_a_helper_that_is_not_there_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_config(tmp_path, monkeypatch, {"credHelpers": {"nvcr.io": "absent"}})
    with pytest.raises(RegistryAccessError, match="cannot be read"):
        docker_credentials("nvcr.io")
