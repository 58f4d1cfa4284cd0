"""Defines the input of the rules: a recipe's model on its target, and the catalogue's entries for all that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from orchestrator.catalog.image import Image, Tool
from orchestrator.catalog.target import Target
from orchestrator.planner.known import Find, has_block_scales, in_catalogue
from orchestrator.planner.model_on_target import ModelOnTarget, model_on_target
from orchestrator.planner.server_memory import cache_memory
from orchestrator.recipe.model import Quantization, Recipe
from orchestrator.serving.runtimes import runtime_of
from orchestrator.serving.server import Options, Runtime, Server
from orchestrator.values import frozen


class Lookup(Protocol):
    """The part of the catalogue that a plan needs."""

    @property
    def images(self) -> Mapping[str, Image]:
        """Every image by its short name."""

    @property
    def targets(self) -> Mapping[str, Target]:
        """Every target by its name."""

    def image(self, name: str) -> Image:
        """Find an image, or raise."""

    def target(self, name: str) -> Target:
        """Find a target, or raise."""

    def options(self, image: Image, tool: Tool) -> Options:
        """Return the options of an image's tool."""


@frozen
class RuleInput:
    """A recipe's model on its target, and its images."""

    model: ModelOnTarget
    image: Image
    """The image that converts, builds, checks and serves."""
    quantizer: Image
    """The image that quantizes; the catalogue's entry of the same name if no other is needed."""
    quantizer_name: str
    images: Mapping[str, Image]
    """All images, to suggest another one."""
    targets: Mapping[str, Target]
    options: Callable[[Image, Tool], Options]
    find: Find
    """Looks up the sizes of a model."""

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.model.recipe

    @property
    def target(self) -> Target:
        """Its machine."""
        return self.model.target

    @property
    def quantization(self) -> Quantization:
        """The format of the weights."""
        return self.recipe.quantization

    @property
    def sm(self) -> int | None:
        """Compute capability without the point; None on a machine without kernels."""
        return self.target.gpu.sm if self.target.gpu else None

    @property
    def runtime(self) -> Runtime:
        """The runtime of the image that serves."""
        return runtime_of(self.image)

    @property
    def server(self) -> Server:
        """The recipe as its runtime sees it."""
        options = self.options(self.image, self.image.server) if self.image.serves else {}
        return Server(self.recipe, self.image, self.target, options, lambda: cache_memory(self.model))

    @property
    def weight_format(self) -> str:
        """The format that the kernels see. For FP8 it depends on the layout of the scales.

        Of several formats, the one that the fewest GPUs have kernels for.
        """
        if self.quantization.format == "auto":
            return "nvfp4"
        return "fp8_block_scale" if has_block_scales(self.recipe) else self.quantization.format

    def images_where(self, holds: Callable[[Image], bool]) -> tuple[str, ...]:
        """Name the images that serve with the same runtime on the processor and fulfil a condition.

        They are in the order of the file.
        """
        return tuple(
            name
            for name, image in self.images.items()
            if image.serves
            and image.runtime == self.image.runtime
            and self.target.architecture in image.architectures
            and holds(image)
        )

    def able(self, holds: Callable[[Image, Options], bool]) -> tuple[str, ...]:
        """Name the same images by a condition on their server's options."""
        return self.images_where(lambda image: holds(image, self.options(image, image.server)))


def rule_input(recipe: Recipe, catalog: Lookup, find: Find = in_catalogue) -> RuleInput:
    """Look up what a recipe names.

    Args:
        recipe: The recipe.
        catalog: Images and targets.
        find: Looks up the sizes of its models.

    Raises:
        TargetUnknownError: No target of that name.
        ImageUnknownError: No image of one of its names.
    """
    target, image = catalog.target(recipe.target), catalog.image(recipe.image)
    quantizer_name = _quantizer_name(recipe, target, catalog)
    return RuleInput(
        model=model_on_target(recipe, target, find, runtime_of(image).COSTS),
        image=image,
        quantizer=catalog.image(quantizer_name),
        quantizer_name=quantizer_name,
        images=catalog.images,
        targets=catalog.targets,
        options=catalog.options,
        find=find,
    )


def _quantizer_name(recipe: Recipe, target: Target, catalog: Lookup) -> str:
    """Return the recipe's quantizer, else the catalogue's first with hf_ptq.py; for others the recipe's image."""
    if recipe.quantization.method != "modelopt":
        return recipe.image
    if recipe.quantization.image is not None:
        return recipe.quantization.image
    fitting = (
        name
        for name, image in catalog.images.items()
        if image.has("hf_ptq.py") and target.architecture in image.architectures
    )
    return next(fitting, recipe.image)
