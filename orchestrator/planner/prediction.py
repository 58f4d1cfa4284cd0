"""Predicts a recipe's cost and speed before any download, to be kept beside the measurements."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from orchestrator import __version__
from orchestrator.planner.asking import ENGINE, benchmark_context, longest_allowed, question_of
from orchestrator.planner.case import Lookup
from orchestrator.planner.constants import Constants, constants_in_use, to_document
from orchestrator.planner.known import known_model
from orchestrator.planner.outlook import outlook
from orchestrator.planner.outlook import to_document as outlook_document
from orchestrator.planner.question import Question
from orchestrator.planner.speed import served, workload
from orchestrator.recipe.model import Recipe


def predict(recipe: Recipe, catalog: Lookup) -> dict[str, Any] | None:
    """Predict a recipe, as JSON. This uses no network and reads only the catalogue's own files.

    Args:
        recipe: The recipe, overrides applied.
        catalog: Where its target is described.

    Returns:
        None where the model's exact sizes are not known: `known.missing_sizes(recipe)` says what is missing. Else

        - `recipe`, `target`, `engine` ("trtllm"), `format`, `kv_dtype`, `batch` (1), `context`, `gpus`: what was asked.
          The context is the one that `plan` and `compare` use;
        - all keys of `orchestrator estimate --json`: `weights_bytes`, `active_bytes_per_token`, `kv_bytes_per_token`,
          `fits`, `peak_memory_bytes` by phase (of one GPU), `max_context`, `max_batch`, `decode_tokens_per_s` and
          `prefill_tokens_per_s` (each `low`, `expected`, `high`; null on a target without a GPU), `basis`, `limits`;
        - `levels`: for each concurrency of the recipe's benchmark an object with `concurrency` and
          `output_tokens_per_second` (`low`, `expected`, `high`), calculated as performance.json's figure of that name
          is measured: prompts are read in between. Empty without a benchmark or a GPU. Drafts are not counted in;
        - `constants`: `version` (changes with every figure that is measured and not counted), `basis` (where the
          engine's come from), `sm` (the compute capability that they were measured on), `orchestrator` (its version).
    """
    known = known_model(recipe)
    if known is None:
        return None
    target = catalog.target(recipe.target)
    question = question_of(recipe, known, target)
    found = outlook(question)
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
                max_context=min(found.max_context, longest_allowed(recipe, known)),
                max_batch=min(found.max_batch, recipe.serve.max_batch_size),
            )
        ),
        "levels": list(_levels(recipe, replace(question, context=benchmark_context(recipe)))),
        "constants": _version(constants_in_use()),
    }


def _levels(recipe: Recipe, question: Question) -> Iterator[dict[str, Any]]:
    """Predict what each run of the benchmark measures."""
    benchmark = recipe.benchmark
    if benchmark is None or question.target.gpu is None:
        return
    for concurrency in benchmark.concurrency:
        load = workload(replace(question, batch=min(concurrency, recipe.serve.max_batch_size)))
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
