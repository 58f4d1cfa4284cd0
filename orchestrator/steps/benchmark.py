"""Declares the benchmark of the server, one run for each level of concurrency."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import OUTPUT, Argument, Inside
from orchestrator.recipe.model import Benchmark, HubModel, Recipe
from orchestrator.serving.config import benchmark_config, config_text
from orchestrator.steps.shape import CHECKPOINT, ENGINE, OFFLINE, OUT, Shape, payload
from orchestrator.steps.step import FILES, Output, Step

CONFIG = "llm_api.yaml"
_DATASET = "dataset.jsonl"


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the benchmark; none without a GPU, or over several machines."""
    shape = Shape(recipe, catalog)
    if recipe.benchmark is None or not shape.measurable or not shape.has("trtllm-bench"):
        return None
    runs = [
        argument
        for concurrency in recipe.benchmark.concurrency
        for argument in ("--", *_run(shape, recipe.benchmark, concurrency))
    ]
    return Step(
        name="benchmark",
        argv=payload("benchmark", _options(recipe.benchmark), *_facts(shape), *runs),
        outputs=(Output("performance.json", "json"), Output("report-*.json", "json")),
        image=recipe.image,
        inputs=shape.served_inputs,
        files={CONFIG: config_text(benchmark_config(recipe, shape.image))},
        provenance=True,
        needs_code=True,
        environment={**OFFLINE, **recipe.serve.environment},
        gpus=shape.gpus,
        identity=shape.host,
    )


def _options(benchmark: Benchmark) -> dict[str, Argument]:
    return {
        "checkpoint": Inside(CHECKPOINT),
        "output": OUT,
        "requests": str(benchmark.requests),
        "input-tokens": str(benchmark.input_tokens),
        "output-tokens": str(benchmark.output_tokens),
        "seed": str(benchmark.seed),
    }


def _facts(shape: Shape) -> tuple[str, ...]:
    """Outputs without which a benchmark is useless."""
    facts = {
        "model": _model(shape.recipe),
        "format": shape.recipe.quantization.format,
        "backend": shape.recipe.backend,
        "image": shape.image.reference,
        **shape.host,
    }
    return tuple(argument for name, value in facts.items() for argument in ("--fact", f"{name}={value}"))


def _run(shape: Shape, benchmark: Benchmark, concurrency: int) -> tuple[Argument, ...]:
    serve = shape.recipe.serve
    command: list[Argument] = [*shape.command("trtllm-bench"), "--model", _model(shape.recipe)]
    command += ["--model_path", Inside(CHECKPOINT), "throughput", "--backend", shape.recipe.backend]
    if shape.recipe.backend == "tensorrt":
        command += ["--engine_dir", Inside(ENGINE)]
    # Without both limits it queries the GPU's memory in a way that GB10's driver does not support, and fails.
    command += ["--max_batch_size", str(serve.max_batch_size), "--max_num_tokens", str(serve.max_num_tokens)]
    if serve.max_seq_len is not None:
        command += ["--max_seq_len", str(serve.max_seq_len)]
    command += ["--tp", str(serve.tensor_parallel_size)]
    # its name differs from trtllm-serve's
    command += ["--kv_cache_free_gpu_mem_fraction", str(serve.kv_cache.free_gpu_memory_fraction)]
    command += ["--config", Inside(FILES, CONFIG), "--dataset", Inside(OUTPUT, _DATASET)]
    command += ["--num_requests", str(benchmark.requests), "--concurrency", str(concurrency), "--streaming"]
    return (*command, "--report_json", Inside(OUTPUT, f"report-{concurrency}.json"))


def _model(recipe: Recipe) -> str:
    return recipe.model.repo if isinstance(recipe.model, HubModel) else recipe.name
