"""Generates a small model from a seed: `python -m orchestrator.payloads.generate --output DIR --seed 1`.

The files are the same bytes on every machine and with every version of the libraries, so nothing here depends on
floating-point libraries, on a library's choice of random distribution or on the order of a hash table:

- Weights come from the raw output of PCG64, the part of NumPy's generators whose stream is promised never to change.
  Four 16-bit integers are added, which is nearly a bell curve, and the sum is scaled by a power of two: exact in FP32.
  The only rounding is the one to BF16, to nearest, ties to even.
- The tokenizer is byte-level BPE, trained here on a few sentences with a fixed rule for ties.

The model speaks no language. It has the shape of a real one, which is enough for a pipeline.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.payloads import _main, _text, _tokenizer
from orchestrator.quantization.configs import CONFIG
from orchestrator.quantization.files import write_json
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_SIZES = {
    "--hidden-size": 256,
    "--intermediate-size": 512,
    "--layers": 4,
    "--heads": 4,
    "--kv-heads": 2,
    "--vocab-size": 1024,
    "--max-position-embeddings": 2048,
    "--shards": 2,
}

_ARCHITECTURES = ("LlamaForCausalLM",)

# The sum of four numbers from [0, 2^16) has mean 2^17 - 2 and standard deviation 37837;
# times 2^-21 that is 0.018, close to the 0.02 that Llama starts from.
_DRAWS = 4
_MEAN = _DRAWS * (2**16 - 1) // 2
_UNIT = np.float32(2.0**-21)

_ELEMENTS_AT_ONCE = 1 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and write the model."""
    options = _options(arguments)
    config = _config(options)
    _write_weights(options.output, config, options.seed, options.shards)
    write_json(options.output / CONFIG, config)
    write_json(options.output / "generation_config.json", _generation_config(config))
    for name, document in _tokenizer.files(options.vocab_size, options.max_position_embeddings).items():
        write_json(options.output / name, document)


def _config(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "architectures": [options.architecture],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": _tokenizer.BOS,
        "eos_token_id": _tokenizer.EOS,
        "hidden_act": "silu",
        "hidden_size": options.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": options.intermediate_size,
        "max_position_embeddings": options.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": options.heads,
        "num_hidden_layers": options.layers,
        "num_key_value_heads": options.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": options.tie_word_embeddings,
        "torch_dtype": "bfloat16",  # the word that transformers 4 and 5 both read
        "use_cache": True,
        "vocab_size": options.vocab_size,
    }


def _generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "do_sample": False}


def _write_weights(output: Path, config: Mapping[str, Any], seed: int, shards: int) -> None:
    specs = llama_tensors(config)
    with CheckpointWriter(output, _spread(specs, shards)) as writer:
        for spec in specs:
            for first, rows in _rows(spec, seed):
                writer.write(spec.name, rows, first)


def llama_tensors(config: Mapping[str, Any]) -> list[TensorSpec]:
    """List the tensors of a Llama in BF16."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys, table = hidden // heads * config["num_key_value_heads"], (config["vocab_size"], hidden)
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    modules: dict[str, tuple[int, ...]] = {"model.embed_tokens": table}
    for number in range(config["num_hidden_layers"]):
        modules |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    modules |= {"model.norm": (hidden,)} | ({} if config["tie_word_embeddings"] else {"lm_head": table})
    return [TensorSpec(f"{name}.weight", "BF16", shape) for name, shape in modules.items()]


def _spread(specs: Sequence[TensorSpec], count: int) -> list[list[TensorSpec]]:
    """Spread tensors over a number of files: the smallest limit that needs no more files, found by halving."""
    units = [[spec] for spec in specs]
    low, high = 1, sum(spec.size for spec in specs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(plan_shards(units, middle)) <= count else (middle + 1, high)
    return plan_shards(units, high)


def _rows(spec: TensorSpec, seed: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield a tensor in runs of rows; its numbers depend on the seed and its name only."""
    if len(spec.shape) == 1:  # the gain of a normalization
        yield 0, np.ones(spec.shape, ml_dtypes.bfloat16)
        return
    source = np.random.PCG64([seed, zlib.crc32(spec.name.encode())])
    rows, columns = spec.shape
    step = max(1, _ELEMENTS_AT_ONCE // columns)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        yield first, _numbers(source, count * columns).reshape(count, columns)


def _numbers(source: np.random.PCG64, count: int) -> NDArray[Any]:
    draws = source.random_raw(count).astype("<u8").view("<u2").reshape(count, _DRAWS)
    sums = draws.sum(axis=1, dtype=np.int32) - _MEAN
    numbers: NDArray[Any] = (sums.astype(np.float32) * _UNIT).astype(ml_dtypes.bfloat16)
    return numbers


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.hidden_size % (2 * options.heads):  # rotary positions turn pairs of numbers
        parser.error(f"--hidden-size must be a multiple of twice --heads, {2 * options.heads}")
    if options.heads % options.kv_heads:
        parser.error(f"--heads must be a multiple of --kv-heads, {options.kv_heads}")
    if options.vocab_size < _tokenizer.SMALLEST:
        parser.error(f"--vocab-size must be at least {_tokenizer.SMALLEST}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.payloads.generate", description="Make a small model from a seed."
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write the model")
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--architecture", choices=_ARCHITECTURES, default=_ARCHITECTURES[0])
    parser.add_argument("--tie-word-embeddings", action="store_true", help="the head is the embedding")
    for option, default in _SIZES.items():
        parser.add_argument(option, type=_text.positive, default=default, metavar="N", help="default: %(default)s")
    return parser


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        message = f"{value} is negative"
        raise argparse.ArgumentTypeError(message)
    return value


if __name__ == "__main__":
    sys.exit(_main.run(main))
