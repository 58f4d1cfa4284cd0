"""Declares the benchmark of the server, for each level of concurrency."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import OUTPUT, Argument, Inside
from orchestrator.recipe.model import Benchmark, HubModel, Recipe
from orchestrator.serving.server import Run
from orchestrator.steps.shape import CHECKPOINT, OFFLINE, OUT, Shape, payload
from orchestrator.steps.step import Output, Step
from orchestrator.steps.verify import places


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the benchmark; none without a GPU, or over several machines."""
    shape = Shape(recipe, catalog)
    if recipe.benchmark is None or not shape.measurable:
        return None
    run = Run(recipe.benchmark, _model(recipe), lambda name: Inside(OUTPUT, name))
    measurement = shape.runtime.measurement(shape.server, places(shape), run)
    if measurement is None:
        return None
    runs = [argument for command in measurement.commands for argument in ("--", *command)]
    options = (*_facts(shape), *measurement.options)
    return Step(
        name="benchmark",
        argv=payload(measurement.payload, _options(recipe.benchmark), *options, *runs),
        outputs=(Output("performance.json", "json"), Output("report-*.json", "json")),
        image=recipe.image,
        inputs=shape.served_inputs,
        files=measurement.files,
        provenance=True,
        needs_code=True,
        environment={**OFFLINE, **shape.runtime.environment(shape.server)},
        gpus=shape.gpus,
        identity=shape.host,
    )


def _options(benchmark: Benchmark) -> dict[str, Argument]:
    repeats = {"precision": benchmark.precision, "max-runs": benchmark.max_runs}
    return {
        "checkpoint": Inside(CHECKPOINT),
        "output": OUT,
        "requests": str(benchmark.requests),
        "input-tokens": str(benchmark.input_tokens),
        "output-tokens": str(benchmark.output_tokens),
        "seed": str(benchmark.seed),
        **{name: str(value) for name, value in repeats.items() if value is not None},
    }


def _facts(shape: Shape) -> tuple[str, ...]:
    """Outputs without which a benchmark is useless."""
    facts = {
        "model": _model(shape.recipe),
        "format": shape.recipe.quantization.format,
        **({"backend": shape.recipe.backend} if shape.runtime.HAS_BACKENDS else {}),
        "image": shape.image.reference,
        **shape.host,
    }
    return tuple(argument for name, value in facts.items() for argument in ("--fact", f"{name}={value}"))


def _model(recipe: Recipe) -> str:
    return recipe.model.repo if isinstance(recipe.model, HubModel) else recipe.name
