"""One model in several formats, side by side: what each weighs, whether it fits, how fast it is, when to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import weights_read_per_step
from orchestrator.planner.figures import gigabytes
from orchestrator.planner.outlook import Outlook, Question, outlook
from orchestrator.planner.scheme import KvDtype, Scheme, scheme_of
from orchestrator.planner.serving import gpus_of, max_context
from orchestrator.planner.shapes.model import ModelShape
from orchestrator.planner.speed import speed

_CHECKPOINTS = {
    "bf16": "BF16",
    "fp8": "FP8",
    "nvfp4": "NVFP4",
    "w4a16_nvfp4": "W4A16 NVFP4",
    "mxfp4": "MXFP4",
}
_GGUF = {"f16": "F16", "q8_0": "Q8_0", "q4_k_m": "Q4_K_M", "q4_0": "Q4_0", "gguf_mxfp4": "MXFP4 (GGUF)"}

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Texts at once, for which the longest context is reckoned."""

FIRST_FOUR_BITS = 100
"""The first compute capability whose tensor cores multiply four-bit floats: Blackwell's."""

GPT_OSS = "GptOssForCausalLM"


@dataclass(frozen=True)
class Subject:
    """The model that is looked at."""

    name: str
    shape: ModelShape
    basis: str
    """Where its sizes come from."""
    schemes: Mapping[str, Scheme] = field(default_factory=lambda: MappingProxyType({}))
    """By format, how a checkpoint that a recipe names is quantized; other formats follow ModelOpt's defaults."""
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """By format, the recipes that make it."""


@dataclass(frozen=True)
class Terms:
    """What all formats are asked alike."""

    target: Target
    target_name: str
    engine: str
    batch: int
    context: int
    kv_dtype: KvDtype
    gpus: int | None = None
    """None: all of the target's."""


@dataclass(frozen=True)
class Reach:
    """The longest context for so many texts at once."""

    batch: int
    context: int
    """Tokens; 0 where not one text fits."""


@dataclass(frozen=True)
class Row:
    """One format."""

    format: str
    label: str
    """As it is written for people."""
    outlook: Outlook
    memory: Mapping[str, float]
    """What serving holds on one GPU, in bytes by part."""
    read: float
    """Bytes of weights that one token of a single text reads."""
    ceiling: float | None
    """Tokens per second at the peak bandwidth, nothing else counted; None without a GPU."""
    reaches: tuple[Reach, ...]
    recipes: tuple[str, ...]
    advice: str
    """When to use it, in one sentence."""


@dataclass(frozen=True)
class Comparison:
    """The answer."""

    subject: Subject
    terms: Terms
    rows: tuple[Row, ...]

    @property
    def room(self) -> float:
        """Bytes of one GPU that a model can have."""
        return self.rows[0].outlook.room_bytes

    def row(self, name: str) -> Row | None:
        """Find a format."""
        return next((row for row in self.rows if row.format == name), None)


def formats_of(engine: str, shape: ModelShape) -> Mapping[str, str]:
    """Give the formats that an engine is asked about, with how they are written."""
    if engine != "llama.cpp":
        return _CHECKPOINTS
    return {name: label for name, label in _GGUF.items() if name != "gguf_mxfp4" or shape.architecture == GPT_OSS}


def compare(subject: Subject, terms: Terms) -> Comparison:
    """Reckon every format.

    Raises:
        SpeedInputError: A number that no run can have.
        CatalogError: No such engine.
    """
    return Comparison(
        subject,
        terms,
        tuple(compare_one(subject, terms, name) for name in formats_of(terms.engine, subject.shape)),
    )


def compare_one(subject: Subject, terms: Terms, name: str) -> Row:
    """Reckon one format; raises as `compare`."""
    question = _question(subject, terms, name)
    found = outlook(question)
    serving = question.serving
    return Row(
        format=name,
        label=_CHECKPOINTS.get(name) or _GGUF.get(name) or name,
        outlook=found,
        memory={"weights": serving.weights, "KV cache": serving.cache, "activations": serving.workspace},
        read=weights_read_per_step(subject.shape, question.scheme),
        ceiling=_ceiling(question),
        reaches=tuple(_reaches(question, found.room_bytes)),
        recipes=subject.recipes.get(name, ()),
        advice=_advice(subject.shape, terms, name, found),
    )


def _question(subject: Subject, terms: Terms, name: str) -> Question:
    scheme = subject.schemes.get(name) or scheme_of(name)
    return Question(
        shape=subject.shape,
        scheme=scheme,
        kv_dtype=terms.kv_dtype,
        target=terms.target,
        target_name=terms.target_name,
        engine=terms.engine,
        batch=terms.batch,
        context=terms.context,
        gpus=terms.gpus or gpus_of(terms.target),
    )


def _ceiling(question: Question) -> float | None:
    if question.target.gpu is None:
        return None
    return speed(
        question.shape,
        format=question.scheme,
        kv_dtype=question.kv_dtype,
        target=question.target,
        engine=question.engine,
        batch=question.batch,
        context=question.context,
        gpus=question.gpus,
    ).ceiling


def _reaches(question: Question, room: float) -> Iterator[Reach]:
    for batch in BATCHES:
        yield Reach(batch, max_context(replace(question.serving, batch=batch), room))


def _advice(shape: ModelShape, terms: Terms, name: str, found: Outlook) -> str:
    if not found.fits:
        lacking = max(found.peak_memory_bytes[phase] for phase in ("load", "serve")) - found.room_bytes
        if lacking > 0:
            return f"Does not fit: {gigabytes(lacking)} more than {terms.target_name} has for it."
        return "Does not fit as asked: the context is longer than what the model was made for."
    if shape.architecture == GPT_OSS:
        return _for_gpt_oss(name)
    if _lacks_four_bits(terms) and name in ("nvfp4", "mxfp4"):
        return "Only for its size: this GPU has no four-bit products, so an engine unpacks it, if it runs it at all."
    if _lacks_four_bits(terms) and name == "fp8":
        return "The usual choice on this GPU, which has eight-bit products and no four-bit ones: nearly no loss."
    return _FOR[name](terms)


def _lacks_four_bits(terms: Terms) -> bool:
    return terms.target.gpu is not None and terms.target.gpu.sm < FIRST_FOUR_BITS


def usual_format(shape: ModelShape, terms: Terms) -> str:
    """Name the format that one would serve first, if it fits."""
    if terms.engine == "llama.cpp":
        return "gguf_mxfp4" if shape.architecture == GPT_OSS else "q4_k_m"
    if shape.architecture == GPT_OSS:
        return "mxfp4"
    return "fp8" if _lacks_four_bits(terms) else "nvfp4"


def _for_gpt_oss(name: str) -> str:
    if name in ("mxfp4", "gguf_mxfp4"):
        return "What it is published in: serve it as it is."
    if name in ("bf16", "f16"):
        return "Only to train it further: its experts were published in MXFP4, so this holds nothing more."
    return "Not worth making: it is published in MXFP4, and quantizing it again only loses precision."


def _mxfp4(terms: Terms) -> str:
    if terms.engine == "trtllm":
        return "Not here: TensorRT-LLM loads MXFP4 only as gpt-oss is published in it; use NVFP4."
    return "For models published in it; others lose more than in NVFP4, whose scales are finer and closer together."


_FOR: Mapping[str, Callable[[Terms], str]] = {
    "bf16": lambda _: (
        "The reference that the others are checked against, and the slowest: where speed does not matter."
    ),
    "fp8": lambda _: (
        "The first step down: half the bytes at nearly no loss, and what remains where NVFP4 fails a check."
    ),
    "nvfp4": lambda _: (
        "The usual choice on Blackwell: four bits for weights and activations, so prompts are read fastest, too; "
        "take a published checkpoint or calibrate one, and check its quality."
    ),
    "w4a16_nvfp4": lambda _: (
        "The bytes of NVFP4 with activations left in 16 bits: made from the BF16 weights in one pass without "
        "calibration, decodes as fast, reads prompts slower."
    ),
    "mxfp4": _mxfp4,
    "f16": lambda _: "The reference, and the slowest.",
    "q8_0": lambda _: "Nearly no loss at half the bytes of F16.",
    "q4_k_m": lambda _: "The usual choice of llama.cpp: mixed four and six bits, with more loss than Q8_0.",
    "q4_0": lambda _: "Smaller and plainer than Q4_K_M, with more loss.",
}
