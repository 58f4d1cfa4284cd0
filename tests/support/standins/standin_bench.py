"""Stand-in for trtllm-bench throughput: a report of the documented shape, as a GB10 fills it, with likely figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .standin_tool import Given, existing, fail, main, read_json, refuse, say, work, write_json

_TOKENS_PER_SECOND = 40.0
"""Of one user alone."""
_SHARED = 0.9
"""What each further user leaves of the speed of one."""
_TTFT_MS = 45.0


def run(given: Given) -> None:
    """Measure."""
    if given.positionals != ["throughput"]:
        refuse(f"No such command {' '.join(given.positionals)!r}: the stand-in knows `throughput`")
    if not {"--max_batch_size", "--max_num_tokens"} <= set(given.values):
        fail("pynvml.NVMLError_NotSupported: Not Supported")  # what a GB10 answers
    checkpoint = Path(given.get("--model_path", given.get("--model")))
    config = read_json(existing(checkpoint) / "config.json")
    backend = given.get("--backend", "pytorch")
    engine = existing(Path(given.get("--engine_dir"))) if backend == "tensorrt" else None
    if engine and not any(engine.glob("rank*.engine")):
        fail(f"FileNotFoundError: {engine} holds no engine")
    requests = _requests(Path(given.get("--dataset")), int(given.get("--num_requests", "0")))
    work("measuring")
    if "--report_json" in given.values:
        write_json(Path(given.get("--report_json")), _report(given, config, requests, engine))
    say("[stand-in] === REPORT ===")


def _requests(dataset: Path, count: int) -> list[dict[str, Any]]:
    if not dataset.is_file():
        fail(f"FileNotFoundError: {dataset}")
    lines = [json.loads(line) for line in dataset.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if not (line.get("input_ids") or line.get("prompt")) or not line.get("output_tokens"):
            fail(f"ValidationError: {dataset}: a request needs input_ids or prompt, and output_tokens")
    return lines[: count or None]


def _report(
    given: Given, config: dict[str, Any], requests: list[dict[str, Any]], engine: Path | None
) -> dict[str, Any]:
    users = min(int(given.get("--concurrency", "-1")) % (len(requests) + 1) or 1, int(given.get("--max_batch_size")))
    speed = _TOKENS_PER_SECOND * _SHARED ** (users - 1)
    output = sum(request["output_tokens"] for request in requests)
    input_tokens = sum(len(request.get("input_ids", request.get("prompt", ""))) for request in requests)
    seconds = output / (speed * users)
    request_ms = _TTFT_MS + output / len(requests) / speed * 1000
    streaming = {
        "token_output_speed_tok_s": speed,
        "avg_ttft_ms": _TTFT_MS,
        "avg_tpot_ms": 1000 / speed,
        "ttft_percentiles": _spread(_TTFT_MS),
        "tpot_percentiles": _spread(1000 / speed),
        "gen_tps_percentiles": _spread(speed),
    }
    report: dict[str, Any] = {
        "engine": {
            "model": given.get("--model"),
            "model_path": given.get("--model_path", ""),
            "engine_dir": str(engine) if engine else None,
            "version": os.environ.get("TRT_LLM_VERSION", "1.2.1"),
            "backend": "TRT" if engine else "Pytorch",
            "dtype": config.get("torch_dtype", config.get("dtype", "bfloat16")),
            "kv_cache_dtype": None,
            "quantization": config.get("quantization_config", {}).get("quant_algo"),
        },
        "machine": None,
        "world_info": {
            "tp_size": int(given.get("--tp", "1")),
            "max_batch_size": int(given.get("--max_batch_size")),
            "max_num_tokens": int(given.get("--max_num_tokens")),
            "kv_cache_percentage": float(given.get("--kv_cache_free_gpu_mem_fraction", "0.9")),
        },
        "request_info": {
            "num_requests": len(requests),
            "avg_num_concurrent_requests": float(users),
            "avg_input_length": input_tokens / len(requests),
            "avg_output_length": output / len(requests),
        },
        "performance": {
            "total_latency_ms": seconds * 1000,
            "avg_request_latency_ms": request_ms,
            "request_throughput_req_s": len(requests) / seconds,
            "system_output_throughput_tok_s": output / seconds,
            "system_total_throughput_tok_s": (output + input_tokens) / seconds,
            "output_throughput_per_user_tok_s": speed,
            "output_throughput_per_gpu_tok_s": output / seconds,
            "request_latency_percentiles_ms": _spread(request_ms),
        },
        "dataset": {"num_requests": len(requests)},
    }
    return report | ({"streaming_metrics": streaming} if "--streaming" in given.values else {})


def _spread(value: float) -> dict[str, float]:
    names = ("p50", "p90", "p95", "p99", "minimum", "maximum", "average")
    return dict(zip(names, (value * factor for factor in (1.0, 1.1, 1.15, 1.2, 0.9, 1.25, 1.0)), strict=True))


if __name__ == "__main__":
    main("trtllm-bench", run)
