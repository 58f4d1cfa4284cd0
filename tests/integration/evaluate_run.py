"""Evaluate models by our own code and, independently, whole; run by an interpreter that has torch and ModelOpt.

`evaluate_run.py FOLDER ORIGINAL …` makes small models, quantizes them, compares each with its original in both ways and
writes `results.json` into the folder. The second way loads whole models with transformers, takes weights and inputs
through ModelOpt's own NVFP4 or through float64, and multiplies in float64.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from orchestrator.quantization import divergence, linear_override, onepass, skeleton
from orchestrator.quantization.calibrated import quantize_calibrated
from orchestrator.quantization.samples import Batch, random_batches
from tests.families import worker
from tests.support.families import FAMILIES as EVERY
from tests.support.families import SIZES as FAMILY_SIZES
from tests.support.families import STORED_OTHERWISE, UNLISTED, Family, Stored

sys.path.insert(0, str(Path(__file__).parent))
from oracle_export import make, store_otherwise  # beside this file, which is run as a script

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"class": "LlamaConfig"},
    "qwen3-moe": {
        "class": "Qwen3MoeConfig",
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
}
ONE_TENSOR = ("Llama 4", "gpt-oss")
"""Families whose experts stay in one tensor when they are quantized."""
OWN_CODE = ("deepseek_v4", "gemma4_text")
"""Families whose own code runs between layers, or whose layers write to what later ones read."""
FORMATS = (("nvfp4", "none"), ("nvfp4", "fp8"), ("fp8", "fp8"), ("w4a16_nvfp4", "none"))


def main(folder: Path, *originals: str) -> None:
    results: dict[str, Any] = {}
    for family, config in FAMILIES.items():
        source = folder / family / "source"
        make(source, {**SIZES, **config})
        for number_format, cache in FORMATS:
            output = folder / family / f"{number_format}-{cache}"
            quantize(source, output, number_format, cache)
            results[f"{family} {number_format} {cache}"] = compared(source, output)
    results["originals"] = {
        name: original(folder / "originals" / name, EVERY[stored.family], stored.types)
        for name in originals
        for stored in [STORED_OTHERWISE.get(name, Stored(name, {}))]
    }
    results["experts in one tensor"] = {name: experts_in_one_tensor(folder / name, name) for name in ONE_TENSOR}
    results["own code"] = {family: own_code(folder / family, family) for family in OWN_CODE}
    results["forwards of their own"] = forwards_of_their_own(folder / "llama")
    results["bad layer"], results["bad layer left alone"] = one_bad_layer(folder)
    results["inputs"] = inputs()
    (folder / "results.json").write_text(json.dumps(results))


def quantize(source: Path, output: Path, number_format: str, cache: str, exclude: tuple[str, ...] = ()) -> None:
    if number_format == "w4a16_nvfp4":
        onepass.quantize_checkpoint(source, output, exclude=exclude)
        return
    batches = random_batches(320, 4, 32)
    quantize_calibrated(source, output, batches, number_format=number_format, kv_cache=cache, exclude=exclude)


def held_out() -> list[Batch]:
    """Batches with and without padding, of two lengths."""
    whole = random_batches(320, 3, 24, 1, 1)
    padded = random_batches(320, 2, 17, 2, 1)
    padded[0].mask[0, :5] = 0
    return [*whole, *padded]


def compared(source: Path, output: Path) -> dict[str, Any]:
    found = divergence.evaluate(source, output, held_out())
    return {"ours": found.document(), "whole": whole(source, output)}


def original(source: Path, family: Family, stored: Mapping[str, str]) -> dict[str, float]:
    """Tell a model's perplexity by our walk, and by transformers with experts one by one and as it does by default."""
    make(source, {**FAMILY_SIZES, **family.config})
    store_otherwise(source, dict(stored))
    quantize(source, source.with_name(f"{source.name} quantized"), "w4a16_nvfp4", "none")
    found = divergence.evaluate(source, source.with_name(f"{source.name} quantized"), held_out())
    perplexities = {"ours": found.original_perplexity}
    for way, chosen in (("eager", {"experts_implementation": "eager"}), ("default", {})):
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", **chosen).eval()
        perplexities[way] = perplexity(model)
    return perplexities


def own_code(source: Path, family: str) -> dict[str, float]:
    """Tell a model's perplexity by our walk, and by transformers."""
    worker.make(family, source)
    quantize(source, source.with_name(f"{family} quantized"), "w4a16_nvfp4", "none")
    found = divergence.evaluate(source, source.with_name(f"{family} quantized"), held_out())
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", experts_implementation="eager").eval()
    return {"ours": found.original_perplexity, "whole": perplexity(model), "kl": found.kl_divergence}


def forwards_of_their_own(folder: Path) -> list[dict[str, Any]]:
    """Compare a model that needs no code between its layers as one that does, and as usual."""
    compared = [divergence.evaluate(folder / "source", folder / "nvfp4-none", held_out()).document()]
    usual, skeleton.listen = skeleton.listen, lambda *_: None
    try:
        compared.append(divergence.evaluate(folder / "source", folder / "nvfp4-none", held_out()).document())
    finally:
        skeleton.listen = usual
    return compared


def experts_in_one_tensor(folder: Path, name: str) -> dict[str, float]:
    """Compare a model by our walk, and by transformers with the decoded weights in BF16."""
    source, output = folder / "source", folder / "quantized"
    make(source, {**SIZES, **UNLISTED[name].config})
    quantize(source, output, "w4a16_nvfp4", "none")
    found = divergence.evaluate(source, output, held_out())
    tensors = load_file(output / "model.safetensors")
    decoded = {}
    for scales in [name for name in tensors if name.endswith("weight_scale")]:
        stored = scales.removesuffix("_scale").removesuffix("_weight")
        codes, blocks, scale_2 = tensors[stored], tensors[scales], tensors[f"{scales}_2"]
        experts = [(codes.T, blocks.T)] if codes.dim() == 2 else zip(codes, blocks, strict=True)
        parts = [{".weight": c.T, ".weight_scale": b.T, ".weight_scale_2": scale_2} for c, b in experts]
        weights = [_decoded({key: part.contiguous() for key, part in each.items()}, "").bfloat16() for each in parts]
        decoded[stored] = weights[0] if codes.dim() == 2 else torch.stack([each.T for each in weights])
    models = [AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval() for _ in range(2)]
    models[1].load_state_dict(decoded, strict=False)
    total, tokens = 0.0, 0
    for batch in held_out():
        given = {"input_ids": torch.tensor(batch.tokens), "attention_mask": torch.tensor(batch.mask)}
        with torch.inference_mode():
            first, second = (model(**given, use_cache=False).logits[:, :-1].double() for model in models)
        keep = (given["attention_mask"][:, :-1] * given["attention_mask"][:, 1:]).bool()
        logs = [torch.log_softmax(logits[keep], -1) for logits in (first, second)]
        total += float(torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="sum"))
        tokens += int(keep.sum())
    return {"ours": found.kl_divergence, "whole": total / tokens}


def perplexity(model: torch.nn.Module) -> float:
    """Run a whole model over the text."""
    losses = []
    for batch in held_out():
        tokens, mask = torch.tensor(batch.tokens), torch.tensor(batch.mask)
        with torch.inference_mode():
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        keep = (mask[:, :-1] * mask[:, 1:]).bool()
        losses.append(
            torch.nn.functional.cross_entropy(logits[:, :-1][keep].double(), tokens[:, 1:][keep], reduction="none")
        )
    return float(torch.cat(losses).mean().exp())


def one_bad_layer(folder: Path) -> list[dict[str, Any]]:
    """Spoil one matrix for four bits, and nothing else; quantize it, and leave it alone.

    One column of each block becomes far larger than the others, which round to zero; what is multiplied with it gets as
    much smaller, so the model itself says the same.
    """
    source = folder / "spoiled"
    shutil.copytree(folder / "llama" / "source", source)
    tensors = load_file(source / "model.safetensors")
    columns = torch.ones(96, dtype=torch.bfloat16)
    columns[::16] = 128
    tensors["model.layers.1.mlp.down_proj.weight"] *= columns
    tensors["model.layers.1.mlp.up_proj.weight"] /= columns[:, None]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    documents = []
    for name, exclude in (("all", ()), ("some", ("model.layers.1.mlp.down_proj",))):
        quantize(source, folder / f"spoiled-{name}", "w4a16_nvfp4", "none", exclude)
        documents.append(divergence.evaluate(source, folder / f"spoiled-{name}", held_out()).document())
    return documents


# --- the other way -------------------------------------------------------------------------------------------------


def whole(source: Path, output: Path) -> dict[str, float]:
    """Compare the whole models."""
    original = AutoModelForCausalLM.from_pretrained(source, dtype="auto", experts_implementation="eager").eval()
    quantized = AutoModelForCausalLM.from_pretrained(source, dtype="auto", experts_implementation="eager").eval()
    tensors = load_file(output / "model.safetensors")
    matrices = _matrices(quantized, tensors)
    logs: list[tuple[Any, Any, Any]] = []
    for batch in held_out():
        given = {"input_ids": torch.tensor(batch.tokens), "attention_mask": torch.tensor(batch.mask)}
        with torch.inference_mode():
            plain = original(**given, use_cache=False).logits
            with _Engine(matrices, _cache_scales(tensors)):
                engine = quantized(**given, use_cache=False).logits
        keep = (given["attention_mask"][:, :-1] * given["attention_mask"][:, 1:]).bool()
        first, second = (torch.log_softmax(x[:, :-1][keep].double(), -1) for x in (plain, engine))
        logs.append((first, second, given["input_ids"][:, 1:][keep]))
    first, second, labels = (torch.cat(parts) for parts in zip(*logs, strict=True))
    divergences = torch.nn.functional.kl_div(second, first, log_target=True, reduction="none").sum(-1)
    surprise = [torch.nn.functional.nll_loss(log, labels).exp() for log in (first, second)]
    return {"kl": float(divergences.mean()), "original": float(surprise[0]), "quantized": float(surprise[1])}


def _matrices(model: torch.nn.Module, tensors: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Decode every quantized weight into float64, by where its place in the model begins in memory."""
    found: dict[int, dict[str, Any]] = {}
    parameters = dict(model.named_parameters())
    for name in tensors:
        if not name.endswith(".weight_scale"):
            continue
        module = name.removesuffix(".weight_scale")
        entry = {"weight": _decoded(tensors, module), "input_scale": tensors.get(f"{module}.input_scale")}
        entry["codes"] = tensors[f"{module}.weight"].dtype
        if f"{module}.weight" in parameters:
            found[parameters[f"{module}.weight"].data_ptr()] = entry
            continue
        block, _, rest = module.partition(".experts.")
        number, _, leaf = rest.partition(".")
        if leaf == "gate_proj":  # with up, which is below it
            entry["weight"] = torch.cat([entry["weight"], _decoded(tensors, module.replace("gate_proj", "up_proj"))])
        if leaf != "up_proj":
            kind = "down_proj" if leaf == "down_proj" else "gate_up_proj"
            found[parameters[f"{block}.experts.{kind}"][int(number)].data_ptr()] = entry
    return found


def _decoded(tensors: dict[str, Any], module: str) -> Tensor:
    codes, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
    if codes.dtype == torch.uint8:
        shape = torch.Size((codes.shape[0], codes.shape[1] * 2))
        kept = NVFP4QTensor(shape, torch.float32, codes)
        blocks = {"scale": scale, "double_scale": torch.tensor(1.0), "block_sizes": {-1: 16}}
        whole_numbers = kept.dequantize(dtype=torch.float32, **blocks)  # without the scale of the matrix
        return whole_numbers.double() * tensors[f"{module}.weight_scale_2"].double()
    fused = next((f for f in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")) if module.endswith(f)), None)
    names = [f"{module.rpartition('.')[0]}.{leaf}" for leaf in fused] if fused else [module]
    largest = max(tensors[f"{name}.weight_scale"] for name in names)
    if largest != scale:  # as engines load it
        codes = (codes.to(torch.bfloat16) * scale / largest).to(torch.float8_e4m3fn)
    return codes.double() * largest.double()


def _cache_scales(tensors: dict[str, Any]) -> list[Any]:
    names = sorted(name for name in tensors if name.endswith("k_scale"))
    return [(tensors[name], tensors[name.replace("k_proj.k_scale", "v_proj.v_scale")]) for name in names]


class _Engine:
    """Puts float64 in place of matrix products, and FP8 into what attention sees, while a model runs."""

    def __init__(self, matrices: dict[int, dict[str, Any]], cache: list[Any]) -> None:
        self.matrices, self.cache, self.layer = matrices, cache, 0

    def __enter__(self) -> None:
        functional = torch.nn.functional
        self.linear, self.attention = functional.linear, functional.scaled_dot_product_attention
        functional.linear, functional.scaled_dot_product_attention = self._linear, self._attend

    def __exit__(self, *error: object) -> None:
        functional = torch.nn.functional
        functional.linear, functional.scaled_dot_product_attention = self.linear, self.attention

    def _linear(self, given: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        entry = self.matrices.get(weight.data_ptr())
        if entry is None:
            return self.linear(given, weight, bias)
        rounded = given.double()
        if entry["input_scale"] is not None and given.numel():
            rounded = (_nvfp4 if entry["codes"] == torch.uint8 else _fp8)(given, entry["input_scale"])
        return (rounded @ entry["weight"].T).to(given.dtype)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *more: Tensor, **named: Tensor) -> Tensor:
        scales = self.cache[self.layer % len(self.cache)] if self.cache else None
        if scales:
            key, value = (_fp8(x, scale).to(x.dtype) for x, scale in zip((key, value), scales, strict=True))
        self.layer += 1
        return self.attention(query, key, value, *more, **named)


def _nvfp4(given: Tensor, input_scale: Tensor) -> Tensor:
    """Take an input through ModelOpt's own encoder and decoder."""
    flat = given.reshape(-1, given.shape[-1]).float()
    kept, scale, _ = NVFP4QTensor.quantize(flat, 16, weights_scaling_factor_2=input_scale)
    whole_numbers = kept.dequantize(
        dtype=torch.float32, scale=scale, double_scale=torch.tensor(1.0), block_sizes={-1: 16}
    )
    return (whole_numbers.double() * input_scale.double()).reshape(given.shape)


def _fp8(given: Tensor, scale: Tensor) -> Tensor:
    return (given.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).double() * scale.double()


# --- inputs --------------------------------------------------------------------------------------------------------


def inputs() -> dict[str, Any]:
    """Round what goes into modules, for a comparison with definitions."""
    drawn = np.random.default_rng(3)
    rows = (drawn.standard_normal((512, 64)) * np.exp(drawn.uniform(-6, 6, (512, 1)))).astype(np.float32)
    rows[0], rows[1, :16], rows[2] = 0, 1e-12, 1e6  # zeros, a block whose scale is none, saturation
    rows[3, :16] = [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -0.0]
    scale = np.float32(1 / 448)
    return {
        "given": rows.tolist(),
        "nvfp4": linear_override.nvfp4_numbers(torch, torch.tensor(rows), scale).tolist(),
        "fp8": linear_override.fp8_numbers(torch, torch.tensor(rows), scale).tolist(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
