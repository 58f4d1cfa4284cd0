"""Load every format of ours in vLLM, and compare what it calculates with the files: `python -m evaluation.vllm`.

Needs an NVIDIA GPU and an interpreter with vllm, transformers and what `make setup` installs. Nothing is downloaded:
models have random weights. For each family and format

1. a model of some hundred megabytes is quantized on the GPU, by the payload that builds run;
2. its files are decoded to BF16 by the definitions (`formats/nvfp4.py`, `formats/fp8.py`), and transformers calculates
   the log-probabilities of a sequence with the decoded weights;
3. vLLM loads the quantized files, calculates the same and goes on for eight tokens.

The divergence of vLLM from step 2 says whether it reads our files as we do. Where a runtime quantizes activations or
the cache as well, as FP8 does, it is more than rounding. The limit holds for weight-only NVFP4, and for NVFP4 on GPUs
that have no 4-bit arithmetic, where Marlin calculates in 16 bits. Results are kept in the folder, case by case: a run
that was stopped goes on. Ends with status 7 where a case failed or a limit was exceeded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.formats import fp8, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.torch_arrays import as_tensor

_FAILED = 7
_VOCABULARY = 32_000
_TOKENS = 160
_GENERATED = 8
_COMPARED = 2000
"""The most likely tokens of vLLM, over which the divergence is calculated."""
_LIMIT = 0.01
"""Nats a token, where only weights are quantized."""
_CACHE_BYTES = 1 << 30

_SIZES: Mapping[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen3-MoE": (
        "Qwen3MoeConfig",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "mlp_only_layers": []},
    ),
    "Nemotron-H": (
        "NemotronHConfig",
        {
            "hybrid_override_pattern": "M*-M",
            "mamba_num_heads": 16,
            "mamba_head_dim": 64,
            "ssm_state_size": 128,
            "n_groups": 4,
            "chunk_size": 128,
        },
    ),
}
"""By name: the class of transformers that configures it, and its fields: one dense, one mixture, one hybrid model."""


@dataclass(frozen=True)
class Format:
    """How a model is quantized, and whether a runtime without 4-bit arithmetic leaves its activations alone."""

    options: tuple[str, ...]
    weights_only: bool = False


_FORMATS: Mapping[str, Format] = {
    "W4A16 NVFP4": Format(("--format", "w4a16_nvfp4"), weights_only=True),
    "NVFP4": Format(("--format", "nvfp4"), weights_only=True),
    "NVFP4, weighted": Format(("--format", "nvfp4", "--scale-search", "weighted"), weights_only=True),
    "NVFP4 + FP8 KV": Format(("--format", "nvfp4", "--kv-cache", "fp8")),
    "FP8": Format(("--format", "fp8")),
    "FP8 + FP8 KV": Format(("--format", "fp8", "--kv-cache", "fp8")),
    "FP8, shared scales": Format(("--format", "fp8", "--shared-scales")),
    "auto": Format(("--format", "auto", "--bits-per-weight", "6")),
}


def main() -> None:
    """Try every case that has no result yet, and print the table."""
    options = _parser().parse_args()
    if options.check:
        click.echo(json.dumps(_checked(*options.check)))
        return
    try:
        torch, version = importlib.import_module("torch"), metadata.version("vllm")
    except (ImportError, metadata.PackageNotFoundError) as error:
        sys.exit(f"evaluation.vllm needs torch and vllm in {sys.executable}: {error}")
    if not torch.cuda.is_available():
        sys.exit("evaluation.vllm needs an NVIDIA GPU, and torch sees none")
    card = torch.cuda.get_device_name()
    click.echo(f"{card}, vLLM {version}, torch {torch.__version__}, {time.strftime('%d %B %Y')}")
    results = [
        _result(options.folder, family, name)
        for family in _FAMILIES
        for name in _FORMATS
        if options.only in f"{family} {name}"
    ]
    click.echo(_table(results))
    missed = [one for one in results if "error" in one or (one["weights_only"] and one["from_files"] > _LIMIT)]
    sys.exit(_FAILED if missed else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/vllm"), help="for models and results")
    parser.add_argument("--only", default="", help="a part of the names of cases: `Llama`, `MoE FP8`")
    parser.add_argument("--check", type=Path, nargs=3, help=argparse.SUPPRESS)
    return parser


def _table(results: list[dict[str, Any]]) -> str:
    lines = [f"{'family':12}{'format':20}{'from the files':>16}{'from the original':>19}{'loading':>9}"]
    for one in results:
        start = f"{one['family']:12}{one['format']:20}"
        if "error" in one:
            lines.append(f"{start}  {one['error']}")
        else:
            lines.append(f"{start}{one['from_files']:16.4f}{one['from_original']:19.4f}{one['loading']:7.0f} s")
    return "\n".join([*lines, "divergence in nats a token"])


def _result(folder: Path, family: str, name: str) -> dict[str, Any]:
    """Return what is known of a case; find it out where nothing is."""
    place = folder / f"{family} {name}"
    file = place / "result.json"
    if not file.is_file():
        place.mkdir(parents=True, exist_ok=True)
        found = _tried(folder / family, place, family, _FORMATS[name].options)
        found |= {"family": family, "format": name, "weights_only": _FORMATS[name].weights_only}
        file.write_text(json.dumps(found))
        click.echo(json.dumps(found))
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def _tried(original: Path, place: Path, family: str, options: tuple[str, ...]) -> dict[str, Any]:
    quantized, decoded = place / "quantized", place / "decoded"
    if not (original / "config.json").is_file():
        _write_model(original, family)
    try:
        given = ("--checkpoint", original, "--output", quantized, "--samples", "32", "--sequence-length", "256")
        _run("orchestrator.payloads.quantize", *given, "--device", "cuda", *options)
        decode(quantized, decoded)
        said = _run("evaluation.vllm", "--check", quantized, decoded, original)
    except subprocess.CalledProcessError as error:
        (place / "error.log").write_text(error.stdout + error.stderr)
        lines = [line for line in error.stderr.splitlines() if line and not line[0].isspace()]
        return {"error": lines[-1] if lines else f"exit status {error.returncode}"}
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def _run(module: str, *given: str | Path) -> str:
    """Run a module in a process of its own, so that nothing of it stays in the GPU's memory."""
    return subprocess.run([sys.executable, "-m", module, *given], capture_output=True, text=True, check=True).stdout


def _write_model(folder: Path, family: str) -> None:
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    name, fields = _FAMILIES[family]
    torch.manual_seed(3)
    config = getattr(transformers, name)(**{**_SIZES, **fields})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():  # so that the next token is not all the same
        for parameter in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            parameter.mul_(3)
    model.save_pretrained(folder)


def decode(quantized: Path, decoded: Path) -> None:
    """Write what the files of a quantized checkpoint stand for, in BF16."""
    save: Any = importlib.import_module("safetensors.torch").save_file
    checkpoint = Checkpoint.open(quantized)
    scales = ("_scale", "_scale_2")
    tensors = {
        name: as_tensor(_decoded(checkpoint, name), "cpu") for name in checkpoint.tensors if not name.endswith(scales)
    }
    decoded.mkdir(exist_ok=True)
    save(tensors, decoded / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantized / "config.json").read_text())
    del config["quantization_config"]
    (decoded / "config.json").write_text(json.dumps(config))


def _decoded(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    numbers = checkpoint.read(name)
    match checkpoint.tensors[name].dtype:
        case "U8":
            codes = Encoded(numbers, checkpoint.read(f"{name}_scale"))
            decoded = nvfp4.decode(codes, np.float32(checkpoint.read(f"{name}_scale_2")))
        case "F8_E4M3":
            decoded = fp8.decode(numbers, np.float32(checkpoint.read(f"{name}_scale")))
        case _:
            return numbers
    return decoded.astype(ml_dtypes.bfloat16)


def _checked(quantized: Path, decoded: Path, original: Path) -> dict[str, Any]:
    """Compare vLLM's log-probabilities with those of transformers."""
    torch, vllm = importlib.import_module("torch"), importlib.import_module("vllm")
    drawn = np.random.PCG64(5).random_raw(_TOKENS) % (_VOCABULARY - 10) + 5
    tokens = [int(token) for token in drawn]
    expected = {folder: _log_probabilities(folder, tokens) for folder in (decoded, original)}
    started = time.monotonic()
    engine = vllm.LLM(
        model=str(quantized),
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=8,
        kv_cache_memory_bytes=_CACHE_BYTES,
        enforce_eager=True,
        max_logprobs=_VOCABULARY,
        enable_prefix_caching=False,
    )
    loading = time.monotonic() - started
    wanted = vllm.SamplingParams(
        max_tokens=_GENERATED, temperature=0, ignore_eos=True, prompt_logprobs=_COMPARED, detokenize=False
    )
    (answer,) = engine.generate([{"prompt_token_ids": tokens}], wanted, use_tqdm=False)
    if len(answer.outputs[0].token_ids) != _GENERATED:
        message = f"{len(answer.outputs[0].token_ids)} tokens came, {_GENERATED} were asked for"
        raise ValueError(message)
    found = {folder: divergence(torch, rows, answer.prompt_logprobs) for folder, rows in expected.items()}
    return {"loading": loading, "from_files": found[decoded], "from_original": found[original]}


def _log_probabilities(folder: Path, tokens: list[int]) -> Any:  # noqa: ANN401 - a tensor of torch
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to("cuda").eval()
    with torch.inference_mode():
        logits = model(torch.tensor([tokens], device="cuda"), use_cache=False).logits[0]
    found = torch.log_softmax(logits.float(), -1).cpu()
    del model
    torch.cuda.empty_cache()
    return found


def divergence(torch: Any, expected: Any, answered: list[Any]) -> float:  # noqa: ANN401 - of torch
    """Return the mean divergence over the tokens that vLLM names, in nats."""
    total, count = 0.0, 0
    for place, named in enumerate(answered):
        if not named:  # nothing comes before the first token
            continue
        of_vllm = torch.tensor([named[token].logprob for token in named])
        ours = expected[place - 1][list(named)]
        total += float((ours.exp() * (ours - of_vllm)).sum() / ours.exp().sum())
        count += 1
    return total / count


if __name__ == "__main__":
    main()
