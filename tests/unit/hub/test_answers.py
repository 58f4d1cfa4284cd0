"""The Hub, or what stands in its place, answers what was not requested: every answer to every request of ours."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

import orchestrator
from orchestrator.errors import HubError
from orchestrator.hub import calls
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.listing import RemoteFile
from orchestrator.hub.partial import Partial, digest_of
from orchestrator.hub.stop import Stop
from orchestrator.hub.transfer import transfer
from tests.unit.hub.conftest import FakeHub

COMMIT = "c" * 40
OK = 200
WEIGHTS = RemoteFile("model.safetensors", 5000, "d" * 64, "e" * 40)
HTML = b"<!DOCTYPE html><html><body>Please log in to the guest network</body></html>"

_NEXT = {"Link": '<https://huggingface.co/api/models/o/m/tree/main>; rel="next"'}


@dataclass(frozen=True)
class Answer:
    """What comes in place of the Hub's answer."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request, bit by bit as a server does."""
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        return httpx2.Response(self.status, headers=headers, content=iter([self.body]), request=request)


def _json(found: object, **headers: str) -> Answer:
    return Answer(json.dumps(found).encode(), headers={"Content-Type": "application/json", **headers})


def _listed(**entry: object) -> dict[str, object]:
    return {"type": "file", "path": "a", "size": 1, "oid": "a" * 40, **entry}


ANSWERS: Mapping[str, Answer] = {
    "a page": Answer(HTML, headers={"Content-Type": "text/html"}),
    "a page that says nothing of its type": Answer(HTML),
    "a page in place of JSON": Answer(HTML, headers={"Content-Type": "application/json"}),
    "nothing": Answer(),
    "no content": Answer(status=204),
    "half of a document": Answer(b'{"sha": "cccc'),
    "half of a list": Answer(b'[{"type": "file", "path": "config.json", "si'),
    "null": _json(None),
    "a list": _json(["a", 1]),
    "an object": _json({"error": "busy"}),
    "an empty object": _json({}),
    "a text": _json("busy"),
    "a number": _json(7),
    "true": _json(True),
    "what is no text": Answer(bytes(range(128, 256))),
    "depth without end": Answer(b"[" * 4000),
    "fields of other types": _json({"id": 1, "sha": ["x"], "siblings": 5, "safetensors": {"total": "x"}}),
    "entries of other types": _json([_listed(path=1, size="x", oid=None, lfs=[])]),
    "an entry without a digest": _json([_listed(oid="")]),
    "a size below zero": _json([_listed(size=-1)]),
    "a next page that is this one": _json([_listed()], **_NEXT),
    "empty pages without end": _json([], **_NEXT),
    "a redirect in a circle": Answer(status=302, headers={"Location": "/o/m/resolve/main/config.json"}),
    "a redirect to nowhere": Answer(status=302, headers={"Location": "http://["}),
    "an encoding that it has not": Answer(b"plain", headers={"Content-Encoding": "gzip"}),
    "a status of its own": Answer(HTML, status=418),
}


def _transferred(folder: Path) -> None:
    digest = digest_of(WEIGHTS.size, large=True)
    with hub_errors("o/m", "main"), Partial(folder / "file", WEIGHTS.size, digest, Stop()) as partial:
        transfer("https://huggingface.co/o/m/resolve/main/model.safetensors", "o/m", partial, Impatient(), _ignored)


def _ignored(_: int) -> None:
    """Report to nobody."""


class Impatient(Stop):
    """Waits for nothing."""

    def sleep(self, seconds: float) -> None:
        """Go on at once."""


CALLS: Mapping[str, Callable[[Path], object]] = {
    "commit": lambda _: calls.commit("o/m", "main", "model"),
    "model_card": lambda _: calls.model_card("o/m", "main"),
    "tree": lambda _: calls.tree("o/m", COMMIT, "model"),
    "file_metadata": lambda _: calls.file_metadata("o/m", COMMIT, "config.json", "model", Impatient()),
    "beginning": lambda _: calls.beginning("o/m", COMMIT, WEIGHTS, 100),
    "content": lambda _: calls.content("o/m", COMMIT, "model.safetensors.index.json"),
    "transfer": _transferred,
}
"""Every request of ours that the Hub answers."""

FITTING: Mapping[str, set[str]] = {
    "content": {name for name, answer in ANSWERS.items() if answer.status == OK} - {"an encoding that it has not"},
}
"""Answers that a request may have. Bytes may be any: the caller of `content` compares them with the listing."""


def _without_a_row() -> set[str]:
    """Return the requests without a row, and the rows without a request."""
    functions = {
        name
        for name, function in inspect.getmembers(calls, inspect.isfunction)
        if function.__module__ == calls.__name__ and not name.startswith("_")
    }
    return (functions | {"transfer"}) ^ CALLS.keys()


def test_every_request_has_a_row() -> None:
    assert _without_a_row() == set()


def test_a_new_request_is_missed_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def likes() -> None:
        """Count the likes of a repository."""

    likes.__module__ = calls.__name__
    monkeypatch.setattr(calls, "likes", likes, raising=False)
    assert _without_a_row() == {"likes"}


def test_no_other_module_sends_requests_to_the_hub() -> None:
    root = Path(orchestrator.__file__).parent
    senders = {"HfApi", "get_hf_file_metadata", "hf_hub_download", "snapshot_download", "get_session"}
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("huggingface_hub"):
                found |= {file.name for name in node.names if name.name in senders}
    assert found == {"calls.py", "transfer.py", "retry.py"}, "requests belong into orchestrator/hub/calls.py"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_to_another_question_is_an_error_of_the_hub(
    answer: str, call: str, fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.answer = ANSWERS[answer]
    if answer in FITTING.get(call, ()):
        CALLS[call](tmp_path)
        return
    with pytest.raises(HubError) as raised:
        CALLS[call](tmp_path)
    assert raised.value.code == "HUB_UNREACHABLE"
    assert raised.value.message.startswith("o/m")
    assert raised.value.hint


@pytest.mark.parametrize("call", sorted(CALLS.keys() - {"content", "file_metadata"}))
def test_the_error_shows_what_came(call: str, fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.answer = ANSWERS["a page"]
    with pytest.raises(HubError, match="text/html") as raised:
        CALLS[call](tmp_path)
    assert "<!DOCTYPE html><html><body>Please log in" in raised.value.message
    assert "proxy" in raised.value.hint


def test_a_file_of_other_bytes_than_the_hub_announces_is_refused(fake_hub: FakeHub) -> None:
    answers: list[dict[str, Any]] = [{"ETag": f'"{"a" * 40}"'}, {"X-Linked-Etag": f'"{"b" * 64}"'}]
    for headers in answers:
        fake_hub.answer = lambda request, headers=headers: httpx2.Response(  # type: ignore[misc]
            200, content=json.dumps({}), headers=headers, request=request
        )
        with pytest.raises(HubError, match="something else"):
            calls.content("o/m", COMMIT, "config.json")


@pytest.mark.parametrize("name", ["owner/na me", "a/b/c", "../../etc", "-x", "o/m.git"])
def test_what_cannot_be_a_repository_is_not_found(name: str, fake_hub: FakeHub) -> None:
    fake_hub.answer = lambda request: httpx2.Response(404, request=request)
    with pytest.raises(HubError) as raised:
        calls.tree(name, COMMIT, "model")
    assert raised.value.code in ("HUB_NOT_FOUND", "HUB_UNREACHABLE")
