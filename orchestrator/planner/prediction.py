"""What a recipe is predicted to take and to do: known before a byte is fetched, kept beside what is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from orchestrator import __version__
from orchestrator.catalog.target import Target
from orchestrator.planner.case import Lookup
from orchestrator.planner.constants import Constants, constants_in_use, to_document
from orchestrator.planner.known import Known, known_model
from orchestrator.planner.memory import quantize_memory
from orchestrator.planner.outlook import Question, outlook
from orchestrator.planner.outlook import to_document as outlook_document
from orchestrator.planner.serving import gpus_of
from orchestrator.planner.speed import served, workload
from orchestrator.planner.weights import draft_bytes
from orchestrator.recipe.model import Benchmark, Recipe

ENGINE = "trtllm"
"""What serves every recipe."""


def predict(recipe: Recipe, catalog: Lookup) -> dict[str, Any] | None:
    """Predict a recipe, as JSON; no network, nothing read but the catalogue's own files.

    Args:
        recipe: The recipe, overrides applied.
        catalog: Where its target is described.

    Returns:
        None where the model's exact sizes are not known: `known.missing_sizes(recipe)` says what is missing. Else

        - `recipe`, `target`, `engine` ("trtllm"), `format`, `kv_dtype`, `batch` (1), `context`, `gpus`: what was asked.
          The context is that of the recipe's benchmark when half of the answer is written;
        - all keys of `orchestrator estimate --json`: `weights_bytes`, `active_bytes_per_token`, `kv_bytes_per_token`,
          `fits`, `peak_memory_bytes` by phase (of one GPU), `max_context`, `max_batch`, `decode_tokens_per_s` and
          `prefill_tokens_per_s` (each `low`, `expected`, `high`; null on a target without a GPU), `basis`, `limits`;
        - `levels`: for each concurrency of the recipe's benchmark an object with `concurrency` and
          `output_tokens_per_second` (`low`, `expected`, `high`), reckoned as performance.json's figure of that name is
          measured: prompts are read in between. Empty without a benchmark or a GPU. Drafts are not counted in;
        - `constants`: `version` (changes with every figure that is measured and not counted), `basis` (where the
          engine's come from), `sm` (the compute capability that they were measured on), `orchestrator` (its version).
    """
    known = known_model(recipe)
    if known is None:
        return None
    target = catalog.target(recipe.target)
    question = question_of(recipe, known, target)
    found = outlook(question)
    longest = recipe.serve.max_seq_len or found.max_context
    return {
        "recipe": recipe.name,
        "target": recipe.target,
        "engine": ENGINE,
        "format": recipe.quantization.format,
        "kv_dtype": known.kv_dtype,
        "batch": question.batch,
        "context": question.context,
        "gpus": question.gpus,
        **outlook_document(
            replace(
                found,
                max_context=min(found.max_context, longest),
                max_batch=min(found.max_batch, recipe.serve.max_batch_size),
            )
        ),
        "levels": list(_levels(recipe, question)),
        "constants": _version(constants_in_use()),
    }


def question_of(
    recipe: Recipe, known: Known, target: Target, *, batch: int = 1, context: int | None = None
) -> Question:
    """Ask what a recipe's server will do.

    Args:
        recipe: The recipe.
        known: Its model's sizes.
        target: Its machine.
        batch: Texts at once.
        context: Tokens of each; None: as its benchmark has them on average.
    """
    lengths = recipe.benchmark or Benchmark()
    draft = draft_bytes(recipe)
    return Question(
        shape=known.shape,
        scheme=known.served,
        kv_dtype=known.kv_dtype,
        target=target,
        target_name=recipe.target,
        engine=ENGINE,
        batch=batch,
        context=context or lengths.input_tokens + lengths.output_tokens // 2,
        gpus=min(recipe.serve.tensor_parallel_size, gpus_of(target)),
        quantizing=quantize_memory(recipe),
        builds_engine=recipe.backend == "tensorrt",
        tokens_per_step=recipe.serve.max_num_tokens,
        cache_share=recipe.serve.kv_cache.free_gpu_memory_fraction,
        draft_bytes=draft.value if draft else 0.0,
    )


def _levels(recipe: Recipe, question: Question) -> Iterator[dict[str, Any]]:
    """Predict what each run of the benchmark measures."""
    benchmark = recipe.benchmark
    if benchmark is None or question.target.gpu is None:
        return
    for concurrency in benchmark.concurrency:
        load = workload(
            question.shape,
            format=question.scheme,
            kv_dtype=question.kv_dtype,
            target=question.target,
            engine=question.engine,
            batch=min(concurrency, recipe.serve.max_batch_size),
            context=question.context,
            gpus=question.gpus,
        )
        band = served(load, benchmark.input_tokens, benchmark.output_tokens)
        yield {"concurrency": concurrency, "output_tokens_per_second": asdict(band)}


def _version(constants: Constants) -> dict[str, Any]:
    engine = constants.engine(ENGINE)
    text = json.dumps([to_document(constants), dict(constants.bands), constants.measured_sm], sort_keys=True)
    return {
        "version": hashlib.sha256(text.encode()).hexdigest()[:12],
        "basis": engine.basis,
        "sm": constants.measured_sm,
        "orchestrator": __version__,
    }
