"""Stand-in for ModelOpt's hf_ptq.py: a checkpoint in its layout, really quantized, with activation scales of 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import standin_tensors as tensors
from .standin_tool import Given, fail, main, read_json, refuse, say, work, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALGORITHMS = {"nvfp4": "NVFP4", "w4a16_nvfp4": "W4A16_NVFP4", "fp8": "FP8"}
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_KEPT = ["lm_head", "model.embed_tokens"]


def run(given: Given) -> None:
    """Quantize."""
    source, output = given.folder("--pyt_ckpt_path"), Path(given.get("--export_path", "exported_model"))
    number_format = given.get("--qformat", "fp8")
    if number_format not in _ALGORITHMS:
        refuse(f"argument --qformat: the stand-in knows {', '.join(_ALGORITHMS)}; found {number_format!r}")
    _read_samples(Path(given.get("--dataset")), int(given.get("--calib_size", "1024")))
    config = read_json(source / "config.json")
    work("calibrating")
    cache = given.get("--kv_cache_qformat", "fp8_cast")
    output.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and "safetensors" not in file.name and file.name != "config.json":
            shutil.copyfile(file, output / file.name)
    quantized = quantize(dict(tensors.read_tensors(source)), number_format, with_cache_scales=cache == "fp8")
    tensors.write_tensors(output / "model.safetensors", quantized)
    algorithm, cache_algorithm = _ALGORITHMS[number_format], None if cache == "none" else cache.split("_")[0].upper()
    write_json(output / "hf_quant_config.json", _hf_quant_config(algorithm, cache_algorithm))
    write_json(output / "config.json", config | {"quantization_config": _quantization_config(algorithm)})
    say(f"[stand-in] {len(quantized)} tensors in {output}")


def quantize(
    weights: Mapping[str, tensors.Tensor], number_format: str, *, with_cache_scales: bool
) -> dict[str, tensors.Tensor]:
    """Quantize every linear module of the layers; parts that engines fuse share their scale."""
    result: dict[str, tensors.Tensor] = {}
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj") or name == module:
            result[name] = weight
            continue
        top = max(tensors.largest(weights[part]) for part in _together(name, weights))
        if number_format == "fp8":
            result[name], result[f"{module}.weight_scale"] = tensors.fp8(weight, top)
        else:
            result[name], scale, overall = tensors.nvfp4(weight, top)
            result |= {f"{module}.weight_scale": scale, f"{module}.weight_scale_2": overall}
        if number_format != "w4a16_nvfp4":
            result[f"{module}.input_scale"] = tensors.scalar(1.0)
        if with_cache_scales and module.endswith(("k_proj", "v_proj")):
            result[f"{module}.{module[-6]}_scale"] = tensors.scalar(1.0)
    return result


def _together(name: str, weights: Mapping[str, tensors.Tensor]) -> list[str]:
    parent, module = name.removesuffix(".weight").rsplit(".", 1)
    group = next((group for group in _FUSED if module in group), (module,))
    return [part for part in (f"{parent}.{member}.weight" for member in group) if part in weights]


def _read_samples(dataset: Path, count: int) -> None:
    """Read as the real one reads without network: a JSON Lines file of `text`."""
    if dataset.suffix != ".jsonl" or not dataset.is_file():
        fail(f"ConnectionError: couldn't reach the Hub for the data set {dataset}")
    with dataset.open(encoding="utf-8") as stream:
        samples = [json.loads(line)["text"] for line in stream if line.strip()]
    say(f"[stand-in] {min(count, len(samples))} samples")


def _hf_quant_config(algorithm: str, cache: str | None) -> dict[str, Any]:
    quantization: dict[str, Any] = {"quant_algo": algorithm, "kv_cache_quant_algo": cache}
    if "NVFP4" in algorithm:
        quantization["group_size"] = tensors.BLOCK
    quantization["exclude_modules"] = _KEPT
    return {"producer": {"name": "modelopt", "version": "0.46.0"}, "quantization": quantization}


def _quantization_config(algorithm: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {"dynamic": False, "num_bits": 8, "type": "float"}
    if "NVFP4" in algorithm:
        numbers |= {"num_bits": 4, "group_size": tensors.BLOCK}
    group: dict[str, Any] = {"weights": numbers, "targets": ["Linear"]}
    if not algorithm.startswith("W4A16"):
        group["input_activations"] = numbers
    return {
        "config_groups": {"group_0": group},
        "ignore": _KEPT,
        "quant_algo": algorithm,
        "producer": {"name": "modelopt", "version": "0.46.0"},
        "quant_method": "modelopt",
    }


if __name__ == "__main__":
    main("hf_ptq.py", run)
