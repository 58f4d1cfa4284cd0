"""Stand-ins for convert_checkpoint.py and quantize.py: a checkpoint in TensorRT-LLM's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .standin_tensors import Tensor, write_tensors
from .standin_tool import Given, content_digest, derived_bytes, fail, read_json, say, work, write_json

_BYTES = 4096
_ALGORITHMS = {"nvfp4": "NVFP4", "fp8": "FP8", "int4_awq": "W4A16_AWQ", "full_prec": None}


def convert(given: Given) -> None:
    """Convert a checkpoint; what ModelOpt says of it is taken over."""
    source = given.folder("--model_dir")
    quantization: dict[str, Any] = {"quant_algo": None, "kv_cache_quant_algo": None}
    if (source / "hf_quant_config.json").is_file():
        quantization = read_json(source / "hf_quant_config.json")["quantization"]
    work("converting")
    _write(given, source, quantization)


def quantize(given: Given) -> None:
    """Quantize a checkpoint."""
    source, dataset = given.folder("--model_dir"), given.folder("--calib_dataset")
    files = list(dataset.glob("train*.jsonl"))
    if not files:
        fail(f"ValueError: {dataset} has no training split")
    texts = [json.loads(line)["text"] for line in files[0].read_text(encoding="utf-8").splitlines()]
    say(f"[stand-in] {len(texts)} samples")
    number_format = given.get("--qformat", "full_prec")
    work("calibrating")
    algorithm = _ALGORITHMS.get(number_format, number_format.upper())
    cache = given.values.get("--kv_cache_dtype")
    _write(given, source, {"quant_algo": algorithm, "kv_cache_quant_algo": cache.upper() if cache else None})


def _write(given: Given, source: Path, quantization: dict[str, Any]) -> None:
    output = Path(given.get("--output_dir", "tllm_checkpoint"))
    output.mkdir(parents=True, exist_ok=True)
    config = read_json(source / "config.json")
    ranks = int(given.get("--tp_size", "1"))
    options = {flag: value for flag, value in given.values.items() if not flag.endswith("_dir")}
    seed = f"{content_digest(source)} {sorted(options.items())}"
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    pretrained = {
        "architecture": config["architectures"][0],
        "dtype": given.get("--dtype", "bfloat16"),
        **{key: config.get(key) for key in (*kept, "num_key_value_heads", "max_position_embeddings")},
        "quantization": quantization,
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
    }
    write_json(output / "config.json", pretrained)
    for rank in range(ranks):
        data = derived_bytes(f"{seed} rank {rank}", _BYTES)
        write_tensors(output / f"rank{rank}.safetensors", {"transformer.derived": Tensor("U8", (_BYTES,), data)})
    say(f"[stand-in] {ranks} ranks in {output}")
