"""Lists the classes of models that our own quantizer refuses, each with its reason, so that a plan can say so.

A class that is not listed is tried. What cannot be quantized is then refused by name before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping

_BETWEEN = "transformers changes hidden states between its layers, which onepass runs one by one"
_TRANSPOSED = "its weights are stored transposed, not as linear modules"

REASONS: Mapping[str, str] = {
    "FalconH1ForCausalLM": _BETWEEN,
    "Gemma4ForCausalLM": _BETWEEN,
    "Gemma4ForConditionalGeneration": _BETWEEN,
    "GPT2LMHeadModel": _TRANSPOSED,
}
"""By the name in `architectures` of a `config.json`."""
