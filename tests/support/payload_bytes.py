"""What payloads write for small inputs that never change, as digests; the golden file is made of them.

What needs torch is in `tests/support/torch_bytes.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import CheckFailedError
from orchestrator.payloads import benchmark, calibration, edge_engine, generate, measure, quantize, verify
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.choice import Group, Option, choose
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import cuda, kernels
from orchestrator.quantization.tensors import DTYPES, StoredTensor
from tests.support.architectures import with_type
from tests.support.checkpoints import write_fp8_blocks, write_gpt_oss, write_model
from tests.support.downloads import Downloads
from tests.support.edge_packages import server_of_the_stand_in
from tests.support.encoders import CompiledLoops, Defined, Encoder, GpuArithmetic, digests
from tests.support.families import FAMILIES, SIZES
from tests.support.golden_bytes import Found
from tests.support.hub import Hub, serve
from tests.support.ports import free_port

_ROOT = Path(__file__).resolve().parents[2]


Outcome = Mapping[str, Found]
"""By the payload."""


def by_definition(folder: Path) -> Outcome:
    """Run every payload, with the definitions in NumPy; `evaluate` needs torch."""
    kernels.forget()
    weights = {**encoded(Defined()), **_weights_only(folder / "weights"), **_stored(folder / "stored")}
    others = {**_families(folder / "families"), **_sixteen_bits(folder / "bf16"), "choice of formats": _choice()}
    return {
        "benchmark": Found(_benchmark(folder / "benchmark")),
        "calibration": Found(_calibration(folder / "calibration")),
        "download": Found(_download(folder / "download")),
        "edge_engine": Found(_edge_engine(folder / "edge engine")),
        "generate": Found(_generate(folder / "generate")),
        "import_folder": Found(_import(folder / "import")),
        "measure": Found(_measure()),
        "quantize": Found({**weights, **others}, sources={"loops for GPUs": _loops_for_gpus()}),
        "verify": Found(_verify(folder / "verify")),
    }


def by_compiled_loops(folder: Path) -> Outcome:
    """Do what the loops do that the processor's compiler compiles; the caller has let `kernels` compile them."""
    return {"quantize": Found({**encoded(CompiledLoops()), **_weights_only(folder / "weights")})}


def by_gpu_arithmetic(folder: Path) -> Outcome:
    """Encode with the arithmetic of the loops for GPUs, compiled for this processor."""
    return {"quantize": Found(encoded(GpuArithmetic(folder)))}


def encoded(encoder: Encoder) -> dict[str, str]:
    """Encode weights on which encoders could differ, in every format."""
    return {f"encode {name}": digest for name, digest in digests(encoder).items()}


def model_of(folder: Path, *options: str) -> Path:
    """Generate a model; an option that is given here counts instead of the usual one."""
    sizes = ("--hidden-size", "64", "--intermediate-size", "96", "--layers", "2", "--heads", "2", "--kv-heads", "1")
    generate.main(["--output", str(folder), *sizes, "--vocab-size", "320", *options])
    return folder


def digest_of(folder: Path, root: Path | None = None) -> str:
    """Return a digest of all files of a folder, in which the place of `root` does not count."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if root is not None:
            content = content.replace(str(root).encode(), b"ROOT")
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


# --- quantize -------------------------------------------------------------------------------------------------------


def _weights_only(folder: Path) -> dict[str, str]:
    model = model_of(folder / "model")
    cases = {
        "w4a16_nvfp4": (),
        "w4a16_nvfp4, some excluded": ("--exclude", "model.layers.0.*", "--exclude", "*.down_proj"),
        "w4a16_nvfp4, small files": ("--shard-bytes", "20000"),
        "w4a16_nvfp4, searched": ("--scale-search", "mse"),
        "w4a16_nvfp4, four over six": ("--scale-search", "four_over_six"),
    }
    return {name: _quantized(model, folder / name, *options) for name, options in cases.items()}


def _quantized(model: Path, output: Path, *options: str) -> str:
    quantize.main(["--checkpoint", str(model), "--output", str(output), *options])
    return digest_of(output)


def _stored(folder: Path) -> dict[str, str]:
    """Quantize models whose weights have other types, with special numbers among them."""
    config = read_json(model_of(folder / "model") / "config.json")
    special = "model.layers.0.mlp.gate_proj.weight"
    found = {}
    for dtype in ("bfloat16", "float16", "float32"):
        model = exact_model(folder / dtype, partial(write_model, config={**config, "torch_dtype": dtype}), special)
        found[f"w4a16_nvfp4 of {dtype}"] = _quantized(model, folder / f"{dtype} quantized")
    return found


def _families(folder: Path) -> dict[str, str]:
    """Quantize a model of every architecture: each decides which weights are quantized and which share a scale.

    Routers and their corrections are stored in FP32, as some publish them.
    """
    found, routers = {}, {"*.mlp.gate.*": "F32", "*.mixer.gate.*": "F32"}
    for name, family in FAMILIES.items():
        config = {**SIZES, **family.config, "architectures": [family.architecture], "dtype": "bfloat16"}
        config = with_type(config)
        model = exact_model(folder / name, partial(write_model, config=config, types=routers))
        found[f"w4a16_nvfp4 of {name}"] = _quantized(model, folder / f"{name} quantized")
    return found


def _sixteen_bits(folder: Path) -> dict[str, str]:
    ways = {"MXFP4": write_gpt_oss, "FP8 with blocks": write_fp8_blocks}
    models = {name: exact_model(folder / name, write) for name, write in ways.items()}
    return {
        f"bf16 of {name}": _quantized(model, folder / f"{name} in 16 bits", "--format", "bf16")
        for name, model in models.items()
    }


def exact_model(folder: Path, write: Callable[..., Path], special: str = "") -> Path:
    """Write a model whose numbers no processor and no library decides.

    Args:
        folder: Where.
        write: Writes a model of the right shape into a folder, with `changes` in place of its own numbers.
        special: A weight to have special numbers.
    """
    tensors = Checkpoint.open(write(folder / "draft")).tensors.values()
    changes = {tensor.name: _numbers(tensor) for tensor in tensors}
    if special:
        flat = changes[special].reshape(-1)
        flat[:16], flat[16:32], flat[64:80] = 0, -0.0, 2.0**-24
        flat[32:40] = np.array([6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])  # codes change halfway
    return write(folder / "model", changes=changes)


def _numbers(tensor: StoredTensor) -> NDArray[Any]:
    """Draw a tensor from its name, by whole numbers and powers of two alone."""
    source = np.random.PCG64(zlib.crc32(tensor.name.encode()))
    drawn, more = source.random_raw(2 * math.prod(tensor.shape)).reshape(2, *tensor.shape)
    kind: np.dtype[Any] = DTYPES[tensor.dtype]
    if tensor.name.endswith("_scales"):
        found = 100 + drawn % 40  # exponents that BF16 holds
    elif tensor.dtype == "F8_E4M3":
        found = (drawn % 127 | more % 2 << 7).astype(np.uint8).view(kind)  # all but what is no number
    elif tensor.dtype == "U8":
        found = drawn % 256
    else:
        wide = (drawn % 2**16).astype(np.float32) - 2**15 + (more % 2**8).astype(np.float32)
        found = np.ldexp(wide, -20)
    numbers: NDArray[Any] = found.astype(kind)
    return numbers


def _choice() -> str:
    """Choose the formats of groups whose errors are given: some are equal, some formats do not pay."""
    sizes = {"nvfp4": 90, "fp8": 160, "bf16": 320}
    errors = {"nvfp4": (0.9, 0.3, 0.3, 0.01), "fp8": (0.05, 0.29, 0.02, 0.02), "bf16": (0, 0, 0, 0)}
    groups = [
        Group((f"layers.{number}",), tuple(Option(name, sizes[name], errors[name][number]) for name in sizes))
        for number in range(4)
    ]
    return _of_text(json.dumps([choose(groups, limit, 4 * 160).document() for limit in (360, 430, 600, 900, 2000)]))


def _loops_for_gpus() -> str:
    """Digest what NVRTC compiles, and with which options: here it cannot run."""
    texts = [file.read_text(encoding="utf-8") for file in (cuda.SOURCE, cuda.SOURCE.with_name("arithmetic.h"))]
    options = [option.decode() for option in cuda.EXACT]
    return _of_text("\n".join([*map(tokens, texts), *options]))


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(r"[\w.]+|->|\+\+|--|<<=|>>=|<<|>>|&&|\|\||[-+*/%&|^=<>!]=|\S")


def tokens(source: str) -> str:
    """Return the tokens of a C source, one a line; a directive of the preprocessor is one."""
    lines = _COMMENT.sub(" ", source).replace("\\\n", " ").splitlines()
    directives = [" ".join(line.split()) if line.lstrip().startswith("#") else None for line in lines]
    found = (
        [directive] if directive else _TOKEN.findall(line) for directive, line in zip(directives, lines, strict=True)
    )
    return "\n".join(token for several in found for token in several)


# --- the other payloads ---------------------------------------------------------------------------------------------


def _generate(folder: Path) -> dict[str, str]:
    cases = {
        "small": ("--seed", "7"),
        "tied, in one file": ("--tie-word-embeddings", "--shards", "1"),
        "other sizes": ("--layers", "3", "--heads", "4", "--kv-heads", "2", "--vocab-size", "300"),
    }
    return {name: digest_of(model_of(folder / name, *options)) for name, options in cases.items()}


def _verify(folder: Path) -> dict[str, str]:
    model = model_of(folder / "model")
    _quantized(model, folder / "quantized")
    evaluation = folder / "evaluation.json"
    write_json(evaluation, _EVALUATION)
    reference = ("--reference", str(model))
    gates = ("--evaluation", str(evaluation), "--max-kl-divergence", "0.1", "--max-perplexity-increase", "0.1")
    port = str(free_port())
    cases = {
        "passed": ("quantized", *reference, "--min-snr-db", "15"),
        "not quantized": ("model",),
        "too much noise": ("quantized", *reference, "--min-snr-db", "40"),
        "too much divergence": ("quantized", *reference, *gates),
        "no template": ("quantized", "--no-chat-template"),
        "served": ("quantized", "--port", port, "--", sys.executable, "-c", _SERVER, port),
    }
    found = {}
    for name, (checkpoint, *options) in cases.items():
        output = folder / name
        with contextlib.suppress(CheckFailedError):  # what was found is written first
            verify.main(["--checkpoint", str(folder / checkpoint), "--output", str(output), *options])
        (output / verify.SERVER_LOG).unlink(missing_ok=True)
        _forget_times(output / verify.QUALITY)
        found[name] = digest_of(output, folder)
    return found


_EVALUATION: Mapping[str, Any] = {
    "tokens": 100,
    "kl_divergence": {"mean": 0.5, "p99": 2.0},
    "perplexity": {"original": 8.0, "quantized": 8.4, "increase": 0.05},
    "agreement": 0.8,
    "layers": [
        {
            "layer": 0,
            "error": 0.1,
            "groups": [
                {"modules": ["model.layers.0.mlp.down_proj"], "error": 0.01},
                {"modules": ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"], "error": 0.09},
            ],
        }
    ],
}

_SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say({"data": [{"id": "the model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.say({"choices": [{"message": {"content": json.dumps(body, sort_keys=True)}}]})

    def say(self, reply):
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server that answers with the question."""


def _forget_times(quality: Path) -> None:
    text = quality.read_text(encoding="utf-8")
    text = re.sub(r"answered in [\d.]+ seconds", "answered in SOME seconds", text)
    quality.write_text(re.sub(r'("seconds_to_\w+": )[\d.]+', r"\1SOME", text), encoding="utf-8")


def _calibration(folder: Path) -> dict[str, str]:
    (folder / "out").mkdir(parents=True)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ä, I."}]
    rows = [{"text": "Ä 0"}, {"text": "  "}, {"text": "two\nlines", "other": 1}, {"messages": turns}, {"text": "3"}]
    (folder / "plain.txt").write_text("\none\nline\n\n\n two \n\nthree\n\nÄ four\n", encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "body.jsonl").write_text('{"body": "one"}\n\n{"body": " two ", "text": "no"}\n', encoding="utf-8")
    cases = {
        "text": ("plain.txt", "2"),
        "text without that of another": ("plain.txt", "2", "--without", str(folder / "out" / "text.jsonl")),
        "rows": ("rows.jsonl", "2"),
        "another column": ("body.jsonl", "2", "--column", "body"),
        "conversations": ("rows.jsonl", "4", "--conversations"),
    }
    found = {}
    for name, (source, samples, *options) in cases.items():
        output = folder / "out" / f"{name}.jsonl"
        calibration.main(["--source", str(folder / source), "--samples", samples, "--output", str(output), *options])
        found[name] = _of_text(output.read_text(encoding="utf-8"))
    return found


def _download(folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True)
    files = {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "model.safetensors": (8).to_bytes(8, "little") + b"{}      ",
        "README.md": b"# A model\n",
        "chat_template.jinja": b"{{ messages }}",
        "pytorch_model.bin": b"a pickle",
        "modeling_custom.py": b"import os",
        "original/params.json": b"{}",
        "original/consolidated.00.pth": b"a pickle",
        "fp8/model.safetensors": b"another model",
        "adapter_model.safetensors": b"an adapter",
    }
    cases = {"a model": (), "some files": ("--include", "*.md", "original/*")}
    found = {}
    with serve(Hub(files=files)) as hub:
        downloads = Downloads(hub, folder)
        for name, options in cases.items():
            assert downloads.run(*options) == 0, downloads.log
            found[name] = digest_of(downloads.out)
    return found


def _import(folder: Path) -> dict[str, str]:
    model = model_of(folder / "model")
    (model / "notes.bin").write_bytes(b"not of a model")
    (folder / "out").mkdir()
    command = [sys.executable, "-m", "orchestrator.payloads.import_folder"]
    subprocess.run(
        [*command, "--source", str(model), "--output", str(folder / "out")], cwd=_ROOT, check=True, capture_output=True
    )
    return {"a model": digest_of(folder / "out")}


_REPORT: Mapping[str, Any] = {
    "engine": {"version": "1.2.1"},
    "machine": None,
    "performance": {
        "system_output_throughput_tok_s": 123.4,
        "avg_request_latency_ms": 900.0,
        "request_latency_percentiles_ms": {"p50": 880.0, "p99": None, "average": None},
    },
    "streaming_metrics": {"avg_ttft_ms": 45.0, "avg_tpot_ms": None},
}
"""As trtllm-bench writes it; without what a Spark does not tell."""


def _benchmark(folder: Path) -> dict[str, str]:
    (folder / "model").mkdir(parents=True)
    write_json(folder / "model" / "config.json", {"vocab_size": 320})
    runs = []
    for level in ("1", "8"):
        report = str(folder / "out" / f"report-{level}.json")
        tool = ("/bin/sh", "-c", 'printf %s "$1" > "$5"', "trtllm-bench", json.dumps(_REPORT))
        runs += ["--", *tool, "--concurrency", level, "--report_json", report]
    ours = ["--checkpoint", str(folder / "model"), "--output", str(folder / "out"), "--requests", "3"]
    benchmark.main([*ours, "--input-tokens", "5", "--output-tokens", "4", "--fact", "gpu=GB10", *runs])
    return {"two levels": digest_of(folder / "out", folder)}


def _measure() -> dict[str, str]:
    """What is sent, and the figures of given times: those of a real run are never the same."""
    options = argparse.Namespace(gpus=2)
    timings = [
        measure.Timing(0.0, [0.25, 0.5, 0.75, 1.0], 1.0, read=5, written=4),
        measure.Timing(0.5, [1.0, 1.25, 1.5, 1.75], 2.0, read=5, written=4),
    ]
    figures = measure.summarize(timings, 2.0, options)
    body = measure.request_body({"task_id": 0, "input_ids": [7, 8], "output_tokens": 4}, "tiny")
    asked = argparse.Namespace(seed=420, requests=2, input_tokens=5, output_tokens=4)
    conversations = list(measure.conversation_lines(asked))
    sent = measure.request_body(json.loads(conversations[0]), "tiny")
    return {
        "figures": _of_text(json.dumps(figures)),
        "request": _of_text(body.decode()),
        "conversations": _of_text("".join(conversations)),
        "conversation": _of_text(sent.decode()),
    }


def _edge_engine(folder: Path) -> dict[str, str]:
    """Where the engine belongs in a cache. The engine itself is the builder's, and a stand-in's here."""
    generate.main(["--output", str(folder / "model"), "--hidden-size", "64", "--layers", "1", "--vocab-size", "320"])
    package = {"experimental.server.runtime.engine_build": server_of_the_stand_in()}
    builder = _ROOT / "tests" / "support" / "standins" / "tensorrt-edgellm-build"
    options = [f"{option}={value}" for option, value in (("--model-dir", folder / "model"), ("--engine-dir", folder))]
    sizes = ["--max-input-len", "16", "--max-kv-cache-capacity", "32", "--max-batch-size", "2"]
    with mock.patch.dict(sys.modules, package):
        ours = ["--checkpoint", str(folder / "model"), "--output", str(folder)]
        edge_engine.main([*ours, "--", sys.executable, str(builder), *options, *sizes])
    return {"the place in a cache": _of_text((folder / "cache_entry.json").read_text())}


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
