from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from benchmarks.support.watched import forget
from orchestrator.errors import CheckpointError
from orchestrator.models.weight_files import INDEX, SINGLE
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.packed import opened
from tests.support.page_cache import cached

Save = Callable[..., Path]

_TWO = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint8)}


def _write(folder: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def _entry(begin: int, end: int, *, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def _edit_index(folder: Path, edit: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_tensor_is_read_whole_or_by_rows(save: Save) -> None:
    checkpoint = Checkpoint.open(save(_TWO))
    assert checkpoint.read("a").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert checkpoint.read("a", 1, 2).tolist() == [[3, 4, 5]]
    assert checkpoint.read("a", 1, 2, again=True).tolist() == [[3, 4, 5]]


def test_rows_come_in_runs_that_fit_but_never_less_than_one(save: Save) -> None:
    checkpoint = Checkpoint.open(save({"a": np.arange(10, dtype=np.uint16).reshape(5, 2)}))
    assert [(first, len(rows)) for first, rows in checkpoint.rows("a", 9)] == [(0, 2), (2, 2), (4, 1)]
    assert [first for first, _ in checkpoint.rows("a", 1)] == [0, 1, 2, 3, 4]


def test_what_was_read_is_not_left_in_the_page_cache(tmp_path: Path) -> None:
    size = 24_000_000
    folder = _write(tmp_path / "model", {"a": _entry(0, size, shape=[size // 1000, 1000])}, os.urandom(size))
    forget(folder)
    if cached(folder / SINGLE):
        pytest.skip("files live in memory here")
    for _ in Checkpoint.open(folder).rows("a", 1_500_000):
        pass
    assert cached(folder / SINGLE) <= mmap.PAGESIZE


def test_a_file_is_opened_once_for_all_that_is_read_of_it(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(save(_TWO))
    opened: list[Path] = []
    really = os.open

    def note(path: Path, flags: int) -> int:
        opened.append(path)
        return really(path, flags)

    monkeypatch.setattr(os, "open", note)
    for _ in range(3):
        checkpoint.read("a")
        checkpoint.read("b")
    assert opened == [checkpoint.folder / SINGLE]


def test_a_checkpoint_closes_its_files(save: Save) -> None:
    folder = save({f"t{number:03}": np.zeros(1, np.uint8) for number in range(100)}, per_file=1)
    before = _open_files()
    checkpoint = Checkpoint.open(folder)
    for name in checkpoint.tensors:
        checkpoint.read(name)
    assert before < _open_files() < before + 100
    del checkpoint
    assert _open_files() == before


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_scalar_is_read_as_one(save: Save) -> None:
    checkpoint = Checkpoint.open(save({"s": np.array(2.5, np.float32)}))
    assert checkpoint.read("s").shape == ()
    assert [(first, rows.tolist()) for first, rows in checkpoint.rows("s", 100)] == [(0, [2.5])]


def test_tensors_are_in_natural_order(save: Save) -> None:
    names = ["layers.10.w", "layers.2.w", "head", "layers.2.b"]
    checkpoint = Checkpoint.open(save({name: np.zeros(1, np.uint8) for name in names}, per_file=1))
    assert list(checkpoint.tensors) == ["head", "layers.2.b", "layers.2.w", "layers.10.w"]


def test_the_safetensors_library_reads_the_same(save: Save) -> None:
    folder = save(_TWO)
    theirs = load_file(folder / SINGLE)
    ours = Checkpoint.open(folder)
    assert {name: ours.read(name).tolist() for name in ours.tensors} == {k: v.tolist() for k, v in theirs.items()}


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_without_a_length_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / SINGLE).write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match=rf"{SINGLE}: found {size} bytes, expected at least the 8 bytes"):
        Checkpoint.open(tmp_path)


@given(cut=st.integers(1, 10_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_a_file_cut_short_anywhere_is_refused(save: Save, cut: int) -> None:
    file = save(_TWO) / SINGLE
    whole = file.read_bytes()
    file.write_bytes(whole[: -(cut % len(whole)) or -1])
    with pytest.raises(CheckpointError, match=r"truncated|at least the 8 bytes"):
        Checkpoint.open(file.parent)


@given(garbage=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    # An empty header is the one file that needs no tensor.
    (tmp_path / SINGLE).write_bytes(b"\x7f" + garbage)
    with pytest.raises(CheckpointError):
        Checkpoint.open(tmp_path)


def test_a_file_with_something_after_the_data_is_refused(save: Save) -> None:
    file = save(_TWO) / SINGLE
    file.write_bytes(file.read_bytes() + b"!")
    with pytest.raises(CheckpointError, match="followed by something else"):
        Checkpoint.open(file.parent)


def test_a_file_that_shrinks_while_it_is_read_is_refused(save: Save) -> None:
    checkpoint = Checkpoint.open(save(_TWO))
    file = checkpoint.folder / SINGLE
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="the file ends inside b"):
        checkpoint.read("b")


def test_a_pointer_of_git_lfs_is_recognized(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer") as caught:
        Checkpoint.open(tmp_path)
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"{", b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        (b'{"a": 1, "a": 2}', b"", "a occurs twice"),
        ([], b"", "found a list as header, expected an object"),
        ({"a": 5}, b"", "a: found 5, expected dtype, shape and data_offsets"),
        ({"a": {"dtype": "U8", "shape": [1]}}, b"", "expected dtype, shape and data_offsets"),
        ({"a": _entry(0, 1, dtype="Q7")}, b"1", "a: found dtype 'Q7', expected one of BOOL, U8"),
        ({"a": {**_entry(0, 1), "dtype": ["U8"]}}, b"1", r"a: found dtype \['U8'\]"),
        ({"a": _entry(0, 1, shape=[-1])}, b"1", r"a: found shape \[-1\]"),
        ({"a": _entry(0, 1, shape=[True])}, b"1", r"a: found shape \[True\]"),
        ({"a": _entry(0, 1, shape=[1.0])}, b"1", r"a: found shape \[1.0\]"),
        ({"a": {**_entry(0, 1), "shape": 1}}, b"1", "a: found shape 1"),
        ({"a": {**_entry(0, 1), "data_offsets": [1, 0]}}, b"1", r"a: found data_offsets \[1, 0\]"),
        ({"a": {**_entry(0, 1), "data_offsets": [0]}}, b"1", r"a: found data_offsets \[0\]"),
        ({"a": {**_entry(0, 1), "data_offsets": ["0", "1"]}}, b"1", "a: found data_offsets"),
        ({"a": _entry(0, 3, dtype="F32", shape=[1])}, b"123", r"a: found 3 bytes, expected 4 for F32 of shape \[1\]"),
        ({"a": _entry(0, 4, shape=[2, 3])}, b"1234", r"a: found 4 bytes, expected 6 for U8 of shape \[2, 3\]"),
        ({"a": _entry(0, 4), "b": _entry(2, 6)}, b"123456", "b: found begin 2, expected 4; it overlaps"),
        ({"a": _entry(0, 2), "b": _entry(4, 6)}, b"123456", "b: found begin 4, expected 2; it leaves a gap"),
        ({"a": _entry(2, 4)}, b"1234", "a: found begin 2, expected 0; it leaves a gap"),
        ({"a": _entry(0, 8)}, b"1234", "the file is truncated"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, header: object, data: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        Checkpoint.open(_write(tmp_path, header, data))
    assert str(tmp_path / SINGLE) in caught.value.message


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(CheckpointError, match="the header has 9223372036854775808 bytes, but the file has 2 more"):
        Checkpoint.open(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"found no safetensors file, expected {SINGLE} or {INDEX}"):
        Checkpoint.open(tmp_path)


def test_shards_without_their_index_are_refused(save: Save) -> None:
    folder = save(_TWO, per_file=1)
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"found model-00001-of-00002.safetensors, .*, expected .*index"):
        Checkpoint.open(folder)


def test_a_missing_shard_is_named_with_what_is_there(save: Save) -> None:
    folder = save(_TWO, per_file=1)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"names model-00002-of-00002.safetensors, which is missing; found model-00001"
    ):
        Checkpoint.open(folder)


def test_a_misnamed_shard_is_named_with_what_is_there(save: Save) -> None:
    folder = save(_TWO, per_file=1)
    (folder / "model-00002-of-00002.safetensors").rename(folder / "model-2.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors, which is missing; .*model-2.saf"):
        Checkpoint.open(folder)


def test_swapped_shards_are_found(save: Save) -> None:
    folder = save(_TWO, per_file=1)
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    with pytest.raises(
        CheckpointError, match=r"places a in model-00001-of-00002.safetensors, but it is in model-00002"
    ):
        Checkpoint.open(folder)


def test_a_tensor_that_no_shard_has_is_named(save: Save) -> None:
    folder = save(_TWO, per_file=1)
    _edit_index(folder, lambda placed: placed.update(c=placed["a"]))
    with pytest.raises(CheckpointError, match=r"places c in .*, but no shard has it"):
        Checkpoint.open(folder)


def test_a_tensor_that_the_index_does_not_list_is_named(save: Save) -> None:
    folder = save({**_TWO, "c": np.zeros(1, np.uint8)}, per_file=2)
    _edit_index(folder, lambda placed: placed.pop("a"))
    with pytest.raises(CheckpointError, match=f"has a, which {INDEX} does not list"):
        Checkpoint.open(folder)


def test_a_tensor_in_two_shards_is_named(save: Save) -> None:
    folder = save(_TWO, per_file=1)
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"a is in both model-00001-of-00002.safetensors and model-00002"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", 7])
def test_an_index_that_points_elsewhere_is_refused(save: Save, shard: object) -> None:
    folder = save(_TWO, per_file=1)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=INDEX):
        Checkpoint.open(folder)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_that_is_none_is_refused(save: Save, index: str) -> None:
    folder = save(_TWO, per_file=1)
    (folder / INDEX).write_text(index)
    with pytest.raises(CheckpointError, match=INDEX):
        Checkpoint.open(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-8-sig"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_not_plain_utf_8_is_refused_as_loaders_do(
    tiny: Path, tmp_path: Path, name: str, encoding: str
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    text = (tiny / name).read_text(encoding="utf-8")
    (tmp_path / "model" / name).write_text(text, encoding=encoding)
    with pytest.raises(CheckpointError, match=f"{name}: not JSON"):
        opened(tmp_path / "model")
