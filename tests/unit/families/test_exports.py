"""What ModelOpt exported counts only if it is a quantized checkpoint of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from tests.families.exports import no_export

_CONFIG = {"architectures": ["NobodyKnowsForCausalLM"], "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
_TABLE = np.arange(32 * 16, dtype=np.float32).reshape(32, 16)
_WEIGHT = {f"net.layers.0.{name}.weight": np.ones((16, 16), np.float32) for name in ("first", "second", "third")}
_CODES, _SCALE = np.ones((16, 8), np.uint8), np.ones((16, 1), np.float32)


def _saved(folder: Path, tensors: dict[str, NDArray[Any]]) -> Path:
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return folder


def _quantized(*names: str) -> dict[str, NDArray[Any]]:
    weights = {f"net.layers.0.{name}.weight": _CODES for name in names}
    return {**_WEIGHT, **weights, **{f"{name}_scale": _SCALE for name in weights}}


@pytest.mark.parametrize(
    ("exported", "reason"),
    [
        ({"embed.weight": _TABLE, **_quantized("first", "second")}, ""),
        ({"another.name.weight": _TABLE, **_quantized("first", "second")}, ""),
        ({"embed.weight": _TABLE, **_quantized("first")}, "it quantizes 33% of the weights of the layers"),
        ({"embed.weight": _TABLE, **_quantized()}, "it quantizes 0% of the weights of the layers"),
        ({"embed.weight": _TABLE + 1, **_quantized("first", "second")}, "transformers does not load the weights"),
        ({"embed.weight": _TABLE, **_quantized("first", "second"), "up": _CODES[:0]}, "it writes empty tensors"),
    ],
)
def test_an_export_counts_if_it_is_a_quantized_checkpoint_of_the_model(
    tmp_path: Path, exported: dict[str, NDArray[Any]], reason: str
) -> None:
    source = _saved(tmp_path / "source", {"net.embed.weight": _TABLE, **_WEIGHT})
    found = no_export(source, _saved(tmp_path / "export", exported))
    assert found.startswith(reason)
    assert bool(found) is bool(reason)


def test_experts_in_one_tensor_count_as_quantized(tmp_path: Path) -> None:
    whole: dict[str, NDArray[Any]] = {"net.layers.0.experts.down_proj": np.ones((4, 16, 16), np.float32)}
    codes: dict[str, NDArray[Any]] = {
        "net.layers.0.experts.down_proj": np.ones((4, 8, 16), np.uint8),
        "net.layers.0.experts.down_proj_weight_scale": _SCALE,
    }
    source = _saved(tmp_path / "source", {"net.embed.weight": _TABLE, **whole})
    assert no_export(source, _saved(tmp_path / "export", {"net.embed.weight": _TABLE, **codes})) == ""
