"""Compares stored rotation frequencies with those that follow from `config.json`.

Old checkpoints store them. transformers, TensorRT-LLM and vLLM calculate them, so that another stored value means that
`config.json` describes another model than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization import structure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint

    Frequencies = NDArray[np.float64]

LEAF = ".rotary_emb.inv_freq"
_TOLERANCE: Mapping[str, float] = {"BF16": 2.0**-7, "F16": 2.0**-9}
"""Relative, by the stored type; 1e-4 for others."""
_SMALLEST = 1e-7
"""Absolute, because F16 has nothing smaller."""
_THETA = 10_000.0
_SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct")
_THETAS = ("rope_theta", "rotary_emb_base", "rope_local_base_freq")
_HINT = "Correct the rotation (rope) in config.json, or remove the tensor if config.json is right."


def require_calculated(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Check each stored vector of rotation frequencies, because none is written.

    Raises:
        CheckpointError: It differs from what the model calculates, or `config.json` names a kind of scaling whose
            frequencies are not calculated here.
    """
    for name, tensor in checkpoint.tensors.items():
        if not name.endswith(LEAF):
            continue
        stored = checkpoint.read(name).astype(np.float64).reshape(-1)
        tolerance = _TOLERANCE.get(tensor.dtype, 1e-4)
        try:
            calculated = list(_calculated(structure.text_config(config)))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"{tensor.file}: {name} cannot be compared, because config.json describes no rotation: {error!r}"
            raise CheckpointError(message, hint=_HINT) from error
        alike = (one for one in calculated if one.shape == stored.shape)
        if not any(np.allclose(stored, one, rtol=tolerance, atol=_SMALLEST) for one in alike):
            message = f"{tensor.file}: {name} differs from the frequencies that follow from config.json"
            if not calculated:
                message = f"{tensor.file}: {name}: the frequencies of this rope_scaling are not calculated here"
            raise CheckpointError(message, hint=_HINT)


def _calculated(text: Mapping[str, Any]) -> Iterator[Frequencies]:
    """Yield what a layer may have: layers of several kinds have several frequencies."""
    found = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = [one for one in found.values() if isinstance(one, dict)] or [found]
    for kind in kinds:
        scale = _SCALED.get(str(kind.get("rope_type") or kind.get("type") or "default"))
        for theta in {float(place[key]) for place in (kind, text) for key in _THETAS if key in place} or {_THETA}:
            rotated = _rotated(text, kind)
            if scale is not None:
                yield from scale(theta ** -(np.arange(0, rotated, 2) / rotated), kind, text)


def _rotated(text: Mapping[str, Any], kind: Mapping[str, Any]) -> int:
    if text.get("rotary_dim"):
        return int(text["rotary_dim"])
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return int(head * next((float(place[key]) for place in (kind, text) for key in _SHARES if key in place), 1.0))


def _linear(plain: Frequencies, kind: Mapping[str, Any], _: Mapping[str, Any]) -> list[Frequencies]:
    """Return both ways to store them: older versions of transformers scaled positions instead."""
    return [plain * (1 / float(kind["factor"])), plain]


def _llama3(plain: Frequencies, kind: Mapping[str, Any], text: Mapping[str, Any]) -> list[Frequencies]:
    """Scale as Llama 3.1 does (transformers, `_compute_llama3_parameters`)."""
    factor, low, high = (float(kind[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = kind.get("original_max_position_embeddings") or text["max_position_embeddings"]
    turns = trained * plain / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return [(1 - share) * plain / factor + share * plain]


_SCALED: Mapping[str, Callable[[Frequencies, Mapping[str, Any], Mapping[str, Any]], list[Frequencies]]] = {
    "default": lambda plain, _, __: [plain],
    "dynamic": lambda plain, _, __: [plain],  # at the lengths of the training
    "linear": _linear,
    "llama3": _llama3,
}
"""By the kind of scaling. Others, such as yarn and longrope, are newer than checkpoints that store frequencies."""
