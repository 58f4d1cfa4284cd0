"""Random damage to headers and configurations: an error that is known, or what other readers read, too."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import CheckpointError
from orchestrator.models.habits import HABITS
from orchestrator.payloads import _main, generate, quantize, verify
from orchestrator.quantization import header
from orchestrator.quantization.files import read_json
from orchestrator.quantization.tensors import StoredTensor

BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEWER = settings(BOUNDED, max_examples=60)

# --- headers ---

NUMBERS = st.one_of(
    st.integers(-2, 20), st.sampled_from([2**31, 2**32, 2**53, 2**63, 2**64, -(2**63)]), st.floats(), st.booleans()
)
ANYTHING = st.recursive(
    st.one_of(st.none(), NUMBERS, st.text(max_size=5), st.sampled_from(["BF16", "F32", "F4", "Infinity"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.one_of(st.text(max_size=8), st.sampled_from(["a", "b", "__metadata__", "model.layers.0.x.weight"]))
DTYPES = st.one_of(st.sampled_from(["U8", "F32", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "u8"]), ANYTHING)
SHAPES = st.one_of(st.lists(NUMBERS, max_size=4), ANYTHING)
PLACES = st.one_of(st.lists(NUMBERS, min_size=2, max_size=2), ANYTHING)
ENTRIES = st.one_of(st.fixed_dictionaries({"dtype": DTYPES, "shape": SHAPES, "data_offsets": PLACES}), ANYTHING)
ITEM_BYTES = {"U8": 1, "F32": 4, "BF16": 2, "I64": 8, "BOOL": 1, "F8_E4M3": 1}


@st.composite
def sound_headers(draw: Callable[..., Any]) -> dict[str, Any]:
    """Draw a header that agrees with itself, so that some succeed."""
    found: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES.filter(lambda name: name != "__metadata__"), max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(ITEM_BYTES))), draw(st.lists(st.integers(0, 4), max_size=3))
        size = ITEM_BYTES[dtype] * int(np.prod(shape, dtype=int))
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return found


@st.composite
def files(draw: Callable[..., Any]) -> bytes:
    """Draw a file: a sound one, one with some entries replaced, or one whose bytes changed."""
    entries = draw(sound_headers())
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    entries |= draw(st.dictionaries(NAMES, ENTRIES, max_size=2)) if draw(st.booleans()) else {}
    text = json.dumps(entries).encode() + b" " * draw(st.integers(0, 9))
    length = len(text) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 2**40]))
    content: bytes = struct.pack("<Q", max(length, 0)) + text + bytes(end + draw(st.sampled_from([0, 0, 0, 0, 1])))
    if draw(st.booleans()):
        return content
    place: int = draw(st.integers(0, len(content) - 1))
    return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]


def _read(file: Path) -> tuple[dict[str, StoredTensor] | None, str]:
    try:
        return header.read(file), ""
    except CheckpointError as error:
        return None, error.message


@BOUNDED
@given(content=files())
def test_a_header_is_refused_or_read_as_the_safetensors_library_reads_it(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    ours, fault = _read(file)
    if ours is None:
        assert str(file) in fault
        assert len(fault) < 2000
        return
    theirs = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    assert {name: (one.dtype, list(one.shape)) for name, one in ours.items()} == {
        name: (one["dtype"], one["shape"]) for name, one in theirs.items()
    }
    for name, one in ours.items():
        assert content[one.begin : one.begin + one.size] == bytes(theirs[name]["data"])


# --- config.json ---

SIZES = (
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "attention_bias",
    "mlp_bias",
)
"""Fields by which transformers builds the model. With another value it is another model."""
USUAL = {"attention_bias", "mlp_bias"}
"""Fields whose default is the model's own value."""


def _is_no_other_model(name: str, value: object) -> bool:
    """Tell whether transformers builds the same model with this value, or none: of no type that it knows."""
    if name == "model_type":
        return isinstance(value, str) and value not in HABITS and bool(value)
    return value is None and name in USUAL


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    generate.main(["--output", str(folder), "--hidden-size", "64", "--layers", "1", "--vocab-size", "261"])
    return folder


@FEWER
@given(data=st.data())
def test_a_configuration_is_refused_or_is_the_models_own(
    data: st.DataObject, sound: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    model = Path(shutil.copytree(sound, folder / "model"))
    config = read_json(model / "config.json")
    name = data.draw(st.one_of(st.sampled_from(SIZES), st.sampled_from(sorted(config)), st.text(max_size=5)))
    value = data.draw(
        st.one_of(ANYTHING, st.sampled_from([0, 1, 2, 4, 32, 64, 261, 10**9, ["MistralForCausalLM"], "mistral", True]))
    )
    (model / "config.json").write_text(json.dumps({**config, name: value}))
    quantized = _main.run(partial(quantize.main, ["--checkpoint", str(model), "--output", str(folder / "out")]))
    checked = _main.run(partial(verify.main, ["--checkpoint", str(model), "--output", str(folder / "checked")]))
    assert "Traceback" not in capsys.readouterr().err
    assert quantized in {0, 3}
    assert checked in {0, 7}
    if name in SIZES and 0 in {quantized, checked}:
        assert (type(value), value) == (type(config[name]), config[name]) or _is_no_other_model(name, value)
    if quantized:
        assert not (folder / "out" / "config.json").exists()
