"""Predicts a recipe's cost and speed before any download, to be kept beside the measurements."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from orchestrator import __version__
from orchestrator.planner.constants import Constants, constants_in_use, to_document
from orchestrator.planner.model_on_target import ModelOnTarget, context_limit
from orchestrator.planner.serving import Serving
from orchestrator.planner.serving_figures import serving_figures
from orchestrator.planner.serving_figures import to_document as figures_document
from orchestrator.planner.speed import served
from orchestrator.recipe.model import Recipe


def predict(model: ModelOnTarget) -> dict[str, Any] | None:
    """Predict a recipe, as JSON. This uses no network and reads only the catalogue's own files.

    Returns:
        None where the model's exact sizes are not known: `known.missing_sizes(recipe)` says what is missing. Else

        - `recipe`, `target`, `engine` (runtime), `format`, `kv_dtype`, `workload` (one user), `gpus`: the
          question. The lengths are those that `plan` uses;
        - all keys of `orchestrator estimate --json`: `weights_bytes`, `active_bytes_per_token`, `kv_bytes_per_token`,
          `fits`, `peak_memory_bytes` by phase (of one GPU), `max_context`, `max_batch`, `decode_tokens_per_s` and
          `prefill_tokens_per_s` (each `low`, `expected`, `high`; null on a target without a GPU), `basis`, `limits`;
        - `levels`: for each concurrency of the recipe's benchmark an object with `concurrency` and
          `output_tokens_per_second` (`low`, `expected`, `high`), calculated as performance.json's figure of that name
          is measured: prompts are read in between. Empty without a benchmark or a GPU. Drafts are not counted in;
        - `constants`: `version` (changes with every figure that is measured and not counted), `basis` (where the
          runtime's come from), `sm` (the compute capability that they were measured on), `orchestrator` (its version).
    """
    recipe, known, serving = model.recipe, model.known, model.serving
    if known is None or serving is None:
        return None
    found = serving_figures(serving, model.preparation)
    return {
        "recipe": recipe.name,
        "target": recipe.target,
        "engine": model.runtime,
        "format": recipe.quantization.format,
        "kv_dtype": serving.kv_dtype,
        "workload": {
            "input_tokens": serving.context - serving.output_tokens,
            "output_tokens": serving.output_tokens,
            "concurrency": serving.batch,
        },
        "gpus": serving.gpus,
        **figures_document(
            replace(
                found,
                max_context=min(found.max_context, context_limit(recipe, known)),
                max_batch=min(found.max_batch, recipe.serve.max_batch_size),
            )
        ),
        "levels": list(_levels(recipe, serving)),
        "constants": _version(constants_in_use(), model.runtime),
    }


def _levels(recipe: Recipe, serving: Serving) -> Iterator[dict[str, Any]]:
    """Predict what each run of the benchmark measures."""
    benchmark = recipe.benchmark
    if benchmark is None or serving.target.gpu is None:
        return
    asked = replace(
        serving, context=benchmark.input_tokens + benchmark.output_tokens, output_tokens=benchmark.output_tokens
    )
    for concurrency in benchmark.concurrency:
        band = served(replace(asked, batch=min(concurrency, recipe.serve.max_batch_size)))
        yield {"concurrency": concurrency, "output_tokens_per_second": asdict(band)}


def _version(constants: Constants, name: str) -> dict[str, Any]:
    runtime = constants.runtime(name)
    text = json.dumps(
        [to_document(constants), dict(constants.bands), dict(constants.host_ms), runtime.sm], sort_keys=True
    )
    return {
        "version": hashlib.sha256(text.encode()).hexdigest()[:12],
        "basis": runtime.basis,
        "sm": runtime.sm,
        "orchestrator": __version__,
    }


def beside_measured(
    performance: Mapping[str, Any] | None, prediction: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Pair what a benchmark measured with what was predicted, by requests at once; None for a missing figure.

    Args:
        performance: performance.json; None: not measured.
        prediction: See `predict`.
    """
    measured = {level["concurrency"]: level for level in (performance or {}).get("levels", [])}
    levels = (prediction or {}).get("levels", [])
    predicted = {level["concurrency"]: level["output_tokens_per_second"] for level in levels}
    return [
        {
            "concurrency": concurrency,
            "measured": measured.get(concurrency, {}).get("output_tokens_per_second"),
            "predicted": predicted.get(concurrency),
            "first_token": (measured.get(concurrency, {}).get("time_to_first_token_ms") or {}).get("average"),
        }
        for concurrency in sorted(measured.keys() | predicted.keys())
    ]
