"""Declares the checks of the checkpoint and, with a GPU, of an answer by the server."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Argument, Inside
from orchestrator.quantization.candidates import compared
from orchestrator.recipe.model import Recipe
from orchestrator.serving.server import Command, Places
from orchestrator.steps import candidates
from orchestrator.steps.evaluate import RESULT
from orchestrator.steps.shape import CANDIDATES, CHECKPOINT, ENGINE, EVALUATION, MODEL, OFFLINE, OUT, Shape, payload
from orchestrator.steps.step import FILES, Input, Output, Step


def build(recipe: Recipe, catalog: Catalog) -> Step:
    """Declare the checks."""
    shape = Shape(recipe, catalog)
    serves = recipe.checks.serve and shape.measurable and shape.image.serves
    inputs = shape.served_inputs if serves else (Input(shape.checkpoint_step, CHECKPOINT),)
    reference = (Input(shape.model_step, MODEL),) if shape.checkpoint_step != shape.model_step else ()
    findings = (Input("evaluate", EVALUATION),) if recipe.checks.held_out else ()
    if recipe.checks.compare:
        findings = (*findings, Input(candidates.STEP, CANDIDATES))
    return Step(
        name="verify",
        argv=payload("verify", {}, *_options(shape, serves=serves), *(("--", *_server(shape)) if serves else ())),
        outputs=(Output("quality.json", "json"),),
        image=shape.container,
        portable=not serves,
        inputs=(*inputs, *reference, *findings),
        files=shape.runtime.files(shape.server) if serves else {},
        needs_code=True,
        environment={**OFFLINE, **shape.runtime.environment(shape.server)} if serves else {},
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
    if checks.compare:
        own = compared(shape.recipe)[0].name
        options += ["--candidates", Inside(CANDIDATES, candidates.RESULT), "--own", own]
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
        options += [word for pattern in shape.runtime.KERNELS for word in ("--kernel-pattern", pattern)]
        options += shape.runtime.starting(places(shape))
    return tuple(options)


def _server(shape: Shape) -> Command:
    return shape.runtime.command(shape.server, places(shape))


def places(shape: Shape) -> Places:
    """Say where a step's server finds its files and listens."""
    return Places(
        checkpoint=Inside(CHECKPOINT),
        engine=Inside(ENGINE) if shape.recipe.backend == "tensorrt" else None,
        file=lambda name: Inside(FILES, name),
        host="127.0.0.1",  # the container has no network, so no other process can connect
        port=shape.recipe.serve.port,
    )
