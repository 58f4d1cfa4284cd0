"""The end of a certificate, and free disk space."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.machine import certificate_end, free_bytes


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([tag]) + (bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)) + content


def _certificate(end: bytes, tag: int, *, version: bytes = b"\xa0\x03\x02\x01\x02") -> str:
    validity = _der(0x30, _der(0x17, b"200101000000Z") + _der(tag, end))
    issuer = _der(0x30, b"x" * 200)
    fields = version + _der(0x02, b"\x01") + _der(0x30, b"") + issuer + validity + _der(0x30, b"subject")
    return _pem(_der(0x30, _der(0x30, fields) + _der(0x30, b"") + _der(0x03, b"s")))


def _pem(certificate: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(certificate).decode()}-----END CERTIFICATE-----\n"


def _cut_off() -> str:
    """Leave out the last byte, of the signature."""
    return _pem(ssl.PEM_cert_to_DER_cert(_certificate(b"301231235959Z", 0x17))[:-1])


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (_certificate(b"301231235959Z", 0x17), datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (_certificate(b"20551231235959Z", 0x18), datetime(2055, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (_certificate(b"301231235959Z", 0x17, version=b""), datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("key first\n" + _certificate(b"301231235959Z", 0x17) + _certificate(b"290101000000Z", 0x17),
         datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_the_end_of_the_first_certificate_is_read(tmp_path: Path, text: str, end: datetime) -> None:
    (tmp_path / "tls.crt").write_text(text)
    assert certificate_end(tmp_path / "tls.crt") == end.timestamp()


@pytest.mark.parametrize(
    "text",
    ["", "broken", _pem(bytes(3)), _certificate(b"soon", 0x17), _cut_off()],
)
def test_what_is_no_certificate_has_no_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "tls.crt").write_text(text)
    assert certificate_end(tmp_path / "tls.crt") is None
    assert certificate_end(tmp_path / "nothing") is None


def test_a_folder_that_is_not_there_has_no_space(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "nothing") is None
    found = free_bytes(tmp_path)
    assert found is not None
    assert found > 0
