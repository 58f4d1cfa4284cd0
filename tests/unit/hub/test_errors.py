"""Each failure of the Hub's client becomes an error of ours, with what to do next."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Mapping

import httpx2
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from orchestrator.errors import HubAccessError, HubError, HubNotFoundError, HubOfflineError, OrchestratorError
from orchestrator.hub.errors import hub_errors, is_temporary, refusal, retry_after


def _response(status: int, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    return httpx2.Response(status, headers=headers, request=httpx2.Request("GET", "https://signed.example/secret"))


@pytest.mark.parametrize(
    ("error", "kind", "message", "hint"),
    [
        (GatedRepoError("x", response=_response(403)), HubAccessError, "o/m@main is gated", "huggingface.co/o/m"),
        (RevisionNotFoundError("x", response=_response(404)), HubNotFoundError, "o/m has no revision main", "branches"),
        (RepositoryNotFoundError("x", response=_response(404)), HubNotFoundError, "the Hub has no o/m", "spelling"),
        (OfflineModeIsEnabled("x"), HubOfflineError, "HF_HUB_OFFLINE forbids it", "unset it"),
        (LocalEntryNotFoundError("no file"), HubError, r"not in the local cache \(no file\)", "HF_ENDPOINT"),
        (EntryNotFoundError("x"), HubNotFoundError, r"o/m@main has no config\.json", "orchestrator lock"),
        (HfHubHTTPError("x", response=_response(500)), HubError, "o/m@main: the Hub answered HTTP 500", "try again"),
        (httpx2.ConnectError("no route\nat all"), HubError, "cannot be reached: no route", "--offline"),
        (ConnectionError(), HubError, "cannot be reached: ConnectionError", "--offline"),
        (TimeoutError("late"), HubError, "cannot be reached: late", "--offline"),
        (UnicodeEncodeError("ascii", "hf_ü", 3, 4, "no"), HubError, "the token or HF_ENDPOINT is not ASCII", "log in"),
        (ssl.SSLError("no certificate found"), HubError, "certificates .* cannot be read", "SSL_CERT_FILE"),
        (FileNotFoundError(2, "No such file"), HubError, "certificates .* cannot be read", "SSL_CERT_FILE"),
    ],
)
def test_an_error_of_the_client_is_translated(
    error: Exception, kind: type[OrchestratorError], message: str, hint: str
) -> None:
    with pytest.raises(kind, match=message) as raised, hub_errors("o/m", "main", "config.json"):
        raise error
    assert type(raised.value) is kind
    assert hint in raised.value.hint
    assert "signed.example" not in raised.value.message


def test_a_file_that_is_missing_is_none_of_the_certificates() -> None:
    error = FileNotFoundError(2, "No such file", "config.json")
    with pytest.raises(FileNotFoundError), hub_errors("o/m", "main"):
        raise error


def test_a_file_without_a_name_is_called_a_file() -> None:
    error = EntryNotFoundError("x")
    with pytest.raises(HubNotFoundError, match="o/m@main has no such file"), hub_errors("o/m", "main"):
        raise error


def test_the_first_cause_of_a_missing_file_is_shown() -> None:
    error = LocalEntryNotFoundError("x")
    error.__cause__ = OSError("no address")
    with pytest.raises(HubError, match=r"\(no address\)"), hub_errors("o/m", "main"):
        raise error


def test_without_a_failure_nothing_is_raised() -> None:
    with hub_errors("o/m", "main"):
        pass


@pytest.mark.parametrize(
    ("status", "wait", "message", "hint"),
    [
        (429, None, "o/m: the Hub limits the rate of requests (HTTP 429)", "wait some minutes"),
        (429, 90.4, "o/m: the Hub limits the rate of requests (HTTP 429); it asks to wait 90 seconds", "wait some"),
        (503, 0.0, "o/m: the Hub answered HTTP 503", "try again later"),
        (503, 5.0, "o/m: the Hub answered HTTP 503; it asks to wait 5 seconds", "try again later"),
    ],
)
def test_a_refusal_names_the_status_and_the_wait(status: int, wait: float | None, message: str, hint: str) -> None:
    found = refusal("o/m", status, wait)
    assert found.message == message
    assert found.hint.startswith(hint)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": " 0 "}, 0),
        ({"Retry-After": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=3;t=55'}, None),
        ({"Retry-After": "3", "ratelimit": '"api";r=0;t=55'}, 3),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_the_wait_is_read_from_the_headers(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after(httpx2.Headers(dict(headers))) == seconds


def test_a_date_to_wait_for_is_turned_into_seconds() -> None:
    later = email.utils.format_datetime(email.utils.localtime().fromtimestamp(time.time() + 3600).astimezone())
    found = retry_after(httpx2.Headers({"Retry-After": later}))
    assert found is not None
    assert 3000 < found <= 3600


@pytest.mark.parametrize(
    ("status", "temporary"),
    [
        (407, False),
        (408, True),
        (409, False),
        (428, False),
        (429, True),
        (430, False),
        (499, False),
        (500, True),
        (503, True),
    ],
)
def test_only_a_fault_that_may_pass_is_temporary(status: int, *, temporary: bool) -> None:
    assert is_temporary(status) == temporary
