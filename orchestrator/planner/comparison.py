"""Compares one model in several formats: size, fit and speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from types import MappingProxyType

from orchestrator.catalog.image import Image
from orchestrator.catalog.runtimes import unserved
from orchestrator.catalog.target import Target
from orchestrator.models.shape import ModelShape
from orchestrator.planner.drafting import Drafting
from orchestrator.planner.kernels import GPT_OSS, has_four_bits
from orchestrator.planner.queueing import Targets, at_rate, users_within
from orchestrator.planner.rules.model import has_listed
from orchestrator.planner.scheme import KvDtype, Scheme, as_published, scheme_of
from orchestrator.planner.serving import RUNTIME, Serving
from orchestrator.planner.serving_figures import ServingFigures, serving_figures
from orchestrator.serving.runtimes import RUNTIMES
from orchestrator.values import frozen

_CHECKPOINTS = {
    "bf16": "BF16",
    "fp8": "FP8",
    "nvfp4": "NVFP4",
    "w4a16_nvfp4": "W4A16 NVFP4",
    "mxfp4": "MXFP4",
}
_GGUF = {"f16": "F16", "q8_0": "Q8_0", "q4_k_m": "Q4_K_M", "q4_0": "Q4_0", "gguf_mxfp4": "MXFP4 (GGUF)"}

_DECLARED: Mapping[str, str] = MappingProxyType(
    {"FP8": "fp8", "FP8_BLOCK": "fp8", "NVFP4": "nvfp4", "W4A16_NVFP4": "w4a16_nvfp4", "MXFP4": "mxfp4"}
)
"""By the algorithm that files declare, the format to compare."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Concurrent requests for which the longest context is calculated."""


@frozen
class Subject:
    """The model to compare."""

    name: str
    shape: ModelShape
    basis: str
    """The source of its sizes."""
    schemes: Mapping[str, Scheme] = field(default_factory=lambda: MappingProxyType({}))
    """By format, the quantization of a checkpoint that a recipe names. Other formats follow ModelOpt's defaults."""
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """By format, the recipes that make it."""
    declared: Scheme | None = None
    """How its files store it, if they are quantized."""


@frozen
class Terms:
    """The question that all formats share."""

    target: Target
    target_name: str
    runtime: str
    batch: int
    context: int
    kv_dtype: KvDtype
    gpus: int | None = None
    """None: all GPUs of the target."""
    output_tokens: int = 0
    """Tokens of the answer, as in `Serving`."""
    rate: float | None = None
    """Requests per second, in place of the batch."""
    targets: Targets | None = None
    """The times that users accept; None: any."""
    drafter: Drafting | None = None
    """Drafts tokens; None: plain decoding."""


@frozen
class Reach:
    """The longest context for a number of concurrent requests."""

    batch: int
    context: int
    """Tokens; 0 if not one request fits."""


@frozen
class Row:
    """One format."""

    format: str
    label: str
    """Its name for people."""
    serving: Serving
    figures: ServingFigures
    reaches: tuple[Reach, ...]
    recipes: tuple[str, ...]
    """The recipes that make it."""
    users: int | None = None
    """Users within the targets; None without targets, or without a GPU."""
    refused: str = ""
    """Why a plan refuses it on this target; empty if it does not."""

    @property
    def usable(self) -> bool:
        """Whether it fits, and no plan refuses it."""
        return self.figures.fits and not self.refused


@frozen
class Comparison:
    """The result of a comparison."""

    subject: Subject
    terms: Terms
    rows: tuple[Row, ...]

    @property
    def available_bytes(self) -> int:
        """Bytes of one GPU that are available to a model."""
        return self.rows[0].figures.available_bytes

    def row(self, name: str) -> Row | None:
        """Find a format."""
        return next((row for row in self.rows if row.format == name), None)


def formats_of(runtime: str, shape: ModelShape) -> Mapping[str, str]:
    """Return the formats to compare for a runtime, with their names for people."""
    if runtime != "llama.cpp":
        return _CHECKPOINTS
    return {name: label for name, label in _GGUF.items() if name != "gguf_mxfp4" or shape.architecture == GPT_OSS}


def compare(subject: Subject, terms: Terms, images: Iterable[Image] = ()) -> Comparison:
    """Calculate every format.

    Args:
        subject: The model.
        terms: The question.
        images: Those that serve on the target; none: kernels are not looked up.

    Raises:
        SpeedInputError: A number that no run can have.
        CatalogError: No such runtime.
    """
    formats, serving = formats_of(terms.runtime, subject.shape), tuple(images)
    rows = (compare_one(subject, terms, name) for name in formats)
    return Comparison(
        subject, terms, tuple(replace(row, refused=_refused(subject, terms, row.format, serving)) for row in rows)
    )


def _refused(subject: Subject, terms: Terms, name: str, images: Sequence[Image]) -> str:
    """Say why a plan refuses a format with this runtime; empty if it does not."""
    if subject.declared is not None and name.removeprefix("gguf_") != _DECLARED.get(subject.declared.algorithm):
        lost = "BF16 holds nothing more" if name in ("bf16", "f16") else "quantizing it again only loses precision"
        return f"it is published in {subject.declared.label}, and {lost}"
    found = next(((key, runtime) for key, runtime in RUNTIMES.items() if terms.runtime == runtime.COSTS), None)
    if found is None:
        return ""
    (key, runtime), architecture, gpu = found, subject.shape.architecture, terms.target.gpu
    if name == "mxfp4" and architecture != GPT_OSS:
        return f"{runtime.LABEL} loads MXFP4 only as gpt-oss is published in it; use NVFP4"
    never = unserved(key).get(architecture)
    if never is not None:
        return f"{runtime.LABEL} does not serve {architecture}: {never.why}"
    serving = [image for image in images if image.runtime == key and image.serves]
    able = [image for image in serving if has_listed(image, architecture, subject.shape.model_type)] or serving
    wanted = "fp8_block_scale" if subject.declared and subject.declared.algorithm == "FP8_BLOCK" else name
    if able and gpu and not any(wanted in image.formats.get(f"sm_{gpu.sm}", ()) for image in able):
        return f"no image for {architecture} has kernels for {wanted} on SM {gpu.sm}"
    return ""


def compare_one(subject: Subject, terms: Terms, name: str) -> Row:
    """Calculate one format; raises as `compare`."""
    serving = Serving(
        shape=subject.shape,
        scheme=_scheme(subject, name, terms.runtime),
        kv_dtype=terms.kv_dtype,
        target=terms.target,
        target_name=terms.target_name,
        runtime=terms.runtime,
        batch=terms.batch,
        context=terms.context,
        gpus=terms.gpus,
        output_tokens=terms.output_tokens,
        drafter=terms.drafter,
    )  # as published, because only a recipe says how it was made
    if terms.rate is not None and terms.target.gpu:
        serving = at_rate(serving, terms.rate)
    figures = serving_figures(serving)
    asked = terms.targets if figures.queue else None
    return Row(
        format=name,
        label=_CHECKPOINTS.get(name) or _GGUF.get(name) or name,
        serving=serving,
        figures=figures,
        reaches=tuple(Reach(batch, replace(serving, batch=batch).max_context) for batch in BATCHES),
        recipes=subject.recipes.get(name, ()),
        users=users_within(serving, asked, figures.max_batch) if asked and asked.given else None,
    )


def _scheme(subject: Subject, name: str, runtime: str) -> Scheme:
    declared = subject.declared
    if declared is not None and name == _DECLARED.get(declared.algorithm):
        return declared
    own = scheme_of(name) if runtime == RUNTIME else as_published(scheme_of(name))
    return subject.schemes.get(name) or own


def usual_format(architecture: str, terms: Terms) -> str:
    """Name the recommended format, if it fits."""
    if terms.runtime == "llama.cpp":
        return "gguf_mxfp4" if architecture == GPT_OSS else "q4_k_m"
    if architecture == GPT_OSS:
        return "mxfp4"
    return "nvfp4" if terms.target.gpu is None or has_four_bits(terms.target.gpu) else "fp8"
