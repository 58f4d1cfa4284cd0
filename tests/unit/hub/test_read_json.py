"""Small JSON files of a listed commit: from the cache if their bytes are right, else from the Hub."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants

from orchestrator.errors import CheckpointError, HubError
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.listing import RemoteFile, Snapshot
from orchestrator.hub.partial import digest_of
from orchestrator.hub.snapshot import read_json
from tests.unit.hub.conftest import FakeHub

COMMIT = "c" * 40
TEXT = b'{"weight_map": {}}'


def listed(content: bytes, *, large: bool = False) -> tuple[Snapshot, RemoteFile]:
    digest = digest_of(len(content), large=large)
    digest.update(content)
    known = digest.hexdigest()
    file = RemoteFile("index.json", len(content), known if large else None, "1" * 40 if large else known)
    return Snapshot("o/m", "model", COMMIT, (file,)), file


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def sends(hub: FakeHub, content: bytes) -> None:
    hub.answer = lambda request: httpx2.Response(200, content=content, request=request)


def cached(listing: Snapshot, content: bytes) -> None:
    pointer = RepoCache.of(listing).pointer(COMMIT, "index.json")
    pointer.parent.mkdir(parents=True)
    pointer.write_bytes(content)


@pytest.mark.parametrize("large", [False, True])
def test_a_file_that_is_not_in_the_cache_comes_from_the_hub(fake_hub: FakeHub, large: bool) -> None:
    sends(fake_hub, TEXT)
    assert read_json(*listed(TEXT, large=large)) == {"weight_map": {}}
    assert fake_hub.requests[-1].url.path == f"/o/m/resolve/{COMMIT}/index.json"


def test_a_file_in_the_cache_is_not_requested(fake_hub: FakeHub) -> None:
    listing, file = listed(TEXT)
    cached(listing, TEXT)
    assert read_json(listing, file) == {"weight_map": {}}
    assert fake_hub.requests == []


@pytest.mark.parametrize("wrong", [b"", TEXT[:-1], TEXT[:-1] + b" "])
def test_other_bytes_in_the_cache_do_not_count(fake_hub: FakeHub, wrong: bytes) -> None:
    listing, file = listed(TEXT)
    cached(listing, wrong)
    sends(fake_hub, TEXT)
    assert read_json(listing, file) == {"weight_map": {}}


@pytest.mark.parametrize("wrong", [b"", TEXT + b" ", TEXT[:-1] + b" "])
def test_other_bytes_from_the_hub_are_refused(fake_hub: FakeHub, wrong: bytes) -> None:
    sends(fake_hub, wrong)
    with pytest.raises(HubError, match=r"index\.json: the Hub lists 18 bytes, and sent") as caught:
        read_json(*listed(TEXT))
    assert "proxy" in caught.value.hint


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_the_hub_vouches_for_is_not_the_networks_fault(fake_hub: FakeHub, text: bytes) -> None:
    sends(fake_hub, text)
    with pytest.raises(CheckpointError, match=r"index\.json is not JSON"):
        read_json(*listed(text))


def test_a_request_for_a_file_has_the_users_token(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    sends(fake_hub, TEXT)
    read_json(*listed(TEXT))
    assert fake_hub.requests[-1].headers["Authorization"] == "Bearer hf_of_the_user"
