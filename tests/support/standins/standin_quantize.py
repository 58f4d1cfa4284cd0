"""Stand-in for TensorRT-LLM's quantize.py."""

from __future__ import annotations

from .standin_checkpoint import quantize
from .standin_tool import main

if __name__ == "__main__":
    main("quantize.py", quantize)
