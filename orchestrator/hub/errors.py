"""Turns hub errors of the client into our errors, each with a reason and a hint."""

from __future__ import annotations

import email.utils
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from orchestrator.errors import HubAccessError, HubError, HubNotFoundError, HubOfflineError

NOT_THE_HUB = "a proxy or a login page may answer for the Hub: check the network, the proxy and HF_ENDPOINT"
"""The hint for an answer that the Hub does not give."""

_SHOWN = 60
"""Bytes of an unexpected answer in an error."""
_UNAUTHORIZED, _FORBIDDEN, _REQUEST_TIMEOUT, _TOO_MANY, _SERVER_ERROR = 401, 403, 408, 429, 500


@contextmanager
def hub_errors(repo: str, revision: str, path: str = "") -> Iterator[None]:
    """Translate the client's errors. No URL is quoted, because a signed one gives access to the file.

    Args:
        repo: The requested repository.
        revision: Its revision.
        path: The requested file, if any.
    """
    at = f"{repo}@{revision}"
    try:
        with _errors_of_settings(at):
            yield
    except GatedRepoError as error:
        message = f"{at} is gated: its owner must grant your account access"
        hint = f"ask for it on https://huggingface.co/{repo}, then log in (`hf auth login`) or set HF_TOKEN"
        raise HubAccessError(message, hint=hint) from error
    except RevisionNotFoundError as error:
        message = f"{repo} has no revision {revision}"
        hint = "look at its branches and commits on the Hub, or leave `revision` out"
        raise HubNotFoundError(message, hint=hint) from error
    except RepositoryNotFoundError as error:
        message = f"the Hub has no {repo}, or your token may not see it"
        raise HubNotFoundError(
            message, hint="check the spelling; for a private one log in (`hf auth login`)"
        ) from error
    except OfflineModeIsEnabled as error:
        message = f"{at}: the network is needed, and HF_HUB_OFFLINE forbids it"
        raise HubOfflineError(message, hint="unset it, or bring the files into the Hub's cache") from error
    except LocalEntryNotFoundError as error:  # the client's error for every failure to reach the Hub
        message = f"{at}: the Hub cannot be reached and the file is not in the local cache ({_cause(error)})"
        raise HubError(
            message, hint="check the network, or HF_ENDPOINT if you use a mirror, and run it again"
        ) from error
    except EntryNotFoundError as error:
        message = f"{at} has no {path or 'such file'}"
        raise HubNotFoundError(message, hint="it may have been renamed; run `orchestrator lock` again") from error
    except HfHubHTTPError as error:
        raise refusal(at, error.response.status_code, retry_after(error.response.headers)) from error
    except HFValidationError as error:
        message = f"{repo!r:.200} cannot be the name of a repository"
        raise HubNotFoundError(message, hint="name it as OWNER/NAME, as its page on the Hub does") from error
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        message = f"{at}: the Hub cannot be reached: {reason(error)}"
        hint = "check the network, or HF_ENDPOINT if you use a mirror; with --offline, local files are used"
        raise HubError(message, hint=hint) from error


@contextmanager
def _errors_of_settings(at: str) -> Iterator[None]:
    """Translate the errors of settings of this machine with which nothing can be sent."""
    try:
        yield
    except UnicodeEncodeError as error:  # a header is ASCII
        message = f"{at}: the request cannot be sent: the token or HF_ENDPOINT is not ASCII"
        raise HubError(message, hint="log in again (`hf auth login`), or set another HF_TOKEN") from error
    except (ssl.SSLError, FileNotFoundError) as error:
        if error.filename or isinstance(error, LocalEntryNotFoundError):
            raise
        message = f"{at}: the certificates of this machine cannot be read: {reason(error)}"
        raise HubError(message, hint="correct SSL_CERT_FILE and SSL_CERT_DIR, or unset them") from error


def refusal(at: str, status: int, wait: float | None = None) -> HubError:
    """Return our error for an unsuccessful answer of the Hub.

    Args:
        at: The requested object.
        status: The status of the answer.
        wait: Seconds that the Hub asks to wait, if any.
    """
    waiting = f"; it asks to wait {wait:.0f} seconds" if wait else ""
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        if get_token() is None:
            message = f"{at}: the Hub requires a token, and none is set (HTTP {status})"
            return HubAccessError(message, hint="log in (`hf auth login`) or set HF_TOKEN")
        message = f"{at}: the Hub refuses the token (HTTP {status})"
        return HubAccessError(message, hint="log in again (`hf auth login`) or set another HF_TOKEN")
    if status == _TOO_MANY:
        message = f"{at}: the Hub limits the rate of requests (HTTP {status}){waiting}"
        return HubError(message, hint="wait some minutes; with a login (`hf auth login`) the limit is higher")
    message = f"{at}: the Hub answered HTTP {status}{waiting}"
    return HubError(message, hint="try again later; the received bytes are kept")


def shown(content: bytes, media_type: str = "") -> str:
    """Describe an unexpected answer in a few words."""
    beginning = f"beginning with {content[:_SHOWN].decode(errors='replace')!a}" if content else "empty"
    return ", ".join(filter(None, (media_type, beginning)))


def is_temporary(status: int) -> bool:
    """Return whether a request with this HTTP status may succeed later."""
    return status in (_REQUEST_TIMEOUT, _TOO_MANY) or status >= _SERVER_ERROR


def retry_after(headers: httpx2.Headers) -> float | None:
    """Read Retry-After, in seconds or as a date, and the Hub's own `ratelimit: "…";r=0;t=SECONDS`."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    if text:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            return None
    found = re.search(r"\br=0\b.*\bt=(\d+)", headers.get("ratelimit", ""))
    return float(found[1]) if found else None


def reason(error: BaseException) -> str:
    """Describe a network failure in one line."""
    return _first_line(error) or type(error).__name__


def _cause(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    return reason(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
