"""Declares the checks of the checkpoint and, with a GPU, of an answer by trtllm-serve."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.model import Recipe
from orchestrator.serving.command import serve_command
from orchestrator.serving.config import config_text, llm_api_config
from orchestrator.steps.evaluate import RESULT
from orchestrator.steps.shape import CHECKPOINT, ENGINE, EVALUATION, MODEL, OFFLINE, OUT, Shape, payload
from orchestrator.steps.step import FILES, Input, Output, Step

CONFIG = "llm_api.yaml"
"""The server's configuration file, among the step's small files."""


def build(recipe: Recipe, catalog: Catalog) -> Step:
    """Declare the checks."""
    shape = Shape(recipe, catalog)
    serves = recipe.checks.serve and shape.measurable and shape.has("trtllm-serve")
    inputs = shape.served_inputs if serves else (Input(shape.checkpoint_step, CHECKPOINT),)
    reference = (Input(shape.model_step, MODEL),) if shape.checkpoint_step != shape.model_step else ()
    compared = (Input("evaluate", EVALUATION),) if recipe.checks.held_out else ()
    return Step(
        name="verify",
        argv=payload("verify", {}, *_options(shape, serves=serves), *(("--", *_server(shape)) if serves else ())),
        outputs=(Output("quality.json", "json"),),
        image=shape.container,
        portable=not serves,
        inputs=(*inputs, *reference, *compared),
        files={CONFIG: config_text(llm_api_config(recipe, shape.image))} if serves else {},
        needs_code=True,
        environment={**OFFLINE, **recipe.serve.environment} if serves else {},
        gpus=shape.gpus if serves else 0,
        identity=shape.host if serves else {},
    )


def _options(shape: Shape, *, serves: bool) -> tuple[Argument, ...]:
    checks = shape.recipe.checks
    options: list[Argument] = ["--checkpoint", Inside(CHECKPOINT)]
    if shape.checkpoint_step != shape.model_step:
        options += ["--reference", Inside(MODEL)]
    if checks.min_snr_db is not None:
        options += ["--min-snr-db", str(checks.min_snr_db)]
    if checks.held_out is not None:
        options += ["--evaluation", Inside(EVALUATION, RESULT)]
    for name, gate in (
        ("kl-divergence", checks.max_kl_divergence),
        ("perplexity-increase", checks.max_perplexity_increase),
    ):
        if gate is not None:
            options += [f"--max-{name}", str(gate)]
    if not checks.chat_template:
        options.append("--no-chat-template")
    options += ["--output", OUT]
    if serves:
        options += ["--port", str(shape.recipe.serve.port), "--startup-timeout", str(checks.startup_timeout)]
    return tuple(options)


def _server(shape: Shape) -> tuple[Argument, ...]:
    engine = shape.recipe.backend == "tensorrt"
    model: Argument = Inside(ENGINE) if engine else Inside(CHECKPOINT)
    tokenizer: Argument | None = Inside(CHECKPOINT) if engine else None
    return serve_command(
        shape.recipe,
        shape.image,
        shape.catalog,
        model=model,
        tokenizer=tokenizer,
        config=Inside(FILES, CONFIG),
        host="127.0.0.1",  # the container has no network, so no other process can connect
        port=shape.recipe.serve.port,
    )
