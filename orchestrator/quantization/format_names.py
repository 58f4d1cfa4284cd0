"""Defines the planner's facts about quantizing and comparing, without NumPy, so that a plan loads quickly."""

from __future__ import annotations

AUTO = "auto"
"""The format name for a separate choice for each group of modules."""
SINGLE_FORMATS = ("w4a16_nvfp4", "nvfp4", "fp8")
"""Format names for the whole model: the keys of `schemes.SCHEMES`."""
FORMATS = (*SINGLE_FORMATS, AUTO)
MAX, MSE, FOUR_OVER_SIX, WEIGHTED, LOCAL_HESSIAN = SCALE_SEARCHES = (
    "max",
    "mse",
    "four_over_six",
    "weighted",
    "local_hessian",
)
"""How the scales of NVFP4's blocks are chosen, see `formats.nvfp4`."""
NEAREST, GPTQ = ROUNDINGS = ("nearest", "gptq")
"""How NVFP4's numbers are rounded, see `formats.gptq`."""
NONE, NORMS = SMOOTHINGS = ("none", "norms")
"""Which inputs are divided by powers of two before they are quantized, see `smoothing`."""
HEADROOM = "headroom"
INPUT_SCALES = (MAX, HEADROOM)
"""How the scales of NVFP4's inputs are chosen, see `input_ranges`."""
ORIGINAL, QUANTIZED = LAYER_INPUTS = ("original", "quantized")
"""Which layers calculate the inputs of calibration, see `calibrated`."""
MEASURED = (WEIGHTED, LOCAL_HESSIAN, GPTQ, NORMS)
"""Choices that follow inputs: they need a run of the model for every format."""
SEARCHED_FORMATS = ("w4a16_nvfp4", "nvfp4", AUTO)
"""Formats with such blocks."""
ROUNDED_FORMATS = SEARCHED_FORMATS
"""Formats whose numbers can be rounded by `gptq`."""
SMOOTHED_FORMATS = ("w4a16_nvfp4", "nvfp4")
"""Formats whose inputs can be smoothed, and whose candidates are compared."""
FORMATS_OF_4_BIT_INPUTS = ("nvfp4", AUTO)
KV_CACHE_FORMATS = ("none", "fp8")
PROBE_TOKENS = 4096
"""Enough tokens to measure a layer's error: with others its mean changes by a few percent."""
PRODUCT_BYTES = 4
"""Of the product of two inputs of a module, which GPTQ needs for every two of them."""
PAIR_BYTES = 98
"""Of each input, for the 16 products that `local_hessian` sums, and the 8.5 numbers of pairs that it keeps of them."""
PRODUCT_COPIES = 3
"""Matrices of the size of one module's products that are made of them, see `hessian`."""
FUSED = (
    ("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
)
"""Modules that share `weight_scale_2`, because runtimes load them as one matrix: TensorRT-LLM asserts that the scales
of the parts are equal. A latent attention's first projections are such a matrix, too."""
