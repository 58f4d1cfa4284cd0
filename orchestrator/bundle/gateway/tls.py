"""Serves TLS on the clients' port. Certificates may be renewed while it runs."""

from __future__ import annotations

import ssl

from .errors import DocumentError
from .logs import Log
from .settings import Tls


class Certificates:
    """Key and certificates of the server.

    Args:
        files: Their paths.

    Raises:
        DocumentError: They cannot be read, or do not match.
    """

    def __init__(self, files: Tls) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._files = files
        self._load(self.context)

    def reload(self, log: Log) -> None:
        """Read them again, for new connections. If they cannot be read, the old ones stay."""
        try:
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))  # checked before they are used
            self._load(self.context)
        except DocumentError as error:
            log.error("cannot read the certificates; the old ones stay", reason=str(error))  # noqa: TRY400 - not logging's
        else:
            log.info("certificates read", file=str(self._files.certificates))

    def _load(self, context: ssl.SSLContext) -> None:
        files = self._files
        try:
            context.load_cert_chain(files.certificates, files.key)
            if files.clients is not None:
                context.load_verify_locations(files.clients)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            message = f"cannot use the certificates in {files.certificates} with {files.key}: {error}"
            raise DocumentError(message) from error
