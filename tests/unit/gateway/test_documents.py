"""serve.json: written by the bundle's renderer, read where the bundle runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.documents import read_documents
from orchestrator.bundle.gateway.errors import DocumentError
from tests.support.gateway import example_serve, write_documents


def test_what_was_written_is_read(tmp_path: Path) -> None:
    serve = example_serve(engine="trtllm_engine", backend="tensorrt")
    write_documents(tmp_path, serve)
    documents = read_documents(tmp_path)
    assert documents.serve == serve
    assert "profiles" in json.loads(documents.manifest)["manifest_file"]
    assert json.loads(documents.version)["api"]


def test_other_alphabets_can_be_read_in_an_answer_as_they_are(tmp_path: Path) -> None:
    write_documents(tmp_path, example_serve())
    (tmp_path / "model_manifest.yaml").write_text("name: 通义千问\n", encoding="utf-8")
    (tmp_path / "license.json").write_text('{"name": "Lizenz für Qwen"}', encoding="utf-8")
    documents = read_documents(tmp_path)
    assert "通义千问" in documents.manifest
    assert "für" in documents.license


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "format 1"),
        ('{"format": 2}', "format 1"),
        ('{"format": 1, "recipe": "x"}', "a field is missing"),
        ('{"format": 1, "command": 5, "arguments": []}', "another type"),
    ],
)
def test_a_document_that_is_none_names_the_file(tmp_path: Path, text: str, reason: str) -> None:
    write_documents(tmp_path, example_serve())
    (tmp_path / "serve.json").write_text(text)
    with pytest.raises(DocumentError, match=reason) as raised:
        read_documents(tmp_path)
    assert str(tmp_path / "serve.json") in str(raised.value)


@pytest.mark.parametrize("name", ["serve.json", "metadata.json", "license.json", "version.json", "model_manifest.yaml"])
def test_a_missing_document_is_named(tmp_path: Path, name: str) -> None:
    write_documents(tmp_path, example_serve())
    (tmp_path / name).unlink()
    with pytest.raises(DocumentError, match=name):
        read_documents(tmp_path)
