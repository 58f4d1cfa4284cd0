"""Headers: bytes and parameters of any checkpoint, and one clear error for each that lies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.errors import CheckpointError
from orchestrator.models.headers import Stored, joined, parse
from orchestrator.models.stored import originals_of

BYTES = {"BF16": 2, "F32": 4, "U8": 1, "I8": 1, "I32": 4, "F8_E4M3": 1, "F16": 2}


def header(tensors: Mapping[str, tuple[str, list[int]]]) -> str:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return json.dumps(entries)


def weights(**tensors: tuple[str, list[int]]) -> dict[str, Stored]:
    named = {re.sub("(?<=^[a-z])__|__(?=weight)", ".", name): entry for name, entry in tensors.items()}
    return joined([("model.safetensors", parse(header(named), "here"))], None, "here")


ROWS, COLUMNS = 256, 512
PLAIN = ROWS * COLUMNS

SCHEMES: Mapping[str, dict[str, Stored]] = {
    "bf16": weights(a__weight=("BF16", [ROWS, COLUMNS])),
    "modelopt nvfp4": weights(
        a__weight=("U8", [ROWS, COLUMNS // 2]),
        a__weight_scale=("F8_E4M3", [ROWS, COLUMNS // 16]),
        a__weight_scale_2=("F32", []),
        a__input_scale=("F32", []),
    ),
    "fp8": weights(a__weight=("F8_E4M3", [ROWS, COLUMNS]), a__weight_scale=("F32", []), a__k_scale=("F32", [])),
    "fp8 in blocks": weights(a__weight=("F8_E4M3", [ROWS, COLUMNS]), a__weight_scale_inv=("F32", [2, 4])),
    "mxfp8": weights(a__weight=("F8_E4M3", [ROWS, COLUMNS]), a__weight_scale=("U8", [ROWS, COLUMNS // 32])),
    "gpt-oss": weights(
        a__up_proj_blocks=("U8", [4, ROWS // 4, COLUMNS // 32, 16]),
        a__up_proj_scales=("U8", [4, ROWS // 4, COLUMNS // 32]),
    ),
    "gptq": weights(
        a__qweight=("I32", [COLUMNS // 8, ROWS]),
        a__qzeros=("I32", [COLUMNS // 128, ROWS // 8]),
        a__scales=("F16", [COLUMNS // 128, ROWS]),
        a__g_idx=("I32", [COLUMNS]),
    ),
    "gptq of 3 bits": weights(
        a__qweight=("I32", [COLUMNS * 3 // 32, ROWS]),
        a__qzeros=("I32", [COLUMNS // 128, ROWS * 3 // 32]),
        a__scales=("F16", [COLUMNS // 128, ROWS]),
    ),
    "awq": weights(
        a__qweight=("I32", [COLUMNS, ROWS // 8]),
        a__qzeros=("I32", [COLUMNS // 128, ROWS // 8]),
        a__scales=("F16", [COLUMNS // 128, ROWS]),
    ),
    "bitsandbytes": weights(
        a__weight=("U8", [PLAIN // 2, 1]),
        **{
            "a.weight.absmax": ("F32", [PLAIN // 64]),
            "a.weight.quant_map": ("F32", [16]),
            "a.weight.quant_state.bitsandbytes__nf4": ("U8", [80]),
        },
    ),
    "compressed-tensors nvfp4": weights(
        a__weight_packed=("U8", [ROWS, COLUMNS // 2]),
        a__weight_scale=("F8_E4M3", [ROWS, COLUMNS // 16]),
        a__weight_global_scale=("F32", [1]),
        a__input_global_scale=("F32", [1]),
    ),
    "compressed-tensors int4": weights(
        a__weight_packed=("I32", [ROWS, COLUMNS // 8]),
        a__weight_scale=("BF16", [ROWS, COLUMNS // 128]),
        a__weight_shape=("I32", [2]),
    ),
}
INT4 = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}}}}


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_parameters_are_those_of_the_original_and_bytes_those_of_the_file(name: str) -> None:
    found = SCHEMES[name]
    originals = originals_of(found, INT4)
    assert sum(tensor.elements for tensor in originals) == PLAIN
    assert sum(tensor.stored or 0 for tensor in originals) == sum(tensor.size for tensor in found.values())


def test_each_group_of_compressed_tensors_has_its_own_bits() -> None:
    found = weights(
        a__up__weight_packed=("I32", [ROWS, COLUMNS // 8]), a__down__weight_packed=("I32", [ROWS, COLUMNS // 4])
    )
    groups = {
        "one": {"targets": ["re:.*down$"], "weights": {"num_bits": 8}},
        "two": {"targets": ["Linear"], "weights": {"num_bits": 4}},
    }
    assert [tensor.shape for tensor in originals_of(found, {"config_groups": groups})] == [(ROWS, COLUMNS)] * 2


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (weights(a__qweight=("I32", [COLUMNS // 8, ROWS])), "a.qweight"),
        (weights(a__weight_packed=("I32", [ROWS, COLUMNS // 8])), "how many bits"),
    ],
)
def test_what_cannot_be_unpacked_is_an_error_that_names_it(found: dict[str, Stored], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        originals_of(found)


def entry(**changes: object) -> str:
    return json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **changes}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "a list"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (entry(shape=[5]), "found 4 bytes, expected 5"),
        (entry(shape=[-4]), "shape"),
        (entry(shape=[4.0]), "shape"),
        (entry(shape=[True]), "shape"),
        (entry(shape=[2**40, 2**40]), "shape"),
        (entry(shape=[1] * 100_000), "shape"),
        (entry(dtype="U3"), "dtype"),
        (entry(data_offsets=[4, 0]), "expected 4"),
        (entry(data_offsets=[0]), "data_offsets"),
        (entry(data_offsets=[2, 6]), "leaves a gap"),
        (json.dumps({"w": 1}), "expected dtype, shape"),
        (json.dumps({"\ud800": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}), "cannot be printed"),
        (
            json.dumps({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for name in "ab"}),
            "overlaps",
        ),
        (entry(), "has 5"),
    ],
)
def test_a_header_that_lies_is_one_clear_error(text: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        parse(text, "here", 5 if says == "has 5" else 4)
    assert caught.value.message.startswith("here")
    assert len(caught.value.message.encode()) < 700


def one(name: str) -> dict[str, Any]:
    return parse(header({name: ("U8", [4])}), "here")


@pytest.mark.parametrize(
    ("files", "index", "says"),
    [
        ({"a": one("w"), "b": one("w")}, None, "w is in two files"),
        ({"a": one("w")}, {"w": "a", "v": "b"}, "names 'b', which is missing"),
        ({"a": one("w")}, {"w": "a", "v": "a"}, "lists 'v', which no file has"),
        ({"a": one("w"), "b": one("v")}, {"w": "a", "x": "b"}, "does not place there"),
    ],
)
def test_an_index_and_files_that_disagree_are_an_error(
    files: dict[str, Any], index: dict[str, str] | None, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        joined(files.items(), {"weight_map": index} if index else None, "here")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"w": 1}}])
def test_an_index_that_is_none_is_an_error(index: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="weight_map"):
        joined([("a", one("w"))], index, "here")


def test_files_that_the_index_does_not_name_are_not_the_model() -> None:
    files = {"a": one("w"), "consolidated": one("other")}
    assert joined(files.items(), {"weight_map": {"w": "a"}}, "here") == {"w": files["a"]["w"]}
