"""Calculates a plan's memory, disk, time and speed, each figure with its basis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from orchestrator.planner import duration
from orchestrator.planner.candidates import trial_cost
from orchestrator.planner.disk import StepDisk, disk_of_steps, model_step
from orchestrator.planner.draft_speed import DraftSpeed, draft_speed
from orchestrator.planner.duration import Span
from orchestrator.planner.figures import Figure, Kind, workload_words
from orchestrator.planner.model_on_target import ModelOnTarget, context_limit
from orchestrator.planner.phases import Part, Peak, Phase, loading, preparing, serving_full
from orchestrator.planner.preparation import calibrates
from orchestrator.planner.queueing import Targets, limits_of_rate
from orchestrator.planner.serving import Serving, memory_per_gpu
from orchestrator.planner.speed import Band, speed
from orchestrator.planner.users import Users, users_of
from orchestrator.planner.weights import weights_per_token
from orchestrator.quantization.candidates import compared
from orchestrator.values import frozen

_BATCHES = (1, 8)
"""Numbers of concurrent requests, besides the server's maximum."""
_LONGER = 32768
"""Tokens of a request, besides the usual context and the longest that fits."""
_PHASES: Mapping[str, Phase] = {"quantize": "quantize", "convert": "convert", "engine": "engine_build"}
"""Phases by step. Every other step downloads."""


@frozen
class Stage:
    """One phase of a recipe."""

    phase: Phase
    peak: Peak
    kept: float = 0.0
    """Bytes of its result on disk."""
    time: Span | None = None
    """None if the time is not known."""
    step: str = "download"
    """The step of the phase `download`, which is `generate` or `import` for a model that is not on the Hub."""


@frozen
class Cell:
    """Decode speed at one batch and context."""

    batch: int
    context: int
    decode: Band | None
    """Tokens per second of all requests together; None if they do not fit into the cache."""


@frozen
class Prefill:
    """The prefill speed of one prompt."""

    context: int
    band: Band
    ceiling: float
    """Upper limit in tokens per second of decoding one request at this context without drafts."""


@frozen
class Speeds:
    """The server's speed by users and context, without drafts. Answers are as long as in the workload."""

    decode: tuple[Cell, ...]
    """By batch, then by context."""
    prefill: tuple[Prefill, ...]
    """By context."""
    basis: tuple[str, ...]
    """How the first cell was calculated."""


@frozen
class Estimate:
    """The cost of one recipe on its target, before any download."""

    download: Figure
    """The source weights: bytes to download, or to read if the model is local."""
    weights: Figure
    """The served weights."""
    disk: Figure
    """Disk space of all results."""
    disk_of_steps: tuple[StepDisk, ...]
    """What each step writes."""
    stages: tuple[Stage, ...]
    """Every phase in order, with its memory, disk and time."""
    search: Span | None
    """The part of quantizing that searches scales; None without a search."""
    serve_memory: Figure
    """The least memory of serving, over all nodes."""
    max_context: Figure | None
    """The longest context of one request that fits; None if the model's sizes are not known."""
    max_requests: Figure | None
    """Concurrent requests of the workload; None if the model's sizes are not known."""
    decode: Figure | None
    """Tokens per second of one user of the workload; None if sizes are not known, or without a GPU."""
    prefill: Figure | None
    """Prefill tokens per second for a prompt of the workload; None as for `decode`."""
    decode_ceiling: Figure | None
    """Upper limit of one request in tokens per second; None without a GPU."""
    speeds: Speeds | None
    """None as for `decode`."""
    draft_speed: DraftSpeed | None
    """One request with the recipe's drafts; None without drafts, or as for `decode`."""
    users: Users | None
    """What the users of the workload see; None as for `decode`."""

    @property
    def figures(self) -> Mapping[str, Figure]:
        """Every known figure by its name."""
        found = {
            "download": self.download,
            "weights": self.weights,
            "disk": self.disk,
            "serve_memory": self.serve_memory,
            "max_context": self.max_context,
            "max_requests": self.max_requests,
            "decode": self.decode,
            "prefill": self.prefill,
            "decode_ceiling": self.decode_ceiling,
        }
        return {name: figure for name, figure in found.items() if figure is not None}

    def stage(self, phase: Phase) -> Stage | None:
        """Find a phase; None if the recipe does not have it."""
        return next((stage for stage in self.stages if stage.phase == phase), None)


def estimate(model: ModelOnTarget, targets: Targets | None = None) -> Estimate:
    """Calculate the cost of a recipe's model on its target.

    Args:
        model: The model and its machine.
        targets: The times that users accept.
    """
    known, server, disk = model.known, _server(model), disk_of_steps(model)
    source = replace(model.source, basis=f"{model.source.basis}; sizes from {known.basis}") if known else model.source
    max_context, max_requests = _max_context(model), _max_requests(model)
    decode, prefill, ceiling = _one_request(server) if server else (None, None, _ceiling(model))
    return Estimate(
        download=source,
        weights=model.weights,
        disk=_disk(disk),
        disk_of_steps=disk,
        stages=tuple(_stages(model, disk)),
        search=_searching(model),
        serve_memory=model.serving_memory,
        max_context=max_context,
        max_requests=max_requests,
        decode=decode,
        prefill=prefill,
        decode_ceiling=ceiling,
        speeds=_speeds(model, server, max_context) if server and max_context else None,
        draft_speed=draft_speed(model.recipe, server) if server else None,
        users=_users(model, targets or Targets(), max_requests),
    )


def decode_of(model: ModelOnTarget) -> Figure | None:
    """Predict only the decode figure of `estimate`; None if the sizes are not known."""
    server = _server(model)
    return _one_request(server)[0] if server else None


def _server(model: ModelOnTarget) -> Serving | None:
    """Return the server; None if sizes are not known, or if no server runs there."""
    return model.serving if model.has_server else None


def _max_context(model: ModelOnTarget) -> Figure | None:
    """Calculate the longest context of one request; None if sizes are not known, or without a GPU."""
    known, serving = model.known, model.serving
    if known is None or serving is None or model.target.gpu is None:
        return None
    limit = context_limit(model.recipe, known)
    value = min(serving.max_context, limit)
    own = "your max_seq_len" if model.recipe.serve.max_seq_len else "the model's own limit"
    reason = own if value == limit else "what memory allows"
    return Figure(value, "tokens", reason, conditions="prompt and answer of 1 request")


def _max_requests(model: ModelOnTarget) -> Figure | None:
    """Calculate how many requests of the usual context fit; None as for `_max_context`."""
    serving = model.serving
    if serving is None or model.target.gpu is None:
        return None
    found, limit = serving.max_batch, model.recipe.serve.max_batch_size
    reason = f"your max_batch_size; memory allows {found:,}" if found >= limit else "what memory allows"
    return Figure(min(found, limit), "requests", reason, conditions=f"of {serving.context:,} tokens")


def _users(model: ModelOnTarget, targets: Targets, max_requests: Figure | None) -> Users | None:
    asked = model.asked
    found = users_of(asked, int(max_requests.value), targets) if asked and max_requests else None
    if asked is None or found is None:
        return None
    return replace(found, limits=(*found.limits, *_limits_of_users(model, asked)))


def _limits_of_users(model: ModelOnTarget, asked: Serving) -> Iterator[str]:
    yield from limits_of_rate(asked)
    longest = context_limit(model.recipe, model.known) if model.known else asked.context
    if asked.context > longest:
        yield f"a request has {asked.context:,} tokens with its answer, and the server takes {longest:,} at most"


def _stages(model: ModelOnTarget, disk: Iterable[StepDisk]) -> Iterator[Stage]:
    kept: dict[Phase, float] = defaultdict(float)
    for part in disk:
        if part.result:
            kept[_PHASES.get(part.step, "download")] += part.result.value
    weights, step = model.weights.value, model_step(model)
    own = duration.downloading if step == "download" else partial(duration.one_pass, 0.0)
    times: Mapping[Phase, Span | None] = {
        "download": own(kept["download"]),
        "quantize": _quantizing(model),
        "evaluate": _comparing(model),
        "convert": duration.converting(weights),
        "engine_build": duration.building(weights),
        "load": duration.loading(weights / model.target.nodes),
    }
    for phase, peak in _peaks(model).items():
        if phase != "convert" or kept["convert"]:  # quantize.py writes what trtllm-build reads
            yield Stage(phase, peak, kept[phase], times.get(phase), step)


def _peaks(model: ModelOnTarget) -> dict[Phase, Peak]:
    """Return every phase's memory; only the weights for a model of unknown sizes."""
    serving, target = model.serving, model.target
    weights = serving.checkpoint_bytes if serving else model.weights.value
    found = preparing(model.preparation, weights, target)
    held_out, ways = model.recipe.checks.held_out, compared(model.recipe)
    if held_out is not None and ways:
        found["evaluate"] = max(found["evaluate"], trial_cost(model, ways, held_out).memory, key=lambda one: one.total)
    if target.gpu is None:
        return found
    if serving is not None:
        return found | {"load": loading(serving), "serve": serving_full(serving)}
    least = model.serving_memory
    share: Mapping[Part, float] = {"weights": least.value / model.gpus}
    return found | {"serve": Peak(share, memory_per_gpu(target), "bound", f"at least: {least.basis}")}


def _searching(model: ModelOnTarget) -> Span | None:
    quantization, known = model.recipe.quantization, model.known
    matrices = (tensor.elements for tensor in known.shape.tensors if tensor.quantizable) if known else None
    weights = model.recipe.model.parameters if matrices is None else sum(matrices)
    runs_model = known is not None and calibrates(known.served, quantization.choices)
    gpu = model.target.gpu if runs_model else None
    return duration.searching(weights, quantization.scale_search, quantization.rounding, gpu)


def _quantizing(model: ModelOnTarget) -> Span | None:
    """Calculate the time of quantizing, with the search for scales and what choices add; None if it is not known."""
    time, known, quantization = _encoding(model), model.known, model.recipe.quantization
    rounding = again = smoothed = None
    if known and quantization.rounding == "gptq":
        rounding = duration.rounding(known.shape, quantization.calibration, model.target)
    if known and quantization.layer_inputs == "quantized":
        again = duration.running_quantized(known.shape, quantization.calibration, model.target)
    if known and quantization.input_scales == "headroom" and quantization.smoothing != "none":
        smoothed = duration.running_again(known.shape, quantization.calibration, model.target)
    for more in (_searching(model), rounding, smoothed, again):
        time = time.plus(more) if time and more else time
    return time


def _encoding(model: ModelOnTarget) -> Span | None:
    read, written, known = model.source.value, model.weights.value, model.known
    quantization = model.recipe.quantization
    match quantization.method:
        case "onepass":
            if known is None or not calibrates(known.served, quantization.choices):
                return duration.one_pass(read, written)
            return duration.calibrating(read, written, known.shape, quantization.calibration, model.target)
        case "modelopt" | "trtllm":
            return duration.modelopt(read)
        case _:
            return None


def _comparing(model: ModelOnTarget) -> Span | None:
    held_out, read = model.recipe.checks.held_out, model.source.value + model.weights.value
    if model.known is None or held_out is None:
        return None
    found = duration.comparing(read, model.known.shape, held_out, model.target)
    others = trial_cost(model, ways, held_out).time if (ways := compared(model.recipe)) else None
    return found.plus(others) if found and others else found


def _disk(steps: Iterable[StepDisk]) -> Figure:
    results = [(step.what, step.result) for step in steps if step.result]
    kind: Kind = "exact" if all(result.kind == "exact" for _, result in results) else "formula"
    return Figure(sum(result.value for _, result in results), "B", " + ".join(what for what, _ in results), kind)


def _one_request(serving: Serving) -> tuple[Figure, Figure, Figure]:
    """Return decode, prefill and the limit of decode, each with its conditions."""
    found, prompt = speed(serving), serving.context - serving.output_tokens
    asked = workload_words(serving.batch, serving.context, serving.output_tokens)
    decoding = f"{asked}, KV cache in {serving.kv_dtype.upper()}, no speculative decoding"
    limit = "weights and cache read once per step at the peak bandwidth, nothing else counted"
    return (
        _figure(found.decode, found.basis[0], decoding),
        _figure(found.prefill, found.basis[1], f"1 prompt of {prompt:,} tokens"),
        Figure(found.ceiling, "tok/s", limit, conditions=decoding),
    )


def _ceiling(model: ModelOnTarget) -> Figure | None:
    """Return the upper limit of decode without a server: each token reads every active weight once.

    KV cache, activations and launch gaps take more time, so no run reaches it. Speculative decoding can exceed it.
    None on a machine without a GPU.
    """
    if model.target.gpu is None:
        return None
    read = weights_per_token(model.recipe, model.known)
    bandwidth = model.target.gpu.memory_bandwidth * model.recipe.serve.tensor_parallel_size
    basis = f"{bandwidth / 1e9:.4g} GB/s over {read} of weights read per token ({read.basis}); nothing else counted"
    return Figure(bandwidth / read.value, "tok/s", basis)


def _figure(band: Band, basis: str, conditions: str) -> Figure:
    return Figure(band.expected, "tok/s", basis, "measured", (band.low, band.high), conditions)


def _speeds(model: ModelOnTarget, serving: Serving, max_context: Figure) -> Speeds | None:
    """Calculate the table: usual batches up to the server's maximum, contexts up to what fits."""
    most = int(max_context.value)
    if most < 1:
        return None
    contexts = (*[context for context in sorted({serving.context, _LONGER}) if context < most], most)
    allowed = model.recipe.serve.max_batch_size
    alone = [speed(_with(serving, context)) for context in contexts]
    return Speeds(
        decode=tuple(
            _cell(replace(_with(serving, context), batch=batch))
            for batch in (*[batch for batch in _BATCHES if batch < allowed], allowed)
            for context in contexts
        ),
        prefill=tuple(
            Prefill(context, found.prefill, found.ceiling) for context, found in zip(contexts, alone, strict=True)
        ),
        basis=alone[0].basis,
    )


def _with(serving: Serving, context: int) -> Serving:
    """Change the context. The answers stay as long, if it holds them."""
    return replace(serving, context=context, output_tokens=min(serving.output_tokens, context - 1))


def _cell(serving: Serving) -> Cell:
    fits = serving.peak <= serving.limit
    return Cell(serving.batch, serving.context, speed(serving).decode if fits else None)
