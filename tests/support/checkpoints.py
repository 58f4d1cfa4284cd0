"""Checkpoints of random weights, with some of them set on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from orchestrator.quantization.files import write_json
from orchestrator.quantization.layout import expected_tensors
from orchestrator.quantization.writer import CheckpointWriter


def write_model(folder: Path, config: Mapping[str, Any], changes: Mapping[str, NDArray[Any]] | None = None) -> Path:
    """Write a model of any known architecture; `changes` has tensors by name."""
    numbers = np.random.default_rng(1)
    specs = list(expected_tensors(config).values())
    with CheckpointWriter(folder, [specs]) as writer:
        for spec in specs:
            drawn = (0.02 * numbers.standard_normal(spec.shape, np.float32)).astype(ml_dtypes.bfloat16)
            writer.write(spec.name, (changes or {}).get(spec.name, drawn))
    write_json(folder / "config.json", config)
    return folder
