"""Chooses the format, method and image of a new recipe: the choice of `compare`, checked by the rules of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import get_args

from orchestrator.catalog.target import Target
from orchestrator.errors import ConfigInvalidError, PlanRefusedError, Refusal
from orchestrator.models import ModelShape
from orchestrator.planner.comparison import Row, Subject, Terms, compare_one, usual_format
from orchestrator.planner.known import Sizes, has_block_scales
from orchestrator.planner.rule_input import Lookup, rule_input
from orchestrator.planner.rules import refusals
from orchestrator.planner.rules.formats import NEAREST, block_scales_refused
from orchestrator.planner.rules.model import has_listed
from orchestrator.planner.rules.published import is_decoded
from orchestrator.planner.scheme import Algorithm, Scheme
from orchestrator.quantization.format_names import SINGLE_FORMATS
from orchestrator.quantization.refused import reason
from orchestrator.recipe.model import Format, Method, Recipe
from orchestrator.values import frozen

_FORMATS: Mapping[Algorithm, Format] = MappingProxyType(
    {
        "BF16": "bf16",
        "FP8": "fp8",
        "FP8_BLOCK": "fp8",
        "NVFP4": "nvfp4",
        "W4A16_NVFP4": "w4a16_nvfp4",
        "MXFP4": "mxfp4",
        "INT4_AWQ": "int4_awq",
    }
)
_USUAL_CONTEXT = 4096


@frozen
class Candidate:
    """A way to serve the model."""

    format: Format
    method: Method
    image: str | None
    """The image that serves; None: that of the recipe's base."""
    quantizer: str | None = None
    """The image that quantizes, if it is another one."""


@frozen
class Proposal:
    """The first candidate without a refusal."""

    candidate: Candidate
    recipe: Recipe
    row: Row | None
    """The result of `compare` for its format; None if the model's sizes are not known."""
    passed_over: Mapping[Format, Refusal] = field(default_factory=dict)
    """The better formats, with their refusals."""


def published_format(shape: ModelShape | None, declared: Scheme) -> Format:
    """Return the format of a checkpoint; of several, the one of most of its numbers.

    Raises:
        ConfigInvalidError: It is published in a format that recipes do not have.
    """
    if declared.modules is None or shape is None:
        if declared.algorithm not in _FORMATS:
            message = f"{declared.name}: {declared.label} is no format of a recipe"
            raise ConfigInvalidError(message, hint=f"there are: {', '.join(dict.fromkeys(_FORMATS.values()))}")
        return _FORMATS[declared.algorithm]
    numbers: Counter[Algorithm] = Counter()
    for tensor in shape.tensors:
        for algorithm, count in declared.split(tensor, len(shape.layers)):
            if algorithm in _FORMATS and algorithm != "BF16":
                numbers[algorithm] += tensor.elements // tensor.count * count
    return _FORMATS[numbers.most_common(1)[0][0]] if numbers else "bf16"


@frozen
class NewRecipe:
    """The model of a new recipe, and its target."""

    name: str
    architecture: str
    shape: ModelShape | None
    declared: Scheme | None
    """The published quantization; None: not quantized."""
    target_name: str
    target: Target
    wanted: Format | None
    """The format that the user requests."""
    has_base: bool
    """There is a base for the target, which names an image."""

    @property
    def model_type(self) -> str | None:
        """The type by which transformers chooses its class, if it is known."""
        return self.shape.model_type if self.shape else None

    @property
    def terms(self) -> Terms:
        """The terms of `compare`: one request at the usual context."""
        context = min(_USUAL_CONTEXT, self.shape.max_position) if self.shape else _USUAL_CONTEXT
        return Terms(self.target, self.target_name, "trtllm", 1, context, "bf16")


def propose(new: NewRecipe, catalog: Lookup, written: Callable[[Candidate], Recipe]) -> Proposal:
    """Find the first candidate that works. One whose image has listed the model goes first.

    Args:
        new: The model, target and wishes.
        catalog: Images and targets.
        written: Makes the complete recipe of a candidate.

    Raises:
        PlanRefusedError: None works. Has the refusals of the first one, or the refusal to quantize again.
    """
    _insist_on_published(new)
    passed_over: dict[Format, Refusal] = {}
    first: tuple[Refusal, ...] = ()
    for name, methods in _ways(new):
        row = _row(new, name, methods)
        unlisted: Proposal | None = None
        for candidate in _candidates(new, name, methods, catalog):
            recipe = written(candidate)
            refused = _refused(new, recipe, catalog)
            if not refused and (row is None or row.figures.fits):
                proposal = Proposal(candidate, recipe, row, dict(passed_over))
                if has_listed(catalog.image(recipe.image), new.architecture, new.model_type):
                    return proposal
                unlisted = unlisted or proposal
                continue
            refused = refused or _does_not_fit(row)
            first = first or refused
            passed_over.setdefault(name, refused[0])
        if unlisted is not None:
            return unlisted
    raise PlanRefusedError(first)


def _insist_on_published(new: NewRecipe) -> None:
    """Refuse to quantize a quantized model again, unless our quantizer decodes it."""
    if new.declared is None or new.wanted is None or is_decoded(new.declared):
        return
    published = published_format(new.shape, new.declared)
    if new.wanted != published:
        message = f"{new.name} is published in {published}; making {new.wanted} of it only loses precision"
        hint = "leave --format out, or name the repository of the unquantized model"
        raise PlanRefusedError((Refusal("REQUANTIZE", message, hint),))


def _ways(new: NewRecipe) -> Iterator[tuple[Format, tuple[Method, ...]]]:
    """Yield formats with the methods that make them: a published one as it is, then what can be made."""
    if new.declared is not None:
        published = published_format(new.shape, new.declared)
        if new.wanted in (None, published):
            yield published, ("none",)
        if not is_decoded(new.declared):
            return
    for name in _formats(new):
        if methods := _methods(new, name):
            yield name, methods


def _formats(new: NewRecipe) -> tuple[Format, ...]:
    if new.wanted is not None:
        return (new.wanted,)
    usual: Format = next(name for name in get_args(Format) if name == usual_format(new.architecture, new.terms))
    return (usual, *NEAREST[usual])


def _row(new: NewRecipe, name: Format, methods: tuple[Method, ...]) -> Row | None:
    """Ask `compare` about a format."""
    if new.shape is None:
        return None
    schemes: dict[str, Scheme] = {name: new.declared} if new.declared and methods == ("none",) else {}
    return compare_one(Subject(new.name, new.shape, "", schemes), new.terms, name)


def _candidates(new: NewRecipe, name: Format, methods: tuple[Method, ...], catalog: Lookup) -> Iterator[Candidate]:
    """Yield methods, our own first, and images: that of the base, then those of the catalogue in order."""
    architecture = new.target.architecture
    serving = [key for key, image in catalog.images.items() if image.serves]
    fitting = [key for key in serving if architecture in catalog.images[key].architectures]
    images = (*((None,) if new.has_base else ()), *(fitting or serving))
    for method in methods:
        for image in images:
            quantizer = _quantizer(catalog, architecture) if method == "modelopt" else None
            yield Candidate(name, method, image, quantizer)


def _methods(new: NewRecipe, name: Format) -> tuple[Method, ...]:
    """Return the methods that make a format, our own first; of a model that is published quantized ours alone."""
    if name == "bf16":
        return () if new.declared else ("none",)
    model_type, runs_model = new.shape.model_type if new.shape else None, name != SINGLE_FORMATS[0]
    ours = name in SINGLE_FORMATS and not reason(new.architecture, model_type, name, runs_model=runs_model)
    other: tuple[Method, ...] = () if new.declared else ("modelopt",)
    return ("onepass", *other) if ours else other


def _quantizer(catalog: Lookup, architecture: str) -> str | None:
    """Return the first image of the catalogue that has ModelOpt's quantizer."""
    able = (
        key
        for key, image in catalog.images.items()
        if image.has("hf_ptq.py") and not image.serves and architecture in image.architectures
    )
    return next(able, None)


def _refused(new: NewRecipe, recipe: Recipe, catalog: Lookup) -> tuple[Refusal, ...]:
    """Apply the rules of a plan, and one that needs more than the recipe: the layout of FP8 scales."""
    sizes = Sizes(new.shape, new.declared, new.name) if new.shape else None
    found = refusals(rule_input(recipe, catalog, lambda _: sizes))
    gpu = catalog.target(recipe.target).gpu
    blocks = new.declared is not None and new.declared.algorithm == "FP8_BLOCK"
    as_it_is = recipe.quantization.method == "none"
    if gpu is None or not (blocks and as_it_is) or has_block_scales(recipe):
        return found
    runs = "fp8_block_scale" in catalog.image(recipe.image).formats.get(f"sm_{gpu.sm}", ())
    return found if runs else (*found, block_scales_refused(recipe.image, gpu.sm))


def _does_not_fit(row: Row | None) -> tuple[Refusal, ...]:
    limit = row.figures.limits[0] if row and row.figures.limits else "it does not fit"
    return (Refusal("DOES_NOT_FIT", limit, "use --target with a larger machine, or a smaller model"),)
