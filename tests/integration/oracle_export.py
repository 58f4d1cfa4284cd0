"""Make models and have the real ModelOpt quantize them; run by the interpreter of an environment that has it.

`oracle_export.py export SOURCE OUTPUT [EXCLUDE …]` exports SOURCE as W4A16 NVFP4.
`oracle_export.py load SOURCE` loads a model and its tokenizer with transformers and prints what they do, as JSON.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def export(source: Path, output: Path, exclude: list[str]) -> None:
    import modelopt.torch.quantization as mtq  # noqa: PLC0415 - takes seconds
    from modelopt.torch.export import export_hf_checkpoint  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", device_map="cpu").eval()
    config = copy.deepcopy(mtq.W4A16_NVFP4_CFG)
    config["quant_cfg"] += [{"quantizer_name": f"{pattern}*quantizer", "enable": False} for pattern in exclude]
    model = mtq.quantize(model, config, None)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=output)


def load(source: Path) -> dict[str, object]:
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    conversation = [{"role": "user", "content": "What is the capital of France? Grüße, 東京"}]
    encoded = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**encoded, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return {
        "dtype": str(model.dtype),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prompt": tokenizer.decode(encoded["input_ids"][0]),
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "generated": answer.shape[1] - encoded["input_ids"].shape[1],
        "finite": bool(torch.isfinite(model(**encoded).logits).all()),
    }


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        print("RESULT " + json.dumps(load(Path(sys.argv[2]))))  # noqa: T201 - the answer to the test
