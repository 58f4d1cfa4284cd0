"""Measures what an operator is warned of besides requests: free disk space, and the end of a certificate."""

from __future__ import annotations

import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path

_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
_LONG_LENGTH = 0x80


def free_bytes(folder: Path) -> int | None:
    """Return the free disk space of a folder; None if it is not there."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def certificate_end(file: Path) -> float | None:
    """Return the time, as Unix has it, at which the first certificate of a PEM file ends; None if it has none."""
    try:
        text = file.read_text(encoding="ascii", errors="replace")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return _end(ssl.PEM_cert_to_DER_cert(first))
    except (OSError, ValueError, IndexError):
        return None


def _end(certificate: bytes) -> float:
    """Read `validity.notAfter` of a certificate in DER (RFC 5280, 4.1)."""
    _, body, _ = _element(certificate)
    _, fields, _ = _element(body)
    tag, _, rest = _element(fields)
    if tag == _VERSION:
        _, _, rest = _element(rest)  # the serial number
    _, _, rest = _element(rest)  # the algorithm
    _, _, rest = _element(rest)  # the issuer
    _, validity, _ = _element(rest)
    _, _, rest = _element(validity)  # its beginning
    tag, written, _ = _element(rest)
    pattern = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(written.decode("ascii"), pattern).replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Split DER into the tag and the content of its first element, and what follows."""
    tag, length, start = data[0], data[1], 2
    if length & _LONG_LENGTH:
        start += length & ~_LONG_LENGTH
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        message = "the certificate is cut off"
        raise ValueError(message)
    return tag, data[start : start + length], data[start + length :]
