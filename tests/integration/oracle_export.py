"""Make models and have the real ModelOpt quantize them; run by the interpreter of an environment that has it.

`oracle_export.py export SOURCE OUTPUT [EXCLUDE …]` exports SOURCE as W4A16 NVFP4.
`oracle_export.py calibrate REQUESTS` makes and exports models as a JSON file asks: a list, see `calibrate`.
`oracle_export.py tokens SOURCE TEXT SAMPLES LENGTH BATCH` prints the batches that ModelOpt makes of text or
conversations, as JSON.
`oracle_export.py mxfp4 WEIGHT OUTPUT` encodes BF16 bits in a .npy file and writes codes, then scales.
`oracle_export.py dequantize SOURCE OUTPUT` saves a checkpoint in MXFP4 or FP8 as transformers holds it in BF16.
`oracle_export.py load SOURCE` loads a model and its tokenizer with transformers and prints what they do, as JSON.
"""

# mypy: disable-error-code="import-not-found"
# torch and its friends are not in the environment of the tests.

from __future__ import annotations

import copy
import fnmatch
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

# transformers 5.24 reads this of the language model's output, which lacks it: Llama 4 with images fails on text alone.
transformers.modeling_outputs.MoeCausalLMOutputWithPast.image_outputs = None


def class_for(config: Any) -> Any:  # noqa: ANN401 - of transformers
    """Give the classes of models of text, or of images and text."""
    multimodal = type(config) in AutoModelForImageTextToText._model_mapping  # noqa: SLF001
    return AutoModelForImageTextToText if multimodal else AutoModelForCausalLM


def export(source: Path, output: Path, exclude: list[str]) -> None:
    import modelopt.torch.quantization as mtq  # noqa: PLC0415 - takes seconds
    from modelopt.torch.export import export_hf_checkpoint  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", device_map="cpu").eval()
    config = copy.deepcopy(mtq.W4A16_NVFP4_CFG)
    config["quant_cfg"] += [{"quantizer_name": f"{pattern}*quantizer", "enable": False} for pattern in exclude]
    model = mtq.quantize(model, config, None)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=output)


def make(folder: Path, config: dict[str, Any]) -> None:
    """Write a model of random weights as transformers saves it; `config` names its class and what is not usual."""
    torch.manual_seed(1)
    fields = dict(config)
    made = getattr(transformers, fields.pop("class"))(**fields)
    made.dtype = torch.bfloat16
    class_for(made).from_config(made, dtype=torch.bfloat16).save_pretrained(folder)


def store_otherwise(folder: Path, types: dict[str, str]) -> None:
    """Store some tensors of a checkpoint in another type, by patterns; FP32 gets numbers that BF16 cannot hold."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        for kind in [kind for pattern, kind in types.items() if fnmatch.fnmatchcase(name, pattern)]:
            exact = tensor.float() * 1.001 if kind == "float32" else tensor
            tensors[name] = exact.to(getattr(torch, kind))
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def store_experts(folder: Path, layout: str) -> None:
    """Store all experts of a layer as one tensor, as some checkpoints do: `stacked`, or `transposed` as well."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    found: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for match in filter(None, [re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)\.weight", name) for name in tensors]):
        experts, number, leaf = match.groups()
        found.setdefault(experts, {}).setdefault(int(number), {})[leaf] = tensors.pop(match[0])
    for experts, parts in found.items():
        each = [parts[number] for number in sorted(parts)]
        tensors[f"{experts}.gate_up_proj"] = torch.stack([torch.cat([e["gate_proj"], e["up_proj"]]) for e in each])
        tensors[f"{experts}.down_proj"] = torch.stack([e["down_proj"] for e in each])
    for name in [name for name in tensors if ".experts." in name and layout == "transposed"]:
        tensors[name] = tensors[name].transpose(1, 2).contiguous()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def calibrate(request: dict[str, Any]) -> None:
    """Export one model in several formats.

    Args:
        request: `source`, which is made here where `config` names a class, with what `stored` says, see
            `store_otherwise`, and `experts`, see `store_experts`; `batches`, each with `input_ids` and
            `attention_mask`; `exports`, each with `output`, `format` (nvfp4, w4a16_nvfp4 or fp8), `kv_cache` and
            `exclude`.
    """
    if "class" in request["config"]:
        make(Path(request["source"]), request["config"])
        store_otherwise(Path(request["source"]), request.get("stored", {}))
        if request.get("experts", "as saved") != "as saved":
            store_experts(Path(request["source"]), request["experts"])
    batches = [{key: torch.tensor(rows) for key, rows in batch.items()} for batch in request["batches"]]
    for wanted in request["exports"]:
        if wanted["output"] is not None:  # ModelOpt can
            quantize(Path(request["source"]), wanted, batches)


def quantize(source: Path, wanted: dict[str, Any], batches: list[dict[str, torch.Tensor]]) -> None:
    """Quantize and export a model; `wanted` is one of the `exports` of `calibrate`."""
    import modelopt.torch.quantization as mtq  # noqa: PLC0415 - takes seconds
    from modelopt.torch.export import export_hf_checkpoint  # noqa: PLC0415

    def loop(model: Any) -> None:  # noqa: ANN401 - a module of torch
        for batch in batches:
            model(**batch, use_cache=False)

    formats = {"nvfp4": mtq.NVFP4_DEFAULT_CFG, "w4a16_nvfp4": mtq.W4A16_NVFP4_CFG, "fp8": mtq.FP8_DEFAULT_CFG}
    classes = class_for(AutoConfig.from_pretrained(source))
    model = classes.from_pretrained(source, dtype="auto", device_map="cpu").eval()
    config = copy.deepcopy(formats[wanted["format"]])
    if wanted["kv_cache"] == "fp8":
        config["quant_cfg"] += copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"])
    config["quant_cfg"] += [
        {"quantizer_name": f"{pattern}*quantizer", "enable": False} for pattern in wanted["exclude"]
    ]
    model = mtq.quantize(model, config, loop)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=Path(wanted["output"]))


def tokens(source: Path, text: str, samples: int, length: int, batch_size: int) -> list[dict[str, object]]:
    from modelopt.torch.utils import dataset_utils  # noqa: PLC0415 - takes seconds

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.padding_side = "left"
    # Where the library `datasets` is, ModelOpt makes text of each line so, and elsewhere reads text alone.
    lines = [json.loads(line) for line in Path(text).read_text().splitlines()]
    texts = [dataset_utils._auto_preprocess_sample(line, text, tokenizer) for line in lines]  # noqa: SLF001
    Path(text).with_suffix(".text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    loader = dataset_utils.get_dataset_dataloader(
        str(Path(text).with_suffix(".text.jsonl")),
        tokenizer,
        batch_size=batch_size,
        num_samples=samples,
        max_sample_length=length,
    )
    return [{name: rows.tolist() for name, rows in batch.items()} for batch in loader]


def mxfp4(weight: Path, output: Path) -> None:
    from modelopt.torch.quantization.qtensor import MXFP4QTensor  # noqa: PLC0415 - takes seconds

    tensor = torch.from_numpy(np.load(weight)).view(torch.bfloat16)
    encoded, scales = MXFP4QTensor.quantize(tensor, 32)
    output.write_bytes(encoded._quantized_data.numpy().tobytes() + scales.numpy().tobytes())  # noqa: SLF001


def dequantize(source: Path, output: Path) -> None:
    method = transformers.AutoConfig.from_pretrained(source).quantization_config["quant_method"]
    packed = {"mxfp4": transformers.Mxfp4Config, "fp8": transformers.FineGrainedFP8Config}[method](dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=packed, dtype=torch.bfloat16, device_map="cpu"
    )
    output.mkdir()
    safetensors.torch.save_file(dict(model.state_dict()), output / "model.safetensors")  # not under its packed names


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
    elif sys.argv[1] == "calibrate":
        for wanted in json.loads(Path(sys.argv[2]).read_text()):
            calibrate(wanted)
    elif sys.argv[1] == "mxfp4":
        mxfp4(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "dequantize":
        dequantize(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "tokens":
        print("RESULT " + json.dumps(tokens(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))))  # noqa: T201
    else:
        print("RESULT " + json.dumps(load(Path(sys.argv[2]))))  # noqa: T201 - the answer to the test
