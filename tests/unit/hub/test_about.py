"""What the Hub tells of a model before anything is downloaded."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from orchestrator.errors import HubError, HubNotFoundError
from orchestrator.hub.about import About, about
from orchestrator.hub.listing import RemoteFile
from orchestrator.hub.patterns import RepoType
from orchestrator.hub.snapshot import resolve_commit, snapshot
from tests.unit.hub.conftest import FakeHub

COMMIT = "c" * 40
CONFIG = {"architectures": ["LlamaForCausalLM"]}


class Repository:
    """A model on the Hub; its fields may be edited."""

    def __init__(self) -> None:
        self.files: dict[str, object | None] = {"config.json": CONFIG, "model.safetensors": None}
        self.info: dict[str, Any] = {"id": "o/m", "sha": COMMIT, "gated": False, "private": False, "tags": []}
        self.readable = True

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.startswith("/api/models/o/m/tree/"):
            assert path.endswith(COMMIT)
            assert request.url.params["recursive"].lower() == "true"
            return httpx2.Response(200, json=self.tree(), request=request)
        if path.startswith("/api/models/o/m"):
            siblings = [{"rfilename": name} for name in self.files]
            return httpx2.Response(200, json={**self.info, "siblings": siblings}, request=request)
        if not self.readable:
            return httpx2.Response(403, headers={"X-Error-Code": "GatedRepo"}, request=request)
        return httpx2.Response(200, content=json.dumps(self.files[path.rpartition("/")[2]]).encode(), request=request)

    @staticmethod
    def tree() -> list[dict[str, Any]]:
        large = {"oid": "2" * 64, "size": 100, "pointerSize": 9}
        return [
            {"type": "directory", "path": "sub", "oid": "0" * 40, "size": 0},
            {"type": "file", "path": "model.safetensors", "oid": "3" * 40, "size": 100, "lfs": large},
            {"type": "file", "path": "config.json", "oid": "1" * 40, "size": 10},
            {"type": "file", "path": "weights.bin", "oid": "4" * 40, "size": 10},
            {"type": "file", "path": "original/model.safetensors", "oid": "5" * 40, "size": 10},
        ]


@pytest.fixture
def repository(fake_hub: FakeHub) -> Repository:
    made = Repository()
    fake_hub.answer = made
    return made


def test_a_plain_model_is_described(repository: Repository) -> None:
    repository.info |= {
        "config": {"model_type": "llama"},
        "safetensors": {"parameters": {"BF16": 12}, "total": 12},
        "cardData": {"license": "apache-2.0"},
    }
    assert about("o/m") == About(
        repo="o/m",
        commit=COMMIT,
        license="apache-2.0",
        gated=False,
        counted=12,
        public={"model_type": "llama"},
        quantized=False,
    )


def test_what_the_hub_does_not_tell_is_none(repository: Repository) -> None:
    found = about("o/m")
    assert (found.license, found.counted, found.public) == (None, None, {})
    assert repository.readable


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ({"license": "mit", "license_name": "mine"}, "mit"),
        ({"license": "other", "license_name": "mine"}, "mine"),
        ({"license": "other"}, "other"),
        ({"license_name": "mine"}, "mine"),
        ({}, None),
    ],
)
def test_a_licence_without_a_short_name_has_the_name_of_the_card(
    repository: Repository, card: dict[str, str], name: str | None
) -> None:
    repository.info["cardData"] = card
    assert about("o/m").license == name


def test_a_quantized_model_is_known_by_its_file_or_its_configuration(repository: Repository) -> None:
    repository.info["config"] = {"quantization_config": {"quant_method": "fp8"}}
    assert about("o/m").quantized
    repository.info["config"] = {}
    assert not about("o/m").quantized
    repository.files["hf_quant_config.json"] = {"quantization": {"quant_algo": "FP8"}}
    assert about("o/m").quantized


def test_a_gated_model_shows_what_it_shows_to_everybody(repository: Repository) -> None:
    repository.info |= {"gated": "manual", "config": {"model_type": "llama"}}
    found = about("o/m")
    assert found.gated
    assert found.public == {"model_type": "llama"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_repository_without_configuration_or_weights_is_no_model(repository: Repository, name: str) -> None:
    del repository.files[name]
    with pytest.raises(HubNotFoundError, match=r"o/m@main has no config\.json with weights"):
        about("o/m")


@pytest.mark.parametrize("sha", [None, "", "main"])
def test_an_answer_without_a_commit_is_an_error(repository: Repository, sha: str | None) -> None:
    repository.info["sha"] = sha
    with pytest.raises(HubError, match="the Hub names no commit"):
        about("o/m")
    with pytest.raises(HubError, match="the Hub names no commit"):
        resolve_commit("o/m", "main")


def test_a_branch_is_resolved_by_the_hub_and_a_commit_needs_no_request(
    repository: Repository, fake_hub: FakeHub
) -> None:
    assert resolve_commit("o/m", "main") == repository.info["sha"]
    assert [request.url.path for request in fake_hub.requests if "/o/m" in request.url.path] == [
        "/api/models/o/m/revision/main"
    ]
    fake_hub.requests.clear()
    assert resolve_commit("o/m", "d" * 40) == "d" * 40
    assert not fake_hub.requests


@pytest.mark.usefixtures("repository")
def test_the_files_of_a_commit_are_those_that_cannot_carry_code_and_come_once() -> None:
    assert snapshot("o/m", COMMIT).files == (
        RemoteFile("model.safetensors", 100, "2" * 64, "3" * 40),
        RemoteFile("config.json", 10, None, "1" * 40),
    )
    assert [file.path for file in snapshot("o/m", COMMIT, ("*.bin",)).files] == ["weights.bin"]


def test_a_dataset_is_resolved_and_listed_as_one(fake_hub: FakeHub) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path.startswith("/api/datasets/o/texts")
        found: object = Repository.tree() if "/tree/" in request.url.path else {"id": "o/texts", "sha": COMMIT}
        return httpx2.Response(200, json=found, request=request)

    fake_hub.answer = answer
    assert resolve_commit("o/texts", "main", "dataset") == COMMIT
    assert len(snapshot("o/texts", COMMIT, ("*.json",), "dataset").files) == 1


@pytest.mark.parametrize(("include", "kind"), [(("config.json",), "model"), (("*.safetensors", "*.json"), "dataset")])
def test_only_who_asks_for_a_models_weights_must_get_some(
    repository: Repository, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, include: tuple[str, ...], kind: RepoType
) -> None:
    small = [entry for entry in repository.tree() if entry["path"] == "config.json"]
    monkeypatch.setattr(repository, "tree", lambda: small)
    fake_hub.answer = lambda request: repository(
        httpx2.Request("GET", str(request.url).replace("/api/datasets/", "/api/models/"))
    )
    assert [file.path for file in snapshot("o/m", COMMIT, include, kind).files] == ["config.json"]
