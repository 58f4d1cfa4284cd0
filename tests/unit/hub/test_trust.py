"""Code that nobody asked for, and lists of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import LockInvalidError, PathEscapesError, UntrustedCodeError
from orchestrator.hub.listing import RemoteFile, Snapshot, listing_text, read_listing
from orchestrator.hub.trust import Trusted, refuse_untrusted_code, require_trusted_code, require_trusted_commit

COMMIT, OTHER = "1" * 40, "2" * 40


@pytest.mark.parametrize("key", ["auto_map", "custom_generate", "trust_remote_code"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_a_configuration_that_brings_code_needs_the_recipes_trust(tmp_path: Path, key: str, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({key: {"AutoModel": "m.M"}}))
    with pytest.raises(UntrustedCodeError, match=f"{name} has `{key}`"):
        refuse_untrusted_code("o/m", COMMIT, tmp_path, None)
    with pytest.raises(UntrustedCodeError):
        refuse_untrusted_code("o/m", COMMIT, tmp_path, Trusted(COMMIT, ("*.bin",)))
    refuse_untrusted_code("o/m", COMMIT, tmp_path, Trusted(COMMIT, remote_code=True))


@pytest.mark.parametrize("text", ["{}", "[]", '{"auto_map": null}', '{"trust_remote_code": false}', "not JSON"])
def test_a_configuration_without_code_needs_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    refuse_untrusted_code("o/m", COMMIT, tmp_path, None)


def test_trust_is_in_one_commit() -> None:
    require_trusted_commit("o/m", COMMIT, None)
    require_trusted_commit("o/m", COMMIT, Trusted(COMMIT))
    with pytest.raises(UntrustedCodeError, match=OTHER):
        require_trusted_commit("o/m", OTHER, Trusted(COMMIT))


def test_trust_adds_the_files_that_it_names_and_code_if_it_may_run() -> None:
    assert Trusted(COMMIT).patterns == ()
    assert Trusted(COMMIT, ("*.bin",)).patterns == ("*.bin",)
    assert Trusted(COMMIT, ("*.bin",), remote_code=True).patterns == ("*.bin", "*.py")


def test_a_tool_runs_the_models_code_only_with_trust() -> None:
    require_trusted_code("o/m", COMMIT, "serve.options.trust_remote_code", Trusted(COMMIT, remote_code=True))
    with pytest.raises(UntrustedCodeError, match=r"serve\.options"):
        require_trusted_code("o/m", COMMIT, "serve.options.trust_remote_code", Trusted(COMMIT))


def test_a_list_of_files_reads_as_it_was_written(tmp_path: Path) -> None:
    written = Snapshot("o/m", "model", COMMIT, (RemoteFile("a/b.json", 3, None, "c" * 40),))
    file = tmp_path / "files.json"
    file.write_text(listing_text(written))
    assert read_listing(file) == written


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\0b"])
def test_a_list_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    file = tmp_path / "files.json"
    file.write_text(listing_text(Snapshot("o/m", "model", COMMIT, (RemoteFile(path, 3, None, "c" * 40),))))
    with pytest.raises(PathEscapesError):
        read_listing(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": [{"path": 1}]}'])
def test_what_is_no_list_of_files_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "files.json"
    file.write_text(text)
    with pytest.raises(LockInvalidError):
        read_listing(file)
