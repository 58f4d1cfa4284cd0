"""Downloads with the real client of the Hub, from a Hub on this machine that can fail in every way."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store.fingerprint import fingerprint_of
from tests.support.downloads import Downloads
from tests.support.hub import COMMIT, Hub, git_sha1, serve

HEADER = json.dumps({"w": {"dtype": "U8", "shape": [3_000_000], "data_offsets": [0, 3_000_000]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + b"w" * 3_000_000
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "README.md": b"# A model\n",
    "LICENSE": b"MIT\n",
    "chat_template.jinja": b"{{ messages }}",
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"import os",
    "original/consolidated.00.pth": b"x",
    "original/params.json": b"{}",
    "original/model.safetensors": b"x",
    "consolidated.safetensors": b"x",
    "onnx/model.json": b"{}",
    "onnx/model.onnx": b"x",
    "checkpoint-500/model.safetensors": b"x",
    "checkpoint-500/config.json": b"{}",
    "fp8/model.safetensors": b"x",
    "fp8/tokenizer/vocab.json": b"{}",
    "model.fp32.safetensors.index.json": b"{}",
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": b"x",
    "metal/model.safetensors": b"x",
    ".gitattributes": b"",
}
SECRET = "hf_canary_0123456789"


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    with serve(Hub(files={**FILES, **UNWANTED})) as hub:
        yield Downloads(hub, tmp_path)


def test_a_branch_is_downloaded_whole_and_byte_for_byte(downloads: Downloads) -> None:
    assert downloads.run(revision="main") == 0, downloads.log
    arrived = downloads.arrived()
    listing = json.loads(arrived.pop("download.json"))
    assert arrived == FILES
    assert listing["commit"] == COMMIT
    assert {file["path"] for file in listing["files"]} == set(FILES)
    last = downloads.progress[-1]
    assert (last.done, last.total, last.unit) == (sum(map(len, FILES.values())),) * 2 + ("bytes",)


def test_files_that_were_hashed_on_arrival_are_named_with_the_file_systems_word(downloads: Downloads) -> None:
    assert downloads.run() == 0, downloads.log
    large = {name for name in FILES if name.endswith(".safetensors")}
    assert {checked.path for checked in downloads.checked} == large, "small ones have no sha256 on the Hub"
    for checked in downloads.checked:
        assert checked.sha256 == hashlib.sha256(FILES[checked.path]).hexdigest()
        assert checked.fingerprint == fingerprint_of(downloads.out / checked.path)


def test_nothing_that_can_carry_code_is_even_asked_for(downloads: Downloads) -> None:
    downloads.run()
    assert set(downloads.hub.fetched) == set(FILES)


def test_only_the_patterns_that_are_asked_for_are_downloaded(downloads: Downloads) -> None:
    assert downloads.run("--include", "config.json", "*.md") == 0
    assert set(downloads.arrived()) == {"config.json", "README.md", "download.json"}


def test_patterns_that_match_nothing_are_a_failure(downloads: Downloads) -> None:
    assert downloads.run("--include", "*.nothing") == 6
    assert downloads.failure is not None
    assert downloads.failure.code == "HUB_NOT_FOUND"


def aside(downloads: Downloads, name: str) -> Path:
    return downloads.root / "hf" / "hub" / "models--owner--model" / "orchestrator" / "aside" / name


def spoiled(name: str) -> bytes:
    return bytes([FILES[name][0] ^ 1]) + FILES[name][1:]


@pytest.mark.parametrize("bad", ["model-00001-of-00002.safetensors", "config.json"])
def test_a_byte_that_changed_on_the_way_is_fetched_again_and_the_wrong_file_set_aside(
    downloads: Downloads, bad: str
) -> None:
    downloads.hub.corrupt[bad] = 1
    assert downloads.run() == 0, downloads.log
    assert downloads.arrived()[bad] == FILES[bad]
    assert downloads.hub.fetched.count(bad) == 2
    [warning] = downloads.warnings
    assert warning.startswith(f"{bad} is ")
    assert str(aside(downloads, bad)) in warning
    assert aside(downloads, bad).read_bytes() == spoiled(bad)


@pytest.mark.parametrize("bad", ["model-00001-of-00002.safetensors", "config.json"])
def test_a_file_that_is_wrong_twice_is_refused_with_what_was_found(downloads: Downloads, bad: str) -> None:
    downloads.hub.corrupt[bad] = 2
    head, first, second = downloads.fails("DOWNLOAD_CORRUPT").splitlines()
    assert "twice in a row" in head
    right, wrong = (hashlib.sha256(content).hexdigest() for content in (FILES[bad], spoiled(bad)))
    if bad == "config.json":
        right, wrong = git_sha1(FILES[bad]), git_sha1(spoiled(bad))
    assert f"{bad} is {wrong}, not " in first
    assert right in first
    assert first.endswith(f"set aside as {aside(downloads, bad)}")
    assert second.strip() == "and the same bytes again"
    assert bad not in downloads.arrived()
    assert spoiled(bad) not in downloads.cached()
    assert downloads.run() == 0  # and the next try is not poisoned
    assert downloads.arrived()[bad] == FILES[bad]


def test_a_connection_that_breaks_off_is_taken_up_again(downloads: Downloads) -> None:
    bad = "model-00002-of-00002.safetensors"
    downloads.hub.short[bad] = 1
    assert downloads.run() == 0, downloads.log
    assert downloads.arrived()[bad] == FILES[bad]


def test_a_cache_that_went_bad_is_noticed(downloads: Downloads) -> None:
    downloads.run()
    for blob in (downloads.root / "hf" / "hub").rglob("blobs/*"):
        if blob.read_bytes() == FILES["tokenizer.json"]:
            blob.unlink()
            blob.write_bytes(b"[]")
    assert downloads.run() == 0
    assert downloads.arrived()["tokenizer.json"] == b"{}"
    assert "the cache's copy of tokenizer.json is " in downloads.warnings[0]
    assert aside(downloads, "tokenizer.json").read_bytes() == b"[]"


def test_what_the_cache_has_is_not_fetched_again(downloads: Downloads) -> None:
    downloads.run()
    before = len(downloads.hub.fetched)
    assert downloads.run() == 0
    assert len(downloads.hub.fetched) == before
    assert (downloads.out / "config.json").samefile(downloads.root / "out-1" / "config.json")


def test_a_repository_with_a_listing_of_its_own_does_not_get_it_overwritten_in_the_cache(downloads: Downloads) -> None:
    downloads.hub.files["download.json"] = b'{"theirs": true}'
    assert downloads.run() == 0
    assert json.loads((downloads.out / "download.json").read_bytes())["commit"] == COMMIT
    assert b'{"theirs": true}' in downloads.cached()


def test_a_gated_repository_says_how_to_get_access(downloads: Downloads) -> None:
    downloads.hub.gated = True
    assert "gated" in downloads.fails("HUB_ACCESS")
    assert downloads.failure is not None
    assert "HF_TOKEN" in downloads.failure.hint


def test_a_token_is_used_and_never_shown(downloads: Downloads) -> None:
    downloads.hub.token = SECRET
    assert downloads.run(HF_TOKEN=SECRET) == 0
    assert SECRET not in downloads.log
    assert not [name for name, content in downloads.arrived().items() if SECRET.encode() in content]


@pytest.mark.parametrize("token", [None, SECRET + "wrong"])
def test_a_token_that_is_missing_or_wrong_is_said_and_not_shown(downloads: Downloads, token: str | None) -> None:
    downloads.hub.token = SECRET
    downloads.fails("HUB_ACCESS", **({"HF_TOKEN": token} if token else {}))
    assert SECRET not in downloads.log


@pytest.mark.parametrize(
    ("repo", "revision"), [("owner/unknown", "main"), ("owner/unknown", COMMIT), ("owner/model", "v9")]
)
def test_what_the_hub_does_not_have_is_not_found(downloads: Downloads, repo: str, revision: str) -> None:
    assert "owner/" in downloads.fails("HUB_NOT_FOUND", repo=repo, revision=revision)


@pytest.mark.parametrize("gone", ["commit", "file", "repository"])
def test_what_is_gone_and_locked_names_the_lock(downloads: Downloads, tmp_path: Path, gone: str) -> None:
    commit = "d" * 40 if gone == "commit" else COMMIT
    name = "ghost.json" if gone == "file" else "config.json"
    repo = "owner/gone" if gone == "repository" else "owner/model"
    listed = {"path": name, "size": 2, "sha256": None, "git_sha1": git_sha1(b"{}")}
    fields = {"repo": repo, "kind": "model", "commit": commit, "files": [listed]}
    (tmp_path / "files.json").write_text(json.dumps(fields))
    assert downloads.run("--files", str(tmp_path / "files.json"), repo=repo, revision=commit) == 6
    assert downloads.failure is not None
    assert downloads.failure.code == "HUB_NOT_FOUND"
    assert downloads.failure.message.endswith(f"the recipe's lock pins {repo} to commit {commit}")
    assert "orchestrator lock" in downloads.failure.hint


def test_a_file_that_is_listed_but_not_there_is_not_found(downloads: Downloads) -> None:
    downloads.hub.listed["ghost.json"] = b"{}"
    assert downloads.fails("HUB_NOT_FOUND").endswith(" has no ghost.json")


@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_in_trouble_is_not_called_missing(downloads: Downloads, status: int) -> None:
    downloads.hub.status = status
    # a branch is asked for once; asked for a commit's tree, the client tries for twenty seconds before it says the same
    assert str(status) in downloads.fails("HUB_UNREACHABLE", revision="main")


def test_no_hub_is_said_so(downloads: Downloads) -> None:
    downloads.hub.endpoint = "http://127.0.0.1:9"
    assert "cannot be reached" in downloads.fails("HUB_UNREACHABLE", revision="main")


@pytest.mark.parametrize("path", ["../evil.json", "a/../../evil.json", "/tmp/evil.json"])
def test_a_file_that_would_leave_the_folder_is_refused(downloads: Downloads, path: str) -> None:
    downloads.hub.listed[path] = b"{}"
    assert downloads.run() == 3
    assert downloads.failure is not None
    assert downloads.failure.code == "PATH_ESCAPES"
    assert downloads.arrived() == {}
    assert not (downloads.root / "evil.json").exists()


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"w": "model-00001-of-00002.safetensors", "x": "model-00003-of-00003.safetensors"}},
        {"weight_map": {"w": "weights.safetensors"}},
    ],
)
def test_a_missing_weight_file_is_seen_in_the_listing(downloads: Downloads, index: dict[str, object]) -> None:
    downloads.hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    assert downloads.run() == 3
    assert downloads.failure is not None
    assert downloads.failure.code == "CHECKPOINT_INVALID"
    assert "which is missing" in downloads.failure.message
    assert set(downloads.hub.fetched) == {"model.safetensors.index.json"}


def test_an_index_chooses_the_weights(downloads: Downloads) -> None:
    index = json.dumps({"weight_map": {"w": "model-00002-of-00002.safetensors"}}).encode()
    downloads.hub.files |= {"model.safetensors.index.json": index, "model.safetensors": b"a stray"}
    assert downloads.run() == 0, downloads.log
    weights = {name for name in downloads.arrived() if name.endswith(".safetensors")}
    assert weights == {"model-00002-of-00002.safetensors"}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused_before_the_download(downloads: Downloads, content: bytes) -> None:
    downloads.hub.files["model.safetensors.index.json"] = content
    assert downloads.run() == 3
    assert downloads.failure is not None
    assert downloads.failure.code == "CHECKPOINT_INVALID"
    assert "model.safetensors.index.json" in downloads.failure.message


def test_a_list_of_an_earlier_version_is_not_followed_to_other_models(downloads: Downloads, tmp_path: Path) -> None:
    stray = "adapter_model.safetensors"
    names = (*FILES, stray)
    listed = [
        {"path": name, "size": len(content), "sha256": None, "git_sha1": git_sha1(content)}
        for name in names
        for content in [(FILES | UNWANTED)[name]]
    ]
    for file in listed:
        if str(file["path"]).endswith(".safetensors"):
            file["sha256"] = hashlib.sha256((FILES | UNWANTED)[str(file["path"])]).hexdigest()
    fields = {"repo": "owner/model", "kind": "model", "commit": COMMIT, "files": listed}
    (tmp_path / "files.json").write_text(json.dumps(fields))
    assert downloads.run("--files", str(tmp_path / "files.json")) == 0, downloads.log
    assert stray not in downloads.arrived()
    assert set(FILES) < set(downloads.arrived())


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("pytorch_model.bin",), "pickles only"),
        (("model.Q4_K_M.gguf",), "weights in GGUF only"),
        (("adapter_config.json", "adapter_model.safetensors"), "an adapter (LoRA) only"),
        (("consolidated.safetensors", "params.json"), "consolidated files only"),
        (("fp8/model.safetensors",), "safetensors files only that no index names"),
    ],
)
def test_a_repository_without_weights_in_safetensors_is_named_as_what_it_is(
    downloads: Downloads, names: tuple[str, ...], kind: str
) -> None:
    downloads.hub.files = {"config.json": FILES["config.json"], **dict.fromkeys(names, b"{}")}
    assert kind in downloads.fails("HUB_NOT_FOUND")
    assert downloads.hub.fetched == []


def test_pickles_that_the_recipe_trusts_are_weights(downloads: Downloads) -> None:
    downloads.hub.files = {"config.json": FILES["config.json"], "pytorch_model.bin": b"a pickle"}
    assert downloads.run("--trust-commit", COMMIT, "--trust-files", "*.bin") == 0, downloads.log
    assert "pytorch_model.bin" in downloads.arrived()
