"""Secrets that are easy to find again: every place where one may lie, and what searches all that leaves a machine."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLES = {
    "HF_TOKEN": "hf_canary_of_the_hub_0123456789",
    "NGC_API_KEY": "nvapi-canary-of-ngc-0123456789",
    "DOCKER_PASSWORD": "canary-of-docker-0123456789",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-cloud-0123456789",
    "ORCHESTRATOR_API_KEY": "nimg-canary-of-the-gateway-0123456789",
    "ORCHESTRATOR_KEY_PASSWORD": "canary-of-the-signing-key-0123456789",
    "SIGSTORE_ID_TOKEN": "canary.of.an-identity-0123456789",
    "HTTPS_PROXY": "http://me:canary-of-the-proxy-0123456789@proxy.example:8080",
}
"""Of the shell that a command is typed in."""
PLACES = (
    *(".env", ".env.bak", "secrets/api_keys", "secrets/tls.key", "secrets/more/tls.pem"),
    *("two-sparks/.env", "two-sparks/.env~", "two-sparks/keys/user", "two-sparks/keys/host"),
    *("edited/compose.yaml", "gateway/tls.key", "gateway/id_ed25519", "tls.key", "id_ed25519"),
)
"""Of a bundle: what the project knows as private, and what somebody may have left beside it."""
IN_THE_MODEL = ("model/.env", "model/.cache/token")
"""The same in the folder of the weights, where a copy refuses what no list names."""
_OF_FILES = "canary-of-a-file-0123456789"
_BASE64 = re.compile(rb"[A-Za-z0-9+/=\n]{64,}")


def fill(bundle: Path, places: Iterable[str] = PLACES) -> None:
    """Put a secret into places of a bundle. Settings that a script reads are left as they are, and get a line more."""
    for place in places:
        file = bundle / place
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"KEY={_OF_FILES}\n")


def found_in(*given: Path | bytes | str) -> list[str]:
    """Name every canary in files, folders and their names, or outputs; base64 is searched as well."""
    return [f"{canary} in {name}" for name, content in _contents(given) for canary in _canaries_of(content)]


def _contents(given: Iterable[Path | bytes | str]) -> Iterator[tuple[str, bytes]]:
    for one in given:
        if isinstance(one, Path):
            for file in (one, *one.rglob("*")):
                if file.is_file():
                    yield str(file), os.fsencode(file) + file.read_bytes()
        else:
            yield "an output", one.encode() if isinstance(one, str) else one


def _canaries_of(content: bytes) -> Iterator[str]:
    whole = b"".join((content, *_decoded(content)))
    for canary in (*VARIABLES.values(), _OF_FILES):
        if (canary.rpartition("@")[0].rpartition(":")[2] or canary).encode() in whole:
            yield canary


def _decoded(content: bytes) -> Iterator[bytes]:
    for part in _BASE64.findall(content):
        try:
            yield base64.b64decode(part)
        except binascii.Error:
            continue
