"""One file over HTTP: what is asked for, what is retried after which pause, and when it is given up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from orchestrator.errors import HubAccessError, HubError
from orchestrator.hub import errors
from orchestrator.hub.partial import Partial, digest_of
from orchestrator.hub.stop import Stop
from orchestrator.hub.transfer import TooLongError, transfer
from tests.unit.hub.conftest import FakeHub

URL = "https://huggingface.co/o/m/resolve/main/weights"
CONTENT = bytes(range(250)) * 4
Step = Callable[[httpx2.Request], httpx2.Response]


class Clock(Stop):
    """Does not wait, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def partial(tmp_path: Path, clock: Clock) -> Iterator[Partial]:
    with Partial(tmp_path / "x.incomplete", len(CONTENT), digest_of(len(CONTENT), large=True), clock) as opened:
        yield opened


def start_of(request: httpx2.Request) -> int:
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def part(request: httpx2.Request, end: int = len(CONTENT)) -> httpx2.Response:
    """The bytes from where the request begins, cut off before `end`."""
    start = start_of(request)
    if "Range" not in request.headers:
        return httpx2.Response(200, content=iter([CONTENT[:end]]))
    headers = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    return httpx2.Response(206, headers=headers, content=iter([CONTENT[start:end]]))


def status(number: int, **headers: str) -> Step:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx2.Response(number, headers=given)


def fails(error: Exception) -> Step:
    def step(_: httpx2.Request) -> httpx2.Response:
        raise error

    return step


def answers(hub: FakeHub, *steps: Step) -> None:
    """Answer so, one step for each request, and after the last one with what is missing."""
    left = list(steps)

    def answer(request: httpx2.Request) -> httpx2.Response:
        step = left.pop(0) if left else part
        return step(request)

    hub.answer = answer


def fetch(partial: Partial, clock: Clock) -> list[int]:
    reported: list[int] = []
    transfer(URL, "o/m: weights", partial, clock, reported.append)
    assert partial.digest.hexdigest() == hashlib.sha256(CONTENT).hexdigest()
    return reported


def test_a_whole_file_is_one_request_for_everything(fake_hub: FakeHub, partial: Partial, clock: Clock) -> None:
    answers(fake_hub)
    assert fetch(partial, clock) == [len(CONTENT)]
    [request] = [request for request in fake_hub.requests if str(request.url) == URL]
    assert "Range" not in request.headers
    assert request.headers["Accept-Encoding"] == "identity"
    assert clock.pauses == []


def test_after_a_cut_only_what_is_missing_is_requested(fake_hub: FakeHub, partial: Partial, clock: Clock) -> None:
    answers(fake_hub, lambda request: part(request, 300), lambda request: part(request, 700))
    assert fetch(partial, clock) == [300, 700, 1000]
    assert [start_of(request) for request in fake_hub.requests if str(request.url) == URL] == [0, 300, 700]
    assert clock.pauses == [0.5, 0.5]  # bytes arrived each time, so each is a first retry


def test_a_file_that_is_complete_is_not_requested(fake_hub: FakeHub, partial: Partial, clock: Clock) -> None:
    partial.write(CONTENT)
    assert fetch(partial, clock) == []
    assert URL not in {str(request.url) for request in fake_hub.requests}


def test_a_server_that_ignores_the_range_sends_bytes_that_are_skipped(
    fake_hub: FakeHub, partial: Partial, clock: Clock
) -> None:
    partial.write(CONTENT[:300])
    fake_hub.answer = lambda _: httpx2.Response(200, content=iter([CONTENT[:200], CONTENT[200:]]))
    assert fetch(partial, clock) == [1000]


@pytest.mark.parametrize("said", ["bytes 0-999/1000", "bytes 300-998/1000", "bytes 301-999/1000", ""])
def test_another_part_than_the_requested_one_is_not_taken(
    fake_hub: FakeHub, partial: Partial, clock: Clock, said: str
) -> None:
    partial.write(CONTENT[:300])
    answers(fake_hub, lambda _: httpx2.Response(206, headers={"Content-Range": said}, content=iter([b"x" * 700])))
    fetch(partial, clock)
    assert clock.pauses == [0.5]


@pytest.mark.parametrize(
    "step",
    [
        status(429), status(408), status(500), status(503), status(300), fails(httpx2.ReadTimeout("slow")),
        fails(httpx2.ConnectError("gone")), fails(httpx2.RemoteProtocolError("cut")),
    ],
)  # fmt: skip
def test_a_passing_fault_is_retried_five_times_with_pauses_that_double(
    fake_hub: FakeHub, partial: Partial, clock: Clock, step: Step
) -> None:
    answers(fake_hub, *[step] * 5)
    fetch(partial, clock)
    assert clock.pauses == [0.5, 1, 2, 4, 8]


def test_a_sixth_fault_without_a_new_byte_ends_it_with_what_arrived(
    fake_hub: FakeHub, partial: Partial, clock: Clock
) -> None:
    answers(fake_hub, lambda request: part(request, 300), *[fails(httpx2.ConnectError("gone"))] * 6)
    with pytest.raises(HubError, match="o/m: weights: 300 of 1000 bytes arrived, then none: gone") as raised:
        fetch(partial, clock)
    assert raised.value.hint.startswith("check the network")
    assert clock.pauses == [0.5, 1, 2, 4, 8]
    assert partial.received == 300


def test_a_server_that_falls_silent_is_described(
    fake_hub: FakeHub, partial: Partial, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 12)
    answers(fake_hub, *[fails(httpx2.ReadTimeout("slow"))] * 6)
    with pytest.raises(HubError, match="nothing arrived for 12 seconds"):
        fetch(partial, clock)


@pytest.mark.parametrize("number", [429, 503])
def test_the_hub_names_the_pause_up_to_ten_minutes(
    fake_hub: FakeHub, partial: Partial, clock: Clock, number: int
) -> None:
    answers(fake_hub, status(number, retry_after="600"))
    fetch(partial, clock)
    assert clock.pauses == [600]


def test_a_longer_pause_is_an_error_that_names_it(fake_hub: FakeHub, partial: Partial, clock: Clock) -> None:
    answers(fake_hub, status(429, retry_after="601"))
    with pytest.raises(HubError, match=r"limits the rate of requests \(HTTP 429\); it asks to wait 601 seconds"):
        fetch(partial, clock)
    assert clock.pauses == []


@pytest.mark.parametrize("number", [400, 403, 404, 410])
def test_a_refusal_is_not_retried(fake_hub: FakeHub, partial: Partial, clock: Clock, number: int) -> None:
    answers(fake_hub, status(number))
    with pytest.raises(HfHubHTTPError):
        fetch(partial, clock)
    assert clock.pauses == []


def test_more_bytes_than_the_file_has_are_never_written(fake_hub: FakeHub, partial: Partial, clock: Clock) -> None:
    answers(fake_hub, lambda _: httpx2.Response(200, content=iter([CONTENT + b"x"])))
    with pytest.raises(TooLongError):
        fetch(partial, clock)
    assert partial.received == 0


@pytest.mark.parametrize("number", [401, 403])
def test_a_hub_that_wants_a_token_says_which_one_is_missing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "get_token", lambda: None)
    missing = errors.refusal("o/m", number)
    monkeypatch.setattr(errors, "get_token", lambda: "hf_x")
    wrong = errors.refusal("o/m", number)
    assert isinstance(missing, HubAccessError)
    assert isinstance(wrong, HubAccessError)
    assert "requires a token, and none is set" in missing.message
    assert "refuses the token" in wrong.message
