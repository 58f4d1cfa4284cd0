"""Calculates a plan's memory, disk, time and speed, each figure with its basis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.catalog.target import Target
from orchestrator.planner import duration
from orchestrator.planner.asking import question_of
from orchestrator.planner.disk import disk_of_steps
from orchestrator.planner.drafted import Drafted, drafted
from orchestrator.planner.duration import Span
from orchestrator.planner.figures import Figure, Kind
from orchestrator.planner.known import Known, known_model
from orchestrator.planner.making import calibrates, compare_memory, quantize_memory
from orchestrator.planner.memory import longest_text, most_texts, serve_memory
from orchestrator.planner.phases import Peak, Phase, building, downloading, peaks, pool
from orchestrator.planner.question import Question
from orchestrator.planner.serving import gpus_of, room_per_gpu
from orchestrator.planner.speed import Band, speed
from orchestrator.planner.weights import decode_ceiling, served_weights, source_weights
from orchestrator.recipe.model import Recipe

_BATCHES = (1, 8)
"""Numbers of concurrent requests, besides the server's maximum."""
_LONGER = 32768
"""Tokens of a request, besides the usual context and the longest that fits."""
_PHASES: Mapping[str, Phase] = {"quantize": "quantize", "convert": "convert", "engine": "engine_build"}
"""Phases by step. Every other step downloads."""


@dataclass(frozen=True)
class Stage:
    """One phase of a recipe."""

    phase: Phase
    peak: Peak
    kept: float = 0.0
    """Bytes of its result on disk."""
    time: Span | None = None
    """None if the time is not known."""


@dataclass(frozen=True)
class Cell:
    """Decode speed at one batch and context."""

    batch: int
    context: int
    decode: Band | None
    """Tokens per second of all requests together; None if they do not fit into the cache."""


@dataclass(frozen=True)
class Prefill:
    """The prefill speed of one prompt."""

    context: int
    band: Band
    ceiling: float
    """Upper limit in tokens per second of decoding one request at this context without drafts."""


@dataclass(frozen=True)
class Speeds:
    """The server's speed by concurrent requests and context, without drafts."""

    decode: tuple[Cell, ...]
    """By batch, then by context."""
    prefill: tuple[Prefill, ...]
    """By context."""
    basis: tuple[str, ...]
    """How the first cell was calculated."""


@dataclass(frozen=True)
class Estimate:
    """The cost of one recipe on its target, before any download."""

    download: Figure
    """The source weights: bytes to download, or to read if the model is local."""
    weights: Figure
    """The served weights."""
    disk: Figure
    """Disk space of all results."""
    stages: tuple[Stage, ...]
    """Every phase in order, with its memory, disk and time."""
    serve_memory: Figure
    """The least memory of serving, over all nodes."""
    longest_text: Figure | None
    """The longest context of one request that fits; None if the model's sizes are not known."""
    most_texts: Figure | None
    """Concurrent requests at the usual context; None if the model's sizes are not known."""
    decode: Figure | None
    """Tokens per second of one request at the usual context; None if sizes are not known, or without a GPU."""
    prefill: Figure | None
    """Prefill tokens per second for a prompt of the usual context; None as for `decode`."""
    decode_ceiling: Figure | None
    """Upper limit of one request in tokens per second; None without a GPU."""
    speeds: Speeds | None
    """None as for `decode`."""
    drafted: Drafted | None
    """One request with the recipe's drafts; None without drafts, or as for `decode`."""

    @property
    def figures(self) -> Mapping[str, Figure]:
        """Every known figure by its name."""
        found = {
            "download": self.download,
            "weights": self.weights,
            "disk": self.disk,
            "serve_memory": self.serve_memory,
            "longest_text": self.longest_text,
            "most_texts": self.most_texts,
            "decode": self.decode,
            "prefill": self.prefill,
            "decode_ceiling": self.decode_ceiling,
        }
        return {name: figure for name, figure in found.items() if figure is not None}

    def stage(self, phase: Phase) -> Stage | None:
        """Find a phase; None if the recipe does not have it."""
        return next((stage for stage in self.stages if stage.phase == phase), None)


def estimate(recipe: Recipe, target: Target) -> Estimate:
    """Calculate the cost of a recipe on a target."""
    download, weights = source_weights(recipe), served_weights(recipe)
    known, longest = known_model(recipe), longest_text(recipe, target)
    question = _question(recipe, target, known)
    decode, prefill, ceiling = _one_request(question) if question else (None, None, decode_ceiling(recipe, target))
    return Estimate(
        download=replace(download, basis=f"{download.basis}; sizes from {known.basis}") if known else download,
        weights=weights,
        disk=_disk(recipe),
        stages=tuple(_stages(recipe, target, known, download.value, weights.value)),
        serve_memory=serve_memory(recipe, target),
        longest_text=longest,
        most_texts=most_texts(recipe, target),
        decode=decode,
        prefill=prefill,
        decode_ceiling=ceiling,
        speeds=_speeds(recipe, question, longest) if question and longest else None,
        drafted=drafted(recipe, question) if question else None,
    )


def decode_of(recipe: Recipe, target: Target) -> Figure | None:
    """Predict only the decode figure of `estimate`; None if the sizes are not known."""
    question = _question(recipe, target, known_model(recipe))
    return _one_request(question)[0] if question else None


def _question(recipe: Recipe, target: Target, known: Known | None) -> Question | None:
    """Make the question for its server; None if sizes are not known, or if no server runs there."""
    if known is None or target.gpu is None or recipe.serve.tensor_parallel_size > gpus_of(target):
        return None
    return question_of(recipe, known, target)


def _stages(recipe: Recipe, target: Target, known: Known | None, download: float, weights: float) -> Iterator[Stage]:
    kept: dict[Phase, float] = defaultdict(float)
    for part in disk_of_steps(recipe):
        kept[_PHASES.get(part.step, "download")] += part.left.value
    times: Mapping[Phase, Span | None] = {
        "download": duration.downloading(kept["download"]),
        "quantize": _quantizing(recipe, target, known, download, weights),
        "evaluate": _comparing(recipe, target, known, download + weights),
        "convert": duration.converting(weights),
        "engine_build": duration.building(weights),
        "load": duration.loading(weights / target.nodes),
    }
    for phase, peak in _peaks(recipe, target, known, weights).items():
        if phase != "convert" or kept["convert"]:  # quantize.py writes what trtllm-build reads
            yield Stage(phase, peak, kept[phase], times.get(phase))


def _peaks(recipe: Recipe, target: Target, known: Known | None, weights: float) -> dict[Phase, Peak]:
    """Return every phase's memory; only the weights for a model of unknown sizes."""
    if known is not None:
        question = question_of(recipe, known, target)
        found = peaks(question) | {"serve": pool(question)}
        return found if target.gpu else {phase: peak for phase, peak in found.items() if phase not in ("load", "serve")}
    made, node = quantize_memory(recipe), float(target.memory - target.reserve)
    found = {"download": downloading(target)}
    if made is not None:
        found["quantize"] = Peak({"the tool's whole need": made.value}, node, made.kind, made.basis)
    compared = compare_memory(recipe)
    if compared is not None:
        found["evaluate"] = Peak({"the tool's whole need": compared.value}, node, compared.kind, compared.basis)
    if recipe.backend == "tensorrt":
        found["convert"] = found["engine_build"] = building(weights, target)
    if target.gpu is not None:
        least = serve_memory(recipe, target)
        share = least.value / min(recipe.serve.tensor_parallel_size, gpus_of(target))
        found["serve"] = Peak({"weights": share}, room_per_gpu(target), least.kind, f"at least: {least.basis}")
    return found


def _quantizing(recipe: Recipe, target: Target, known: Known | None, read: float, written: float) -> Span | None:
    match recipe.quantization.method:
        case "onepass":
            if known is None or not calibrates(known.served):
                return duration.one_pass(read, written)
            return duration.calibrating(read, written, known.shape, recipe.quantization.calibration, target)
        case "modelopt" | "trtllm":
            return duration.modelopt(read)
        case _:
            return None


def _comparing(recipe: Recipe, target: Target, known: Known | None, read: float) -> Span | None:
    held_out = recipe.checks.held_out
    return duration.comparing(read, known.shape, held_out, target) if known and held_out else None


def _disk(recipe: Recipe) -> Figure:
    parts = disk_of_steps(recipe)
    kind: Kind = "exact" if all(part.left.kind == "exact" for part in parts) else "formula"
    return Figure(sum(part.left.value for part in parts), "B", " + ".join(part.what for part in parts), kind)


def _one_request(question: Question) -> tuple[Figure, Figure, Figure]:
    """Return decode, prefill and the limit of decode, each with its conditions."""
    found, tokens = speed(question), f"{question.context:,} tokens"
    decoding = f"1 request at {tokens}, KV cache in {question.kv_dtype.upper()}, no speculative decoding"
    limit = "weights and cache read once per step at the peak bandwidth, nothing else counted"
    return (
        _figure(found.decode, found.basis[0], decoding),
        _figure(found.prefill, found.basis[1], f"1 prompt of {tokens}"),
        Figure(found.ceiling, "tok/s", limit, conditions=decoding),
    )


def _figure(band: Band, basis: str, conditions: str) -> Figure:
    return Figure(band.expected, "tok/s", basis, "measured", (band.low, band.high), conditions)


def _speeds(recipe: Recipe, question: Question, longest: Figure) -> Speeds | None:
    """Calculate the table: usual batches up to the server's maximum, contexts up to what fits."""
    most = int(longest.value)
    if most < 1:
        return None
    contexts = (*[context for context in sorted({question.context, _LONGER}) if context < most], most)
    allowed = recipe.serve.max_batch_size
    alone = [speed(replace(question, context=context)) for context in contexts]
    return Speeds(
        decode=tuple(
            _cell(replace(question, batch=batch, context=context))
            for batch in (*[batch for batch in _BATCHES if batch < allowed], allowed)
            for context in contexts
        ),
        prefill=tuple(
            Prefill(context, found.prefill, found.ceiling) for context, found in zip(contexts, alone, strict=True)
        ),
        basis=alone[0].basis,
    )


def _cell(question: Question) -> Cell:
    fits = question.serving.peak <= question.cache_room
    return Cell(question.batch, question.context, speed(question).decode if fits else None)
