"""Creates and checks API keys: hashed in a file, compared in constant time, read again when the file changes.

A key has 256 random bits, so that a fast hash is enough. A line of the file:

    alice sha256:4e0c…
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import DocumentError, UsageError
from .logs import Log
from .settings import KeyLines

PREFIX = "nimg-"
_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{0,63})\s+sha256:(?P<digest>[0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_CHECK_SECONDS = 1.0
"""Seconds between two checks whether the file changed."""


@dataclass(frozen=True)
class Key:
    """A line of the file."""

    name: str
    digest: bytes


def digest_of(key: str) -> bytes:
    """Hash a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """Read a file of keys.

    Raises:
        DocumentError: A line is invalid. The message does not repeat it, because it may be a key.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        found = _LINE.fullmatch(content)
        if not found:
            message = (
                f"{source}:{number}: expected NAME sha256:DIGEST, as `start_server.sh create-api-key NAME` prints it"
            )
            raise DocumentError(message)
        keys.append(Key(found["name"], bytes.fromhex(found["digest"])))
    return tuple(keys)


def create_key(name: str, file: Path | None) -> tuple[str, str]:
    """Create a key, and add it to a file if one is named.

    Args:
        name: Its owner.
        file: The file of keys. It is replaced as a whole; a new file is readable by its owner only.

    Returns:
        The key, which cannot be shown again, and its line.

    Raises:
        UsageError: The name is invalid, or has a key already.
        DocumentError: The file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        message = f"{name!r}: a name has at most 64 letters, digits and . _ @ -"
        raise UsageError(message)
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name} sha256:{digest_of(key).hex()}"
    if file is not None:
        _add(file, name, line)
    return key, line


def _add(file: Path, name: str, line: str) -> None:
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if any(key.name == name for key in parse_keys(text, str(file))):
            message = f"{file}: {name} has a key; remove its line first, or choose another name"
            raise UsageError(message)
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        text += "" if not text or text.endswith("\n") else "\n"
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as fresh:
            fresh.write(f"{text}{line}\n")
            os.fchmod(fresh.fileno(), mode)
        Path(fresh.name).replace(file)
    except OSError as error:
        message = f"cannot write {file}: {error.strerror}"
        raise DocumentError(message) from error


class KeyRing:
    """The valid keys.

    Args:
        source: The file of keys, or its lines, which never change.
        log: Gets the changes.

    Raises:
        DocumentError: The file cannot be read.
    """

    def __init__(self, source: Path | KeyLines, log: Log) -> None:
        self._source = source
        self._log = log
        self._state = self._file_state()
        self._keys = self._read()
        self._checked = time.monotonic()

    def owner(self, key: str) -> str | None:
        """Return the owner of a key; None if it is unknown. The time is the same for every key."""
        self._reload_if_changed()
        digest, owner = digest_of(key), None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                owner = known.name
        return owner

    def reload(self) -> None:
        """Read the file again. If it cannot be read, the old keys stay."""
        self._state = self._file_state()
        try:
            self._keys = self._read()
        except DocumentError as error:
            self._log.error("cannot read the API keys; the old ones stay", reason=str(error))
        else:
            self._log.info("keys read", file=str(self._source), keys=len(self._keys))

    def _reload_if_changed(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        if self._file_state() != self._state:
            self.reload()

    def _file_state(self) -> tuple[int, ...]:
        if isinstance(self._source, KeyLines):
            return ()
        try:
            status = self._source.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> tuple[Key, ...]:
        if isinstance(self._source, KeyLines):
            return parse_keys(self._source.text, "NIM_GATEWAY_API_KEYS")
        try:
            text = self._source.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            message = f"cannot read the API keys in {self._source}: {error}"
            raise DocumentError(message) from error
        return parse_keys(text, str(self._source))
