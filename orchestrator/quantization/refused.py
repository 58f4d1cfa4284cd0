"""Lists the classes of models that our own quantizer refuses, each with its reason, so that a plan can say so.

A class that is not listed is tried. What cannot be quantized is then refused by name before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping

_ONE_TENSOR = "all experts of a layer are one tensor, which onepass cannot split"
_MXFP4 = "it is published in MXFP4, and " + _ONE_TENSOR
_BETWEEN = "transformers changes hidden states between its layers, which onepass runs one by one"
_TRANSPOSED = "its weights are stored transposed, not as linear modules"

REASONS: Mapping[str, str] = {
    "FalconH1ForCausalLM": _BETWEEN,
    "Gemma4ForCausalLM": _BETWEEN,
    "Gemma4ForConditionalGeneration": _BETWEEN,
    "GptOssForCausalLM": _MXFP4,
    "GPT2LMHeadModel": _TRANSPOSED,
    "Llama4ForCausalLM": _ONE_TENSOR,
    "Llama4ForConditionalGeneration": _ONE_TENSOR,
}
"""By the name in `architectures` of a `config.json`."""
