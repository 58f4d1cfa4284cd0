"""Lists what our own quantizer refuses, by class and by model type, each with its reason, so that a plan can say so.

`make families` writes the list: what ModelOpt exports and method `onepass` refuses, by format. A model that is not
listed is tried. What cannot be quantized is then refused by name before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from orchestrator.quantization.format_names import SINGLE_FORMATS

FILE = Path(__file__).with_name("refused.json")
REASONS: Mapping[str, Mapping[str, str]] = json.loads(FILE.read_text(encoding="utf-8"))
"""By the name in `architectures` of a `config.json` if all families of that class are refused, and by `model_type`: the
reason by format."""


def reason(architecture: str, model_type: str | None, number_format: str, *, runs_model: bool) -> str | None:
    """Return why a model is refused; None if it is not.

    Args:
        architecture: Its class.
        model_type: That of its `config.json`, if it is known.
        number_format: A recipe's format.
        runs_model: Its layers run, which is refused in more cases than to quantize weights alone.
    """
    found = REASONS.get(architecture) or REASONS.get(model_type or "", {})
    weights_alone, *calibrated = SINGLE_FORMATS
    if not runs_model:
        return found.get(weights_alone)
    formats = [name for name in calibrated if name == number_format] or calibrated
    return next((found[name] for name in formats if name in found), None)
