"""Which answers of the Hub are worth a retry, after which pause, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError

from orchestrator.hub.retry import no_long_waits, retried
from tests.unit.hub.conftest import FakeHub

REQUEST = httpx2.Request("GET", "https://huggingface.co/api")


def answered(status: int, **headers: str) -> HfHubHTTPError:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return HfHubHTTPError("no", response=httpx2.Response(status, headers=given, request=REQUEST))


def asking(*faults: Exception) -> Callable[[], str]:
    """A request that fails so, once for each fault, and then succeeds."""
    left = list(faults)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "the answer"

    return ask


def test_an_answer_needs_no_pause() -> None:
    pauses: list[float] = []
    assert retried(asking(), sleep=pauses.append) == "the answer"
    assert pauses == []


@pytest.mark.parametrize(
    "fault", [answered(408), answered(429), answered(500), answered(503), httpx2.ConnectError("gone")]
)
def test_a_passing_fault_is_retried_after_pauses_that_double(fault: Exception) -> None:
    pauses: list[float] = []
    assert retried(asking(*[fault] * 4), attempts=5, sleep=pauses.append) == "the answer"
    assert pauses == [0.5, 1, 2, 4]


@pytest.mark.parametrize("fault", [answered(429), answered(500), httpx2.ConnectError("gone")])
def test_the_third_fault_in_a_row_is_passed_on(fault: Exception) -> None:
    pauses: list[float] = []
    with pytest.raises(type(fault)):
        retried(asking(*[fault] * 3), sleep=pauses.append)
    assert pauses == [0.5, 1]
    assert retried(asking(*[fault] * 2), sleep=pauses.append) == "the answer"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 409, 428, 430, 499])
def test_a_refusal_is_not_retried(status: int) -> None:
    pauses: list[float] = []
    with pytest.raises(HfHubHTTPError):
        retried(asking(answered(status)), sleep=pauses.append)
    assert pauses == []


def test_the_hub_names_the_pause() -> None:
    pauses: list[float] = []
    retried(asking(answered(429, retry_after="7"), answered(429, retry_after="0")), sleep=pauses.append)
    assert pauses == [7, 0]


@pytest.mark.parametrize(("seconds", "waits"), [("60", True), ("61", False)])
def test_a_minute_is_the_longest_pause_that_the_hub_may_name(seconds: str, *, waits: bool) -> None:
    pauses: list[float] = []
    ask = asking(answered(503, retry_after=seconds))
    if waits:
        assert retried(ask, sleep=pauses.append) == "the answer"
    else:
        with pytest.raises(HfHubHTTPError):
            retried(ask, sleep=pauses.append)
    assert pauses == ([60] if waits else [])


@pytest.mark.parametrize(
    ("status", "seconds", "refused"),
    [(429, 61, True), (500, 61, True), (503, 3600, True), (429, 60, False), (200, 3600, False), (404, 3600, False)],
)
def test_the_client_may_not_sleep_longer_than_a_minute(
    fake_hub: FakeHub, status: int, seconds: int, *, refused: bool
) -> None:
    fake_hub.answer = lambda _: httpx2.Response(status, headers={"Retry-After": str(seconds)}, text="wait")
    with no_long_waits():
        if refused:
            with pytest.raises(HfHubHTTPError):
                get_session().get("https://huggingface.co/api")
        else:
            assert get_session().get("https://huggingface.co/api").status_code == status
    assert get_session().get("https://huggingface.co/api").status_code == status  # afterwards it may


def test_a_long_wait_of_a_streamed_answer_is_refused_with_the_hubs_words(fake_hub: FakeHub) -> None:
    fake_hub.answer = lambda _: httpx2.Response(
        503, headers={"Retry-After": "3600"}, content=iter([b'{"error": "come back later"}'])
    )
    with (
        no_long_waits(),
        pytest.raises(HfHubHTTPError, match="come back later"),
        get_session().stream("GET", "https://huggingface.co/api"),
    ):
        pass
