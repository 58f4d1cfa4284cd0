"""Downloads one file from Xet storage with hf_xet's own client. It resumes partial downloads.

hf_hub_download is not used because it writes its own file, starts it again after its process was killed, and checks
nothing. The stream below it yields bytes in order from any offset. They go to the same journaled, hashed file as
those of plain HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from huggingface_hub.utils import XetFileData, build_hf_headers  # type: ignore[attr-defined] # exported lazily

from orchestrator.hub.partial import Partial
from orchestrator.hub.stop import Stop, StoppedError
from orchestrator.hub.transfer import TooLongError

_CONFIG = {
    # hf_xet's memory; its own defaults, made for servers, reach 6 GB
    "reconstruction.download_buffer_size": 48_000_000,
    "reconstruction.download_buffer_perfile_size": 8_000_000,
    "reconstruction.download_buffer_limit": 64_000_000,
    "reconstruction.min_prefetch_buffer": 16_000_000,
    "reconstruction.min_reconstruction_fetch_size": 64_000_000,
    "client.retry_max_attempts": 3,  # plain HTTP can fetch the same bytes
    "client.retry_base_delay": "1s",
    "telemetry.enabled": False,
}


class _Pieces(Protocol):
    """Bytes of a file in their order; hf_xet declares no types."""

    def __next__(self) -> bytes: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def cancel(self) -> None: ...


class _Group(Protocol):
    """A connection to the storage of a repository."""

    def download_stream(self, about: object, *, start: int) -> _Pieces: ...


class XetFaultError(Exception):
    """The storage fails. The received bytes are kept, and the rest can come over plain HTTP."""


def stream(file: XetFileData, partial: Partial, stop: Stop, report: Callable[[int], None]) -> None:
    """Fetch the missing bytes of a file.

    Args:
        file: Its name in the storage, and the URL for a token.
        partial: Gets the bytes.
        stop: Checked after each piece.
        report: Called with the number of bytes so far.

    Raises:
        XetFaultError: The download fails in this way.
        TooLongError: More bytes arrive than the file has.
    """
    if partial.received < partial.size:
        with _opened(file, partial) as pieces:
            _take(pieces, partial, stop, report)
    if partial.received < partial.size:
        message = f"the storage ended the file after {partial.received} of {partial.size} bytes"
        raise XetFaultError(message)


def _take(pieces: _Pieces, partial: Partial, stop: Stop, report: Callable[[int], None]) -> None:
    while True:
        with _faults():
            piece = next(pieces, None)
        if piece is None:
            return
        stop.check()
        if partial.received + len(piece) > partial.size:
            raise TooLongError
        for part in _parts(piece):
            partial.write(part)
        report(partial.received)


def _parts(piece: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    """Split a piece, which may be as large as a chunk of the journal, into the size of one write."""
    for offset in range(0, len(piece), size):
        yield piece[offset : offset + size]


@contextmanager
def _opened(file: XetFileData, partial: Partial) -> Iterator[_Pieces]:
    with _faults():
        from hf_xet import XetFileInfo  # type: ignore[import-untyped] # noqa: PLC0415 - some machines have none

        about = XetFileInfo(file.file_hash, partial.size)
        pieces = _group(file.refresh_route).download_stream(about, start=partial.received)
    try:
        yield pieces
    finally:
        pieces.cancel()


@cache
def _group(refresh_route: str) -> _Group:
    """Connect to the storage of a repository. Its files share the connection and so one token."""
    from hf_xet import XetConfig, XetSession  # noqa: PLC0415 - loaded if a repository needs it

    headers = build_hf_headers()
    group: _Group = XetSession(XetConfig().with_config(_CONFIG)).new_download_stream_group(
        token_refresh_url=refresh_route,
        token_refresh_headers=headers,
        custom_headers={name: value for name, value in headers.items() if name.lower() != "authorization"},
    )
    return group


@contextmanager
def _faults() -> Iterator[None]:
    """Any error of the client or its storage is a fault of this transfer."""
    try:
        yield
    except StoppedError:
        raise
    except Exception as error:
        message = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise XetFaultError(message) from error
