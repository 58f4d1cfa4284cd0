"""One question, one answer: a model in a format on a target, with its memory, its speed and its limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import (
    checkpoint_bytes,
    kv_bytes_per_token,
    state_bytes,
    weights_read_per_step,
)
from orchestrator.planner.figures import Figure, gigabytes
from orchestrator.planner.memory import BUILD_BASIS, BUILD_FACTOR
from orchestrator.planner.scheme import GGUF_FORMATS, KvDtype, Scheme, scheme_of
from orchestrator.planner.serving import (
    CUDA_FREE_ON_FRESH_BOOT,
    EAGER_LOAD,
    SMALL_STEP,
    TOKENS_PER_STEP,
    Serving,
    gpus_of,
    max_batch,
    max_context,
    room_per_gpu,
)
from orchestrator.planner.shapes.model import ModelShape
from orchestrator.planner.speed import Band, speed

Phase = Literal["download", "quantize", "convert", "engine_build", "load", "serve"]

_DOWNLOAD_BYTES = 2**28
_FIRST_FP4 = 100
"""The first compute capability whose tensor cores take four-bit floats: Blackwell."""
_GB10 = 121


@dataclass(frozen=True)
class Question:
    """What is asked."""

    shape: ModelShape
    scheme: Scheme
    kv_dtype: KvDtype
    target: Target
    target_name: str
    engine: str
    batch: int
    context: int
    gpus: int | None = None
    """None: all of the target's."""
    quantizing: Figure | None = None
    """Peak memory of the step that makes this format; None where the weights come in it."""
    builds_engine: bool = False
    tokens_per_step: int | None = None
    """Tokens that one step takes at most; None: the engine's default."""
    cache_share: float = 1.0
    """What the KV cache may have of the memory that weights and activations leave."""
    draft_bytes: float = 0.0
    """Weights that propose tokens. They take memory; speeds are those of plain decoding."""
    stored_bytes: int | None = None
    """Bytes of the checkpoint's tensors, where its headers were read; else they are counted from the shape."""

    @property
    def cache_room(self) -> float:
        """Bytes of one GPU that are in use when the cache has all that it may have."""
        serving = replace(self.serving, batch=1)
        fixed = serving.weights + serving.workspace
        return fixed + max(room_per_gpu(self.target) - fixed, 0.0) * self.cache_share

    @property
    def serving(self) -> Serving:
        """What is in memory when it serves."""
        return Serving(
            self.shape,
            self.scheme,
            self.kv_dtype,
            batch=self.batch,
            context=self.context,
            gpus=self.gpus or gpus_of(self.target),
            tokens_per_step=self.tokens_per_step or (SMALL_STEP if self.engine == "llama.cpp" else TOKENS_PER_STEP),
            draft=self.draft_bytes,
        )


@dataclass(frozen=True)
class Outlook:
    """The answer. Memory is that of one GPU, and of one node where phases run on one."""

    weights_bytes: int
    active_bytes_per_token: int
    kv_bytes_per_token: float
    fits: bool
    """It loads and serves as asked; what making it lacks stands in the limits."""
    peak_memory_bytes: dict[Phase, int]
    room_bytes: int
    """What the target has for it on one GPU."""
    max_context: int
    """Tokens of each of the batch's texts; at most what the model was made for."""
    max_batch: int
    """Texts of the context's length."""
    decode: Band | None
    """Tokens per second, summed over the batch; None without a GPU."""
    prefill: Band | None
    basis: tuple[str, ...]
    limits: tuple[str, ...]


def outlook(question: Question) -> Outlook:
    """Answer a question.

    Raises:
        SpeedInputError: A number that no run can have.
        CatalogError: No such engine.
    """
    serving, room = question.serving, room_per_gpu(question.target)
    weights = question.stored_bytes or checkpoint_bytes(question.shape, question.scheme)
    phases = {phase: math.ceil(peak) for phase, peak in _phases(question, serving, weights)}
    found = _speed(question)
    fits = max(phases["load"], phases["serve"]) <= room
    return Outlook(
        weights_bytes=weights,
        active_bytes_per_token=round(weights_read_per_step(question.shape, question.scheme)),
        kv_bytes_per_token=kv_bytes_per_token(question.shape, question.kv_dtype),
        fits=fits and question.context <= question.shape.max_position,
        peak_memory_bytes=phases,
        room_bytes=math.floor(room),
        max_context=max_context(serving, question.cache_room),
        max_batch=max_batch(serving, question.cache_room),
        decode=found[0],
        prefill=found[1],
        basis=(*_basis(question, serving, room), *found[2]),
        limits=tuple(_limits(question, serving, phases, room)),
    )


def to_document(found: Outlook) -> dict[str, Any]:
    """Spell an answer for programs; bytes and tokens per second, `null` for speeds without a GPU."""
    return {
        "weights_bytes": found.weights_bytes,
        "active_bytes_per_token": found.active_bytes_per_token,
        "kv_bytes_per_token": round(found.kv_bytes_per_token),
        "fits": found.fits,
        "peak_memory_bytes": dict(found.peak_memory_bytes),
        "max_context": found.max_context,
        "max_batch": found.max_batch,
        "decode_tokens_per_s": asdict(found.decode) if found.decode else None,
        "prefill_tokens_per_s": asdict(found.prefill) if found.prefill else None,
        "basis": list(found.basis),
        "limits": list(found.limits),
    }


def _phases(question: Question, serving: Serving, weights: int) -> Iterator[tuple[Phase, float]]:
    yield "download", _DOWNLOAD_BYTES
    if question.quantizing:
        yield "quantize", question.quantizing.value
    if question.builds_engine:
        yield "convert", weights * BUILD_FACTOR
        yield "engine_build", weights * BUILD_FACTOR
    yield "load", serving.load_peak(question.target)
    yield "serve", serving.peak


def _room(target: Target, phase: Phase) -> float:
    """Give the bytes for a phase: loading and serving have their share of every GPU, the others one node."""
    return room_per_gpu(target) if phase in ("load", "serve") else float(target.memory - target.reserve)


def _speed(question: Question) -> tuple[Band | None, Band | None, tuple[str, ...]]:
    if question.target.gpu is None:
        return None, None, ("speed: this target has no GPU, and nothing serves on it",)
    found = speed(
        question.shape,
        format=question.scheme,
        kv_dtype=question.kv_dtype,
        target=question.target,
        engine=question.engine,
        batch=question.batch,
        context=question.context,
        gpus=question.gpus,
    )
    return found.decode, found.prefill, found.basis


def _basis(question: Question, serving: Serving, room: float) -> Iterator[str]:
    shape, scheme, target = question.shape, question.scheme, question.target
    counted = "the headers of its files" if question.stored_bytes else "exact bytes of its tensors, scales included"
    yield (
        f"weights: {counted}: {shape.parameters:,} parameters, {shape.active_parameters:,} read per token,"
        f" as {scheme.name} says"
    )
    if not question.quantizing and scheme.exclude is None and scheme.modules is None and scheme.algorithm != "BF16":
        yield "weights: no list of what is not quantized was given: what ModelOpt leaves alone by default"
    states = state_bytes(shape)
    more = f", and {gigabytes(states)} of recurrent states per text" if states else ""
    yield f"cache: {shape.attention_layers} layers keep keys and values in {question.kv_dtype}{more}"
    come = checkpoint_bytes(shape, scheme_of("bf16") if question.quantizing else scheme)
    yield f"download: {gigabytes(_DOWNLOAD_BYTES)} assumed; {gigabytes(come)} go to disk as they come"
    if question.quantizing:
        yield f"quantize: {question.quantizing.basis}"
    if question.builds_engine:
        yield f"convert, engine_build: {BUILD_BASIS}"
    yield (
        "load: weights"
        + (", and one file of them in the page cache besides" if target.unified_memory else "")
        + (f", on each of {serving.gpus} GPUs" if serving.gpus > 1 else "")
    )
    texts = "one text" if serving.batch == 1 else f"{serving.batch} texts"
    yield (
        f"serve: weights {gigabytes(serving.weights)}, cache {gigabytes(serving.cache)} for {texts} of"
        f" {serving.context} tokens, activations and scratch {gigabytes(serving.workspace)} by formula for steps of"
        f" {serving.tokens_per_step} tokens"
    )
    yield (
        f"room: {gigabytes(room)} on each GPU: {gigabytes(target.memory)} of {question.target_name} without the"
        f" {gigabytes(target.reserve)} that the system and the CUDA context keep"
    )
    yield from (f"left out: {note}" for note in shape.notes)


def _limits(question: Question, serving: Serving, phases: dict[Phase, int], room: float) -> Iterator[str]:
    shape, target = question.shape, question.target
    for phase, peak in phases.items():
        has = _room(target, phase)
        if peak > has:
            yield f"{phase} needs {gigabytes(peak)}, and {question.target_name} has {gigabytes(has)} for it"
    if question.context > shape.max_position:
        yield f"the model was made for {shape.max_position} tokens, and {question.context} are asked for"
    if target.unified_memory and CUDA_FREE_ON_FRESH_BOOT < phases["serve"] <= room:
        yield (
            f"CUDA sees at most {gigabytes(CUDA_FREE_ON_FRESH_BOOT)} free on a fresh boot: drop the page cache before"
            " the server starts, and give it less"
        )
    if target.unified_memory and phases["load"] <= room < EAGER_LOAD * serving.weights:
        yield (
            f"a loader that takes {EAGER_LOAD} times the weights at once would not fit: set"
            " TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL=1"
        )
    yield from _kernels(question)


def _kernels(question: Question) -> Iterator[str]:
    algorithm, engine = question.scheme.algorithm, question.engine
    sm = question.target.gpu.sm if question.target.gpu else None
    if (question.scheme.gguf in GGUF_FORMATS) != (engine == "llama.cpp"):
        loads = "only GGUF files" if engine == "llama.cpp" else "no GGUF files"
        yield f"{engine} loads {loads}; the figures are for the bytes alone"
    if sm is not None and sm < _FIRST_FP4 and algorithm in ("NVFP4", "MXFP4"):
        yield f"SM {sm} has no four-bit floating-point products: {algorithm} runs with 16-bit activations, if at all"
    if sm == _GB10 and algorithm == "FP8_BLOCK" and engine == "trtllm":
        yield "TensorRT-LLM has no kernels for FP8 with block scales on SM 121; take one scale per tensor"
    if algorithm == "MXFP4" and engine == "trtllm" and question.shape.architecture != "GptOssForCausalLM":
        yield "TensorRT-LLM loads MXFP4 only as gpt-oss publishes it"
